"""Search the collection of ``make demo`` in several languages and across languages, with m3 and with BM25.

``python examples/demo.py [STORE]``: for m3, every question is one request, and the database fuses the dense, sparse and
multi-vector scores. BM25 has the same documents in memory. The ids say which documents answer.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3_vdb import HybridIndex
from m3_vdb.evaluation.bm25 import BM25
from m3_vdb.ingest import read_jsonl
from m3_vdb.types import Document

FORMULA_BAR, INVALID_DATA, EDUCATION = "/scalc/01/03090000", "/scalc/01/06030800", "/26"
QUESTIONS = [  # language, question, language of the documents, end of the ids that answer
    ("English", "How do I hide the formula bar?", None, FORMULA_BAR),
    ("German", "Wie blende ich die Rechenleiste aus?", "de", FORMULA_BAR),
    ("Chinese", "标记无效数据", "zh-cn", INVALID_DATA),
    ("Japanese", "数式バーを表示しない", "ja", FORMULA_BAR),
    ("Russian", "право на образование", None, EDUCATION),
    ("Arabic", "الحق في التعليم", None, EDUCATION),
    ("Japanese → English", "無効なデータに印を付ける", "en", INVALID_DATA),
    ("French → Hindi", "Toute personne a droit à l'éducation", "hi", EDUCATION),
]
PLACES = 10
CORPUS = Path(__file__).parents[1] / "tests/fixtures/multilingual.jsonl"
T = TypeVar("T")


def timed(search: Callable[[], T]) -> tuple[T, float]:
    """What a search finds, and its seconds the second time: the first prepares what later ones use."""
    search()
    begun = time.perf_counter()
    return search(), time.perf_counter() - begun


def verdict(ids: list[str], answer: str, seconds: float) -> Text:
    """Whether the first document answers, or where one does, and the time."""
    place = next((place for place, id in enumerate(ids, 1) if id.endswith(answer)), None)
    words = Text("✗ missed" if place is None else f"✗ place {place}", "red") if place != 1 else Text("✓ found", "green")
    return words.append(f"\n{1000 * seconds:.2f} ms", "dim")


store = sys.argv[1] if len(sys.argv) > 1 else "build/demo.qdrant"
documents = [item for item in read_jsonl(CORPUS) if isinstance(item, Document)]
bm25 = BM25(document.content for document in documents)
table = Table("question", "m3's answer", "m3", "BM25", box=SIMPLE_HEAD, pad_edge=False)
table.columns[0].min_width = max(cell_len(question) for _, question, _, _ in QUESTIONS)
table.columns[1].overflow = "fold"  # text without spaces (Chinese, Japanese) is one long word
table.columns[2].no_wrap = table.columns[3].no_wrap = True
with HybridIndex.open(store, create=False) as index:
    for language, question, lang, answer in QUESTIONS:
        hits, ours = timed(partial(index.query, question, limit=PLACES, filter={"lang": lang} if lang else None))
        ranked, theirs = timed(partial(bm25.search, question, len(documents)))
        found = [documents[i].id for i, _ in ranked if lang in (None, documents[i].payload["lang"])][:PLACES]
        best = hits[0].document
        table.add_row(
            f"{language}\n{question}",
            f"{best.payload['lang']}\n{best.title}",
            verdict([hit.document.id for hit in hits], answer, ours),
            verdict(found, answer, theirs),
        )
console = Console(highlight=False)
console.print(table)
console.print("found: the first document answers · m3's time includes encoding the question", style="dim")
program = str(Path(sys.executable).with_name("m3-vdb"))
program = min(os.path.relpath(program), program, key=len)
console.print(f"Search in a browser: {program} serve --store {store}", soft_wrap=True)
