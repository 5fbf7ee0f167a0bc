"""LlamaIndex over m3-vdb: questions about help pages in many languages: ``python examples/llama_index_search.py``."""

import json
from pathlib import Path

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from m3_vdb import HybridIndex
from m3_vdb.integrations.llama_index import M3VectorStore

PAGES = Path(__file__).parents[1] / "tests/fixtures/multilingual.jsonl"
QUESTIONS = ("Wie verbinde ich Zellen einer Tabelle?", "hide the formula bar", "insérer une note de bas de page")

rows = [json.loads(line) for line in PAGES.read_text(encoding="utf-8").splitlines()]
pages = [
    TextNode(
        id_=row["id"],
        text=row["text"],
        metadata={"title": row["title"], "lang": row["lang"]},
        excluded_embed_metadata_keys=["lang"],
        metadata_template="{value}",  # the title is encoded without its name
    )
    for row in rows
    if row["source"] == "libreoffice" and row["lang"] in ("de", "en", "fr", "zh-cn")
]
store = M3VectorStore(HybridIndex.open("memory://"))
index = VectorStoreIndex(
    pages, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=store.embed_model
)
for question in QUESTIONS:
    print(question)
    for lang in ("en", "zh-cn"):
        filters = MetadataFilters(filters=[MetadataFilter(key="lang", value=lang)])
        (found,) = index.as_retriever(similarity_top_k=1, filters=filters).retrieve(question)
        print(f"  {found.node_id}: {found.node.metadata['title']}")
store.close()
