"""Store and search in a local file with milvus-lite, without a server: ``python examples/milvus_file.py [FILE]``.

Needs the extra ``milvus``. The "file" is a folder; its name must end with ``.milvus.db``.
"""

import sys

from m3_vdb import Document, HybridIndex
from m3_vdb.stores.milvus import MilvusStore

DOCUMENTS = [
    Document("a", "Dense vectors find what means the same.", payload={"kind": "dense", "year": 2019}),
    Document("b", "Sparse vectors find the same words.", payload={"kind": "sparse", "year": 2021}),
    Document("c", "Multi-vectors compare word by word.", payload={"kind": "multi_vector", "year": 2020}),
]

with HybridIndex.open(sys.argv[1] if len(sys.argv) > 1 else "./notes.milvus.db") as index:
    store = index.store
    assert isinstance(store, MilvusStore)
    print(store.capabilities)  # what the engine supports
    index.add(DOCUMENTS)
    store.optimize()  # flush and index: queries become several times faster
    for hit in index.query("Which vectors match exact words?", weights="default", explain=True):
        print(f"{hit.score:.3f}  {hit.document.text}  {hit.parts}")
    print(index.query("exact words", filter={"year": {"$gte": 2020}, "kind": {"$ne": "sparse"}})[0].document.id)
