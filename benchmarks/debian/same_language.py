"""The same-language task: queries and documents of one language, in BEIR's layout.

``<out>/same_language/<lang>/`` holds ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``,
``text``) and ``qrels/test.tsv``. Titles are empty everywhere: a title is some document's query, and a corpus in
which only the other documents had one would show which documents are asked for.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from .pool import Pool, queries_of
from .records import Record, digest

MAX_QUERIES = 500
MIN_QUERIES = 100
"""Below this many queries a mean moves by a point when three queries change their mind."""

MAX_DOCUMENTS = 10_000


def select_queries(pool: Pool, limit: int = MAX_QUERIES) -> list[tuple[Record, str]]:
    """Held-out queries, the sources taking turns, so that the largest source does not fill the test alone."""
    by_source: dict[str, list[tuple[Record, str]]] = {}
    for record, query in queries_of(pool, test=True):
        by_source.setdefault(record.source, []).append((record, query))
    turns = chain.from_iterable(zip_longest(*(by_source[name] for name in sorted(by_source))))
    return [turn for turn in turns if turn is not None][:limit]


def select_documents(pool: Pool, judged: Iterable[int], limit: int = MAX_DOCUMENTS) -> list[Record]:
    """All judged documents, and others by hash until there are ``limit``, ordered by id."""
    needed = set(judged)
    others = sorted(set(range(len(pool.records))) - needed, key=lambda i: digest("fill", pool.records[i].concept_id))
    chosen = sorted(needed | set(others[: max(0, limit - len(needed))]))
    return [pool.records[position] for position in chosen]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write one JSON object per line, readable in every script, and return how many.

    The file appears when it is complete: somebody may be reading the one of the last run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    partial.replace(path)
    return count


def _query_id(record: Record) -> str:
    # Never equal to a document id: BEIR's evaluator drops a hit that has its query's id.
    return f"q-{record.concept_id}"


def write(pools: Sequence[Pool], out: Path) -> dict[str, dict[str, int]]:
    """Write the collection of every language with enough queries; return the counts by language."""
    counts: dict[str, dict[str, int]] = {}
    for pool in pools:
        queries = select_queries(pool)
        if len(queries) < MIN_QUERIES:
            continue
        relevant = {_query_id(record): pool.relevant(query) for record, query in queries}
        documents = select_documents(pool, chain.from_iterable(relevant.values()))
        folder = out / "same_language" / pool.lang
        corpus = [{"_id": doc.concept_id, "title": "", "text": doc.text} for doc in documents]
        write_jsonl(folder / "corpus.jsonl", corpus)
        write_jsonl(folder / "queries.jsonl", [{"_id": _query_id(record), "text": text} for record, text in queries])
        lines = [
            f"{query}\t{pool.records[position].concept_id}\t1\n"
            for query, positions in relevant.items()
            for position in positions
        ]
        (folder / "qrels").mkdir(exist_ok=True)
        text = "query-id\tcorpus-id\tscore\n" + "".join(lines)
        (folder / "qrels" / "test.tsv").write_text(text, encoding="utf-8", newline="\n")
        counts[pool.lang] = {"documents": len(documents), "queries": len(queries), "judgements": len(lines)}
    return counts
