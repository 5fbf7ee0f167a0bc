"""Store and search on a Milvus server: ``docker compose up -d milvus``, then ``python examples/milvus_docker.py``.

Set ``MILVUS_URI`` for another server and ``MILVUS_TOKEN`` for its token. A server of version 2.6.4 or newer keeps all
three vectors in one collection and adds the three scores itself.
"""

import os

from m3_vdb import Document, HybridIndex
from m3_vdb.stores.milvus import MilvusStore

url = os.environ.get("MILVUS_URI", "milvus://localhost:19530")
with HybridIndex.open(f"{url}/m3_vdb_example") as index:
    store = index.store
    assert isinstance(store, MilvusStore)
    print(store.capabilities)  # what this server supports
    index.add(
        [
            Document("a", "Dense vectors find what means the same.", payload={"kind": "dense"}),
            Document("b", "Sparse vectors find the same words.", payload={"kind": "sparse"}),
            Document("c", "Multi-vectors compare word by word.", payload={"kind": "multi_vector"}),
        ]
    )
    for hit in index.query("Which vectors match exact words?"):
        print(f"{hit.score:.3f}  {hit.document.text}")
    print(index.query("exact words", filter={"kind": ["dense", "multi_vector"]}, limit=1)[0].document.id)
