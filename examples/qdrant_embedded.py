"""Embedded Qdrant, without a server: filters, scores explained, export to a Parquet file and import.

``python examples/qdrant_embedded.py``; it works in a temporary folder.
"""

import tempfile
from pathlib import Path

from m3_vdb import CollectionOptions, Document, HybridIndex, M3EmbeddingFunction, open_store
from m3_vdb.stores.transfer import export_parquet, import_parquet

DOCUMENTS = [
    Document("bar", "Hide the formula bar in the menu View.", payload={"lang": "en", "year": 2024, "tags": ["view"]}),
    Document("leiste", "Die Rechenleiste im Menü Ansicht ausblenden.", payload={"lang": "de", "year": 2021}),
    Document("print", "Print a range of cells on one page.", payload={"lang": "en", "year": 2019}),
]

embed = M3EmbeddingFunction()
options = CollectionOptions(storage="half", indexes={"year": "integer"}, tenant="lang")
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder)
    with HybridIndex.open(path / "a.qdrant", model=embed, options=options) as index:
        index.add(DOCUMENTS)
        for name, condition in {
            "all": None,
            "since 2020": {"year": {"$gte": 2020}},
            "English, or tagged": {"$or": [{"lang": "en"}, {"tags": {"$exists": True}}]},
            "not from 2019 to 2021": {"$not": {"year": {"$gte": 2019, "$lte": 2021}}},
        }.items():
            hits = index.query("hide the formula bar", filter=condition, explain=True)
            print(f"{name}: {', '.join(f'{hit.document.id} {hit.score:.3f}' for hit in hits)}")
            assert all(hit.parts is not None for hit in hits)
    # Copy the collection through a file, without encoding again.
    with open_store(path / "a.qdrant", embed) as store:
        print(
            f"{export_parquet(store, path / 'notes.parquet')} documents in a file, {store.disk_bytes():,} bytes on disk"
        )
    with open_store(path / "b.qdrant", embed) as store:
        print(f"{import_parquet(path / 'notes.parquet', store)} documents back")
