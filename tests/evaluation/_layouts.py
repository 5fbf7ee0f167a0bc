"""Miniatures of every layout on disk."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DOCUMENTS = {f"d{i}": f"text {i}" for i in range(6)}


def write(path: Path, text: str) -> Path:
    """UTF-8 text, compressed if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """One JSON object a line."""
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def beir(folder: Path, *, end: str = "", split: str = "test", **rows: Any) -> Path:
    """Six documents, two judged queries, one that is not judged."""
    corpus = [{"_id": name, "title": "", "text": text} for name, text in DOCUMENTS.items()]
    queries = [{"_id": name, "text": f"query {name}"} for name in ("q1", "q2", "unjudged")]
    write_rows(folder / f"corpus.jsonl{end}", rows.get("corpus", corpus))
    write_rows(folder / f"queries.jsonl{end}", rows.get("queries", queries))
    lines = rows.get("qrels", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td3\t0\n")
    write(folder / "qrels" / f"{split}.tsv{end}", lines)
    return folder


def miracl(topics: Path, corpus: Path, lang: str, *, split: str = "dev") -> Path:
    """Two queries, three passages in two files."""
    name = f"miracl-v1.0-{lang}"
    write(topics / name / "topics" / f"topics.{name}-{split}.tsv", f"0#0\tquery {lang} 0\n1#0\tquery {lang} 1\n")
    write(topics / name / "qrels" / f"qrels.{name}-{split}.tsv", "0#0\tQ0\t7#0\t1\n0#0\tQ0\t7#1\t0\n1#0\tQ0\t8#0\t1\n")
    place = corpus / f"miracl-corpus-v1.0-{lang}"
    write_rows(
        place / "docs-0.jsonl.gz", [{"docid": f"7#{i}", "title": "Title", "text": f"{lang} {i}"} for i in (0, 1)]
    )
    write_rows(place / "docs-1.jsonl.gz", [{"docid": "8#0", "title": "Other", "text": lang}])
    return topics


def mldr(folder: Path, lang: str, *, split: str = "test") -> Path:
    """Two queries, three documents."""

    def passages(*names: str) -> list[dict[str, str]]:
        return [{"docid": f"doc-{lang}-{name}", "text": f"long {name}"} for name in names]

    place = folder / f"mldr-v1.0-{lang}"
    rows = [
        {"query_id": f"q-{lang}-1", "query": "eins", "positive_passages": passages("a"), "negative_passages": []},
        {
            "query_id": f"q-{lang}-2",
            "query": "zwei",
            "positive_passages": passages("b"),
            "negative_passages": passages("c"),
        },
    ]
    write_rows(place / f"{split}.jsonl.gz", rows)
    write_rows(place / "corpus.jsonl.gz", passages("a", "b", "c"))
    return folder


def question(number: int, *answers: tuple[str, str | None, list[str] | None], langs: str = "en de") -> dict[str, Any]:
    """A row of MKQA; an answer is (type, text, aliases)."""
    english = [
        {"type": kind, "text": text, "entity": "Q1"} | ({"aliases": aliases} if aliases is not None else {})
        for kind, text, aliases in answers
    ]
    return {
        "example_id": number,
        "query": "unread",
        "queries": {lang: f"{lang} {number}" for lang in langs.split()},
        "answers": {"en": english, "de": [{"type": "entity", "text": "nur deutsch"}]},
    }


QUESTIONS = [
    question(-11, ("entity", "Dave Edmunds", ["D. Edmunds"])),
    question(12, ("unanswerable", None, None)),
    question(13, ("binary", "yes", None)),
    question(14, ("long_answer", None, [])),
    question(15, ("date", "1970", None), ("number", "70", [])),
    question(16, ("entity", "Rome", None), ("long_answer", None, None)),
    question(17, ("unanswerable", None, None), ("short_phrase", "in Rome", None)),
]
"""Stay: -11, 15 and 17."""
NQ = [
    {"_id": "doc0", "title": "I Hear You Knocking", "text": "A hit for Dave Edmunds – in 1970."},
    {"_id": "doc1", "title": "Rome", "text": "It’s IN ROME."},
    {"_id": "doc2", "title": "", "text": "Nothing of that."},
    {"_id": "doc3", "title": "", "text": "Nothing either."},
]


def mkqa(folder: Path, *, corpus: str = "corpus.jsonl.gz") -> Path:
    """Seven questions in two languages, three of which stay; four passages."""
    write_rows(folder / "mkqa.jsonl.gz", QUESTIONS)
    write_rows(folder / corpus, NQ)
    return folder


TOPICS = """<top>

<num> Number: 301
<title> International
Organized Crime &amp; more

<desc> Description:
Identify organizations.
</top>
<TOP><num>302</num><title>Topic: Polio</title></TOP>
"""
SGML = """<DOC>
<DOCNO> FT-1 </DOCNO>
<HEADLINE>
 A   Headline </HEADLINE>
<TEXT>
<P>Fish &amp; chips, 1 < 2.</P>
<!-- not this -->

Second.
</TEXT>
<TEXT>Third.</TEXT>
</DOC>
<doc><docno>FT-2</docno>no <b>text</b> element</doc>
"""


def trec(folder: Path, *, end: str = "") -> Path:
    """Two topics, two documents."""
    write(folder / f"topics.txt{end}", TOPICS)
    write(folder / f"qrels.txt{end}", "301 0 FT-1 1\n302  0\tFT-2 2\n302 0 FT-1 -1\n")
    write(folder / f"corpus.trec{end}", SGML)
    return folder


def flagembedding(folder: Path, *, split: str = "test") -> Path:
    """Two documents, one query."""
    write_rows(folder / "corpus.jsonl", [{"id": "a", "title": "T", "text": "x"}, {"id": "b", "text": "y"}])
    write_rows(folder / f"{split}_queries.jsonl", [{"id": "q", "text": "query"}, {"id": "r", "text": "not judged"}])
    write_rows(
        folder / f"{split}_qrels.jsonl",
        [{"qid": "q", "docid": "a", "relevance": 1}, {"qid": "q", "docid": "b", "relevance": 0}],
    )
    return folder
