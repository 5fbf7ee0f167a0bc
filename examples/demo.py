"""Search the collection of ``make demo`` in several languages, and across languages.

``python examples/demo.py [STORE]``: every question is one request, and the database fuses the dense, sparse and
multi-vector scores.
"""

import sys

from rich.console import Console
from rich.table import Table

from m3_vdb import HybridIndex

QUESTIONS = [
    ("English", "How do I hide the formula bar?", None),
    ("German", "Wie blende ich die Rechenleiste aus?", {"lang": "de"}),
    ("Chinese", "标记无效数据", {"lang": "zh-cn"}),
    ("Japanese", "数式バーを表示しない", {"lang": "ja"}),
    ("Russian", "право на образование", None),
    ("Arabic", "الحق في التعليم", None),
    ("Japanese → English", "無効なデータに印を付ける", {"lang": "en"}),
    ("French → Hindi", "Toute personne a droit à l'éducation", {"lang": "hi"}),
]

store = sys.argv[1] if len(sys.argv) > 1 else "build/demo.qdrant"
table = Table("question", "score", "dense", "sparse", "multi", title="score = dense + 0.3·sparse + multi")
table.add_column("best document", overflow="fold")  # text without spaces (Chinese, Japanese) is one long word
table.columns[0].overflow = "fold"
with HybridIndex.open(store, create=False) as index:
    for language, question, condition in QUESTIONS:
        hit = index.query(question, limit=1, filter=condition, explain=True)[0]
        assert hit.parts is not None
        parts = (hit.parts.dense, hit.parts.sparse, hit.parts.multi_vector)
        text = " ".join(f"{hit.document.title} – {hit.document.text}".split())
        found = f"[{hit.document.payload['lang']}] {text[:110]}…"
        table.add_row(f"{language}\n{question}", f"{hit.score:.3f}", *(f"{part:.3f}" for part in parts), found)
Console().print(table, markup=False)
