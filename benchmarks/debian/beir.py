"""Writes collections in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv``, ``qrels/dev.tsv``.

Both splits share the corpus and the file of queries; the qrels say which query belongs to which. Titles are empty
everywhere: a title is some document's query, and a corpus in which only the other documents had one would show which
documents are asked for.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .records import HELD_OUT, Side


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a collection."""

    identifier: str
    lang: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A query and the ids of the documents that answer it.

    Its own id never equals a document's: BEIR's evaluator drops a hit that has its query's id.
    """

    identifier: str
    lang: str
    text: str
    relevant: tuple[str, ...]


Queries = Mapping[Side, Sequence[Query]]
Counts = dict[str, int]


def write_text(path: Path, parts: Iterable[str]) -> None:
    """Write a text file that appears when it is complete: somebody may be reading the one of the last run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(parts)
    partial.replace(path)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write one JSON object per line, readable in every script, and return how many."""
    count = 0

    def lines() -> Iterable[str]:
        nonlocal count
        for row in rows:
            count += 1
            yield json.dumps(row, ensure_ascii=False) + "\n"

    write_text(path, lines())
    return count


def write_collection(folder: Path, documents: Sequence[Document], queries: Queries) -> Counts:
    """Write one collection and return its counts."""
    write_jsonl(
        folder / "corpus.jsonl",
        ({"_id": d.identifier, "title": "", "text": d.text, "metadata": {"lang": d.lang}} for d in documents),
    )
    write_jsonl(
        folder / "queries.jsonl",
        (
            {"_id": q.identifier, "text": q.text, "metadata": {"lang": q.lang}}
            for side in HELD_OUT
            for q in queries.get(side, ())
        ),
    )
    counts = {"documents": len(documents)}
    for side in HELD_OUT:
        judged = [f"{q.identifier}\t{name}\t1\n" for q in queries.get(side, ()) for name in q.relevant]
        if judged:
            write_text(folder / "qrels" / f"{side}.tsv", ["query-id\tcorpus-id\tscore\n", *judged])
            counts |= {f"{side}_queries": len(queries[side]), f"{side}_judgements": len(judged)}
    return counts
