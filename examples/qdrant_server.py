"""The same on a Qdrant server: ``docker compose up -d qdrant`` and then ``python examples/qdrant_server.py``.

``QDRANT_URL`` names another server, ``QDRANT_API_KEY`` holds its key.
"""

import os

from m3_vdb import PRESETS, Document, HybridIndex, M3EmbeddingFunction, open_store

url = os.environ.get("QDRANT_URL", "qdrant://localhost:6333")
embed = M3EmbeddingFunction()
with HybridIndex(embed, open_store(f"{url}/m3_vdb_example", identity=embed.identity)) as index:
    index.add(
        [
            Document("a", "Dense vectors find what means the same.", payload={"kind": "dense"}),
            Document("b", "Sparse vectors find the same words.", payload={"kind": "sparse"}),
            Document("c", "Multi-vectors compare word by word.", payload={"kind": "multi_vector"}),
        ]
    )
    for hit in index.query("Which vectors match exact words?", weights=PRESETS["default"], explain=True):
        print(f"{hit.score:.3f}  {hit.document.text}  {hit.parts}")
    print(index.query("exact words", filter={"kind": ["dense", "multi_vector"]}, limit=1)[0].document.id)
