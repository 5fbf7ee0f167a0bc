"""Haystack: an indexing pipeline, a query pipeline that is written to YAML and read again, and three questions.

``python examples/haystack_search.py`` from a checkout (``pip install 'm3-vdb[haystack]'``).
"""

import json
from pathlib import Path

from m3_vdb.integrations.haystack import M3DocumentStore, M3Retriever  # before haystack: sends no usage data

from haystack import Document, Pipeline  # isort: skip
from haystack.components.writers import DocumentWriter  # isort: skip

CORPUS = Path("tests/fixtures/multilingual.jsonl")
QUESTIONS = {
    "How can I make text move?": {"field": "meta.lang", "operator": "==", "value": "en"},
    "Wie blende ich die Formelleiste aus?": None,
    "Who may not be held in slavery?": {"field": "meta.source", "operator": "in", "value": ["udhr"]},
}

rows = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
documents = [
    Document(id=row["id"], content=row["text"], meta={name: row[name] for name in ("lang", "title", "source")})
    for row in rows
    if row["lang"] in ("en", "de")
]
store = M3DocumentStore("memory://", meta_fields_to_embed=["title"])

indexing = Pipeline()
indexing.add_component("writer", DocumentWriter(store))
indexing.run({"writer": {"documents": documents}})

search = Pipeline()
search.add_component("retriever", M3Retriever(store, top_k=1))
for question, condition in QUESTIONS.items():
    (best,) = search.run({"retriever": {"query": question, "filters": condition}})["retriever"]["documents"]
    print(f"{question}\n  {best.score:.3f}  {best.id}  {best.meta['title']}")

written = search.dumps()  # YAML; a folder or a server in place of memory:// would keep the documents, too
Pipeline.loads(written, allowed_modules=["m3_vdb.*"])
