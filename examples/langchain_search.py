"""LangChain over m3-vdb: questions about help pages in many languages: ``python examples/langchain_search.py``."""

import json
from pathlib import Path

from langchain_core.documents import Document

from m3_vdb.integrations.langchain import M3Embeddings, M3VectorStore

PAGES = Path(__file__).parents[1] / "tests/fixtures/multilingual.jsonl"
QUESTIONS = ("Wie verbinde ich Zellen einer Tabelle?", "hide the formula bar", "insérer une note de bas de page")

rows = [json.loads(line) for line in PAGES.read_text(encoding="utf-8").splitlines()]
pages = [
    Document(id=row["id"], page_content=f"{row['title']}\n{row['text']}", metadata={"lang": row["lang"]})
    for row in rows
    if row["source"] == "libreoffice" and row["lang"] in ("de", "en", "fr", "zh-cn")
]
store = M3VectorStore.from_documents(pages, M3Embeddings())
for question in QUESTIONS:
    print(question)
    for lang in ("en", "zh-cn"):
        retriever = store.as_retriever(search_kwargs={"k": 1, "filter": {"lang": lang}})
        (page,) = retriever.invoke(question)
        print(f"  {page.id}: {page.page_content.splitlines()[0]}")
store.close()
