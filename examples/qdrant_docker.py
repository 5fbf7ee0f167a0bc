"""Store and search on a Qdrant server: ``docker compose up -d qdrant``, then ``python examples/qdrant_docker.py``.

Set ``QDRANT_URL`` for another server (``qdrant+https://…`` for TLS) and ``QDRANT_API_KEY`` for its key.
"""

import os

from m3_vdb import PRESETS, CollectionOptions, Document, HybridIndex
from m3_vdb.stores.qdrant.server import QdrantStore

url = os.environ.get("QDRANT_URL", "qdrant://localhost:6333")
options = CollectionOptions(storage="half", indexes={"words": "integer"}, tenant="kind", shard_number=2)
with HybridIndex.open(f"{url}/m3_vdb_example", options=options) as index:
    store = index.store
    assert isinstance(store, QdrantStore)
    print(store.capabilities)
    index.add(
        [
            Document("a", "Dense vectors find what means the same.", payload={"kind": "dense", "words": 7}),
            Document("b", "Sparse vectors find the same words.", payload={"kind": "sparse", "words": 6}),
            Document("c", "Multi-vectors compare word by word.", payload={"kind": "multi_vector", "words": 5}),
        ]
    )
    for hit in index.query("Which vectors match exact words?", weights=PRESETS["default"], explain=True):
        print(f"{hit.score:.3f}  {hit.document.text}  {hit.parts}")
    for hit in index.query("exact words", filter={"kind": {"$ne": "sparse"}, "words": {"$lt": 7}}):
        print(f"{hit.score:.3f}  {hit.document.text}")
