"""``python -m benchmarks.identifiers [COLLECTION]``: are documents found by their part numbers, with each ``source``?

The catalogue has five kinds of texts. All texts of a kind are alike but for an identifier and three plain details, so
that only the identifier tells them apart; half of the identifiers differ from their neighbour's in one character. They
lie in one store, so the kinds are distractors of each other. Fewer candidates stand for a larger collection: 20 of 300
alike are as few as 200 of 3,000. With COLLECTION (``long_documents`` of
``benchmarks.debian``) real ones follow: paragraphs of its English documents, and the options, paths, functions and
constants that stand in exactly one of them. Every identifier is asked for as it is and in a question; "exact words" has
bm25 as a fourth part. The last line is one JSON object.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import contains
from statistics import fmean, median
from typing import Annotated, Final

import typer

from benchmarks.common import text_table
from m3_vdb import PRESETS, CollectionOptions, M3EmbeddingFunction, bm25_query, open_store
from m3_vdb.evaluation import open_collections
from m3_vdb.evaluation.bm25 import BM25
from m3_vdb.stores import DEFAULT_CANDIDATES, VectorStore
from m3_vdb.stores.options import Source
from m3_vdb.types import Document, M3Embedding
from m3_vdb.weights import Weights

LIMIT: Final = 10
SOURCES: Final[tuple[Source, ...]] = ("dense", "union")
BATCH: Final = 512
WITH_EXACT_WORDS: Final = replace(PRESETS["default"], bm25=1.5)
"""1.5 is the best of the dev queries of ``benchmarks.exact_words`` (docs/log.md)."""
NEAR_ZERO: Final = 0.01
"""A lexical weight that finds nothing: words of content have .2 to .3."""
QUESTIONS: Final = {"alone": "{}", "in a question": "Where can I read about {}?"}


def _part(rng: random.Random) -> str:
    return f"{rng.choice('ABCDKMTX')}{rng.randint(1, 9)}-{rng.randint(1000, 9999)}-{rng.choice('ABCDEF')}"


def _error(rng: random.Random) -> str:
    return f"E{rng.randint(1000, 9999)}"


def _isbn(rng: random.Random) -> str:
    digits = f"9783{rng.randint(0, 10**8 - 1):08}"
    check = -sum(int(digit) * (3 if i % 2 else 1) for i, digit in enumerate(digits)) % 10
    return f"978-3-{digits[4:6]}-{digits[6:]}-{check}"


def _version(rng: random.Random) -> str:
    return (
        f"{rng.randint(0, 9)}.{rng.randint(0, 60)}.{rng.randint(0, 20)}-{rng.randint(1, 9)}+deb12u{rng.randint(1, 9)}"
    )


def _function(rng: random.Random) -> str:
    parts = (
        ("buf", "ctx", "dev", "fs", "gfx", "mem", "net", "rx", "tx", "usb"),
        ("alloc", "bind", "copy", "flush", "free", "init", "lock", "map", "read", "seek", "sync", "wait"),
        ("all", "async", "child", "entry", "locked", "nested", "node", "once", "page", "range", "raw", "user"),
    )
    return "_".join(rng.choice(words) for words in parts)


KINDS: Final[dict[str, tuple[Callable[[random.Random], str], str]]] = {
    "part number": (_part, "Angle bracket, steel, {colour}, part number {id}, {n} mm, for shelves up to {m} kg."),
    "error code": (_error, "Error {id}: the {colour} lamp blinks {n} times. Wait {m} seconds, then restart the pump."),
    "ISBN": (_isbn, "Paperback, {n} pages, {colour} cover, ISBN {id}. Usually dispatched within {m} hours."),
    "version": (_version, "This update to version {id} fixes {n} bugs; {m} packages are upgraded ({colour} channel)."),
    "function": (_function, "{id}() returns 0, or -1 after {n} retries. See chapter {m} of the {colour} book."),
}
COLOURS: Final = ("black", "blue", "green", "grey", "red", "white", "yellow")
REAL: Final = {
    "option": re.compile(r"(?<![\w-])--[a-z][a-z0-9]+(?:-[a-z0-9]+)+(?![\w-])"),
    "path": re.compile(r"(?<![\w/.])(?:/[a-z][\w.+-]*[\w]){2,}(?![\w/])"),
    "function": re.compile(r"(?<!\w)[a-z]+(?:_[a-z0-9]+)+(?=\()"),
    "constant": re.compile(r"(?<!\w)[A-Z]+(?:_[A-Z0-9]+)+(?!\w)"),
}


@dataclass(frozen=True, slots=True)
class TestSet:
    """Texts by id, and of each kind the identifiers that are asked for → the id of the one text that has them."""

    texts: Mapping[str, str]
    wanted: Mapping[str, Mapping[str, str]]


def _near(identifier: str, rng: random.Random) -> str:
    """The same with another digit (or another letter, where there is no digit)."""
    places = [i for i, char in enumerate(identifier) if char.isdigit()] or range(len(identifier) - 1)
    place = rng.choice(places)
    others = string.digits if identifier[place].isdigit() else string.ascii_lowercase
    return identifier[:place] + rng.choice(others.replace(identifier[place], "")) + identifier[place + 1 :]


def catalogue(per_kind: int, queries: int, *, seed: int = 17) -> TestSet:
    """The made texts; half of the identifiers are near misses of others."""
    rng, texts, wanted = random.Random(seed), dict[str, str](), dict[str, dict[str, str]]()
    for kind, (make, template) in KINDS.items():
        names = dict[str, None]()
        while len(names) < per_kind:
            last = next(reversed(names), "")
            names[_near(last, rng) if len(names) % 2 else make(rng)] = None
        ids = {name: f"{kind} {i}" for i, name in enumerate(names)}
        for name, i in ids.items():
            details = {"colour": rng.choice(COLOURS), "n": rng.randint(2, 900), "m": rng.randint(2, 90)}
            texts[i] = template.format(id=name, **details)
        wanted[kind] = {name: ids[name] for name in rng.sample(list(ids), min(queries, per_kind))}
    return TestSet(texts, wanted)


def from_collection(collection: str, documents: int, queries: int, *, seed: int = 17) -> TestSet:
    """Paragraphs of English documents, and identifiers that stand in one of them alone."""
    rng = random.Random(seed)
    (opened,) = open_collections(collection)
    found = dict[str, str]()
    for document in opened.documents:
        if document.payload.get("lang") == "en":
            lines = [line.strip() for line in document.text.splitlines()]
            found |= {f"{document.id}/{i}": line for i, line in enumerate(lines) if 40 <= len(line) <= 600}
    texts = dict(rng.sample(sorted(found.items()), min(documents, len(found))))
    wanted = dict[str, dict[str, str]]()
    for kind, pattern in REAL.items():
        places = [(name, i) for i, text in texts.items() for name in set(pattern.findall(text))]
        times = Counter(name for name, _ in places)
        once = [(name, i) for name, i in places if times[name] == 1 and sum(name in t for t in texts.values()) == 1]
        wanted[kind] = dict(rng.sample(once, min(queries, len(once))))
    return TestSet(texts, wanted)


def lexical_weights(embed: M3EmbeddingFunction, identifiers: list[str]) -> list[float]:
    """The lexical weight of every different piece of the identifiers, 0 for one that has none."""
    tokens = embed.tokenizer.encode(identifiers, max_length=64)
    found = list[float]()
    for row, one in enumerate(embed.encode_queries(identifiers)):
        assert one.sparse is not None
        weights = dict(zip(one.sparse.ids.tolist(), one.sparse.weights.tolist(), strict=True))
        pieces = tokens.ids[tokens.offsets[row] + 1 : tokens.offsets[row + 1] - 1]  # without <s> and </s>
        found += [weights.get(piece, 0.0) for piece in set(pieces.tolist())]
    return found


def searches(
    store: VectorStore, candidates: Sequence[int]
) -> dict[str, Callable[[M3Embedding], list[tuple[str, float]]]]:
    """Name → how to search."""
    return {
        **{
            f"{source} {most}": partial(store.rank, limit=min(LIMIT, most), candidates=most, source=source)
            for most in candidates
            for source in SOURCES
        },
        **{
            f"exact words {most}": partial(
                store.rank, limit=min(LIMIT, most), candidates=most, weights=WITH_EXACT_WORDS
            )
            for most in candidates
        },
        "sparse alone": partial(store.rank, limit=LIMIT, source="sparse", weights=Weights(0, 1, 0)),
    }


def measure(embed: M3EmbeddingFunction, test: TestSet, candidates: Sequence[int]) -> dict[str, dict[str, float]]:
    """Of each kind and form of query: the share whose document is found, by each way to search."""
    ids, results = list(test.texts), dict[str, dict[str, float]]()
    bm25 = BM25(test.texts.values())
    with open_store("memory://", embed, options=CollectionOptions(bm25=True)) as store:
        for start in range(0, len(ids), BATCH):
            batch = [Document(i, test.texts[i]) for i in ids[start : start + BATCH]]
            store.upsert(batch, embed.encode_documents([one.text for one in batch]))
        for kind, wanted in test.wanted.items():
            weights = lexical_weights(embed, list(wanted))
            for form, question in QUESTIONS.items():
                texts, answers = [question.format(name) for name in wanted], list(wanted.values())
                encoded = embed.encode_queries(texts)
                asked = [replace(one, bm25=bm25_query(text)) for one, text in zip(encoded, texts, strict=True)]
                ranked = {
                    name: [[i for i, _ in search(query)] for query in asked]
                    for name, search in searches(store, candidates).items()
                }
                ranked["BM25"] = [[ids[i] for i, _ in bm25.search(text, LIMIT)] for text in texts]
                results[f"{kind}, {form}"] = {
                    "queries": len(texts),
                    **{name: fmean(map(contains, hits, answers)) for name, hits in ranked.items()},
                    "median weight": median(weights),
                    "near zero": fmean(weight < NEAR_ZERO for weight in weights),
                }
    return results


def main(
    collection: Annotated[str | None, typer.Argument(help="Also real identifiers: long_documents.")] = None,
    per_kind: Annotated[int, typer.Option(help="Made texts of each kind.")] = 300,
    paragraphs: Annotated[int, typer.Option(help="Paragraphs of the collection.")] = 5000,
    queries: Annotated[int, typer.Option(help="Identifiers of each kind.")] = 50,
    candidates: Annotated[list[int] | None, typer.Option(help="Of each list. Default: 200 and 20.")] = None,
) -> None:
    """The share of identifiers whose document is among the first ten, for every source of candidates."""
    embed, most = M3EmbeddingFunction(), candidates or [DEFAULT_CANDIDATES, DEFAULT_CANDIDATES // 10]
    sets = {"catalogue": catalogue(per_kind, queries)}
    if collection is not None:
        sets["documentation"] = from_collection(collection, paragraphs, queries)
    results = dict[str, dict[str, dict[str, float]]]()
    for name, test in sets.items():
        found = results[name] = measure(embed, test, most)
        head, *_ = found.values()
        rows = [
            [kind, *(f"{value:.2f}" if value <= 1 else f"{value:g}" for value in of.values())]
            for kind, of in found.items()
        ]
        print(f"\n{name}, {len(test.texts):,} texts", text_table([[f"found@{LIMIT}", *head], *rows]), sep="\n")
    print(
        json.dumps(
            {"limit": LIMIT, "texts": {name: len(test.texts) for name, test in sets.items()}, "results": results}
        )
    )


if __name__ == "__main__":
    typer.run(main)
