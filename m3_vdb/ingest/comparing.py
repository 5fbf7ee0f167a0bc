"""Two models over the same documents: how far their best ten agree, how fast they are, and how good."""

from __future__ import annotations

import heapq
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from statistics import fmean, median
from typing import Final

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.errors import ConfigError
from m3_vdb.inputs import read_path
from m3_vdb.jsonl import read_objects
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import Document

QUERIES: Final = 100
"""Drawn from the collection."""
BEST: Final = 10
_LONGEST: Final = 200
"""Characters of a query."""
_SENTENCE: Final = re.compile(r"(?<=[.!?。！？])\s|\n")
_NDCG: Final = "nDCG@10"
Judged = Mapping[str, Mapping[str, int]]
"""Query → id → grade."""


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """One model, over its collection.

    Attributes:
        name: of the model.
        encode_ms: to encode one query, p50.
        search_ms: to search its best ten, p50.
        ndcg: nDCG@10, where relevant documents are known.
    """

    name: str
    encode_ms: float
    search_ms: float
    ndcg: float | None = None


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """Two models over the same documents.

    Attributes:
        queries: how many.
        new: the new model.
        old: the old one; None if it was not given.
        overlap: share of the best ten that both find, on average.
    """

    queries: int
    new: MeasuredModel
    old: MeasuredModel | None = None
    overlap: float | None = None


def compare_models(
    old: VectorStore, new: VectorStore, old_embed: Embedder | None, embed: Embedder, judged: Judged | None
) -> ModelComparison | None:
    """Ask both collections the same questions.

    Args:
        old: the collection of the old model.
        new: that of the new one, with the same documents.
        old_embed: the old model, if it is at hand.
        embed: the new one.
        judged: the queries, and what is relevant; None takes titles and first sentences of documents.

    Returns:
        The comparison; None of an empty collection.
    """
    queries = list(judged) if judged is not None else _drawn(new)
    if not queries:
        return None
    pairs = [(new, embed)] if old_embed is None else [(new, embed), (old, old_embed)]
    for store, model in pairs:  # the first call pays for more than itself
        _best(store, model, queries[0])
    runs = [[_best(store, model, query) for store, model in pairs] for query in queries]  # one after the other
    found = [
        MeasuredModel(
            model.identity.name,
            1000 * median(run[i][1] for run in runs),
            1000 * median(run[i][2] for run in runs),
            None if judged is None else _ndcg(judged, queries, [run[i][0] for run in runs]),
        )
        for i, (_, model) in enumerate(pairs)
    ]
    overlap = None
    if len(pairs) > 1:
        shares = [len({*a[0]} & {*b[0]}) / max(1, len(a[0]), len(b[0])) for a, b in runs]
        overlap = fmean(shares)
    return ModelComparison(len(queries), found[0], found[1] if len(found) > 1 else None, overlap)


def read_judged(path: str | os.PathLike[str]) -> Judged:
    """The queries of a file, with what is relevant for each.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
        DocumentError: a line is not JSON.
    """
    file, judged = read_path("judged", path), dict[str, dict[str, int]]()
    for number, fields in read_objects(file):
        query, relevant = fields.get("query"), fields.get("relevant")
        if isinstance(relevant, list):
            relevant = dict.fromkeys(map(str, relevant), 1)
        grades = relevant.values() if isinstance(relevant, dict) else [None]
        if not isinstance(query, str) or not all(type(grade) is int for grade in grades):
            raise ConfigError(
                f'{file}, line {number + 1}: expected {{"query": "…", "relevant": ["id", …]}} or {{"id": grade, …}}'
            )
        judged[query] = {str(id): grade for id, grade in (relevant or {}).items()}
    if not judged:
        raise ConfigError(f'{file} has no queries: expected lines {{"query": "…", "relevant": ["id", …]}}')
    return judged


def _drawn(store: VectorStore) -> list[str]:
    """Titles, or first sentences, of documents that are drawn by their ids: the same ones every time."""
    documents = (one for some in store.documents() for one in some if one.title.strip() or one.text.strip())
    drawn = heapq.nsmallest(QUERIES, documents, key=lambda one: blake2b(one.id.encode(), digest_size=8).digest())
    return list(dict.fromkeys(map(_question, drawn)))


def _question(document: Document) -> str:
    text = document.title.strip() or _SENTENCE.split(document.text.strip(), maxsplit=1)[0]
    return text[:_LONGEST]


def _best(store: VectorStore, embed: Embedder, query: str) -> tuple[list[str], float, float]:
    """The best ten, the seconds to encode and those to search."""
    began = time.perf_counter()
    (encoded,) = embed.encode_queries([query])
    middle = time.perf_counter()
    found = store.rank(encoded, limit=BEST)
    return [name for name, _ in found], middle - began, time.perf_counter() - middle


def _ndcg(judged: Judged, queries: Sequence[str], found: Sequence[Sequence[str]]) -> float:
    from m3_vdb.evaluation.metrics import measure  # noqa: PLC0415 - evaluation uses ingest, and the extra eval

    run = {query: {id: float(-rank) for rank, id in enumerate(ids)} for query, ids in zip(queries, found, strict=True)}
    return measure(run, {query: dict(grades) for query, grades in judged.items()}, [_NDCG])[_NDCG]
