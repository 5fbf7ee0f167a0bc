"""Weights of the M3 score: the best ones for dev queries, and how sensitive quality is to each.

A store gives the three raw scores of every candidate once; after that a set of weights costs one weighted sum and one
sort. Weights are chosen on dev queries and reported on others. Shapes: Q queries, k candidates of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.metrics import Run
from m3_vdb.evaluation.protocol import PARTS, Mode, Part
from m3_vdb.evaluation.results import Curve
from m3_vdb.marks import document_id
from m3_vdb.types import FloatArray
from m3_vdb.weights import Weights

STEPS: Final = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Weights that are tried for each score; the ranking depends on their ratios alone."""
FACTORS: Final = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Multiples of the used weight on a sensitivity curve."""
CUTOFF: Final = 10
"""k of nDCG@k."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The raw scores of the candidates of a collection's Q judged queries.

    Attributes:
        queries: their ids.
        groups: for each language, the rows of its queries.
        scores: float32 [3, Q, k] in the order of ``PARTS``; −∞ in the first where a query has fewer candidates, then 0.
        gains: float32 [Q, k], grade of each candidate; of passages the first of a document has it.
        ideal: float64 [Q], ``ideal_dcg``.
        firsts: intp [Q, k], of each candidate the first one of the same document; None if each is a document.
    """

    queries: tuple[str, ...]
    groups: tuple[NDArray[np.intp], ...]
    scores: FloatArray
    gains: FloatArray
    ideal: NDArray[np.float64]
    firsts: NDArray[np.intp] | None = None

    def ndcg(self, weights: Weights) -> NDArray[np.float64]:
        """nDCG@10 of every query, ranked by these weights: float64 [Q]."""
        return ndcg(self.fused(weights), self.gains, self.ideal)

    def fused(self, weights: Weights) -> FloatArray:
        """s_hybrid of every candidate: float32 [Q, k], −∞ where there is none.

        The best passage of a document stands in the place of its first one, the others are −∞.
        """
        missing = np.isneginf(self.scores[0])
        total = np.einsum("p,pqk->qk", np.array(three(weights), np.float32), np.where(missing, 0, self.scores))
        fused = np.where(missing, -np.inf, total).astype(np.float32)
        if self.firsts is None:
            return fused
        best = np.full_like(fused, -np.inf)
        np.maximum.at(best, (np.arange(len(fused))[:, None], self.firsts), fused)
        return best


def gather(components: Mapping[Part, Run], collection: Collection, *, passages: bool = False) -> Candidates:
    """Candidates from one ranking per score, each of all candidates; a part that is missing counts 0 everywhere.

    Candidates stand in descending order of their documents' ids: equal scores then rank as in every other figure
    (``metrics``).

    Args:
        components: score → query → candidate → value.
        collection: queries with judgements.
        passages: the candidates are passages (``m3_vdb.passages``).
    """
    document_of = document_id if passages else str
    queries, qrels = tuple(collection.qrels), collection.qrels
    held = next(iter(components.values()))
    width = max((len(held.get(query, {})) for query in queries), default=0)
    scores = np.zeros((len(PARTS), len(queries), max(width, 1)), dtype=np.float32)
    scores[0] = -np.inf
    gains = np.zeros(scores.shape[1:], dtype=np.float32)
    firsts = np.tile(np.arange(gains.shape[1]), (len(queries), 1))
    for q, query in enumerate(queries):
        # An approximate search may give one request a candidate that it denies the next: only those known to all count.
        known = [name for name in held.get(query, {}) if all(name in run.get(query, {}) for run in components.values())]
        names = sorted(known, key=document_of, reverse=True)
        documents = [document_of(name) for name in names]
        scores[0, q, : len(names)] = 0
        for p, part in enumerate(PARTS):
            if part in components:
                scores[p, q, : len(names)] = [components[part][query][name] for name in names]
        place = {document: i for i, document in reversed([*enumerate(documents)])}
        firsts[q, : len(names)] = [place[document] for document in documents]
        gains[q, [*place.values()]] = [max(qrels[query].get(document, 0), 0) for document in place]
    ideal = np.array([ideal_dcg(qrels[query].values()) for query in queries])
    row = {query: i for i, query in enumerate(queries)}
    languages = [[row[query] for query in names if query in row] for names in collection.by_language().values()]
    groups = tuple(np.array(rows, dtype=np.intp) for rows in languages if rows)
    return Candidates(queries, groups, scores, gains, ideal, firsts if passages else None)


def ideal_dcg(grades: Iterable[int]) -> float:
    """The discounted gain of the best possible first ``CUTOFF`` results."""
    best = sorted((grade for grade in grades if grade > 0), reverse=True)[:CUTOFF]
    return float(sum(grade / np.log2(rank + 2) for rank, grade in enumerate(best)))


def ndcg(scores: FloatArray, gains: FloatArray, ideal: NDArray[np.float64]) -> NDArray[np.float64]:
    """nDCG@10 of many re-ranked candidate lists at once, for weights that are tried by the hundred.

    Args:
        scores: float32 [Q, k], by which a list is ordered; −∞ where a query has fewer candidates. Equal scores keep
            their order.
        gains: float32 [Q, k], grade of each candidate; 0 if it is not relevant or not judged.
        ideal: float64 [Q], ``ideal_dcg`` of all relevant documents, found or not.

    Returns:
        float64 [Q]; 0 where nothing is relevant.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :CUTOFF]
    discounts = 1 / np.log2(np.arange(order.shape[1]) + 2)
    found = (np.take_along_axis(gains, order, axis=1) * discounts).sum(axis=1)
    values: NDArray[np.float64] = np.divide(found, ideal, out=np.zeros(len(ideal)), where=ideal > 0)
    return values


def mean_ndcg(pool: Sequence[Candidates], weights: Weights) -> float:
    """nDCG@10, mean over the languages of all collections."""
    values = [(one.ndcg(weights), one.groups) for one in pool]
    return float(np.mean([of_queries[rows].mean() for of_queries, groups in values for rows in groups]))


def tune(pool: Sequence[Candidates], start: Weights, mode: Mode) -> tuple[Weights, float]:
    """The weights with the best mean nDCG@10 over the groups of dev queries, and that mean.

    Of equally good ones those whose ratios are nearest to the start's: few dev queries should not move weights far.

    Args:
        pool: candidates of dev queries, one per collection.
        start: weights that are kept unless others are better.
        mode: "dense_sparse" leaves the third weight at 0.
    """
    best, value = start, mean_ndcg(pool, start)

    def distance(weights: Weights) -> float:
        one, origin = (np.array(three(each)) / max(three(each)) for each in (weights, start))
        return float(np.abs(one - origin).sum())

    for weights in sorted(grid(mode), key=distance):
        found = mean_ndcg(pool, weights)
        if found > value + 1e-9:
            best, value = weights, found
    return best, value


def three(weights: Weights) -> tuple[float, float, float]:
    """The weights of the three scores that are evaluated."""
    return weights.dense, weights.sparse, weights.multi_vector


def grid(mode: Mode) -> Iterator[Weights]:
    """Every set of weights that is tried: the heaviest is 1 … 3, one of them exactly 1, each ratio once."""
    third = STEPS if mode == "all" else (0.0,)
    seen: set[tuple[float, ...]] = set()
    for values in product(STEPS, STEPS, third):
        ratio = tuple(round(value / max(values), 6) for value in values) if any(values) else ()
        if ratio and 1.0 in values and ratio not in seen:
            seen.add(ratio)
            yield Weights(*values)


def curves(pool: Sequence[Candidates], used: Weights) -> tuple[Curve, ...]:
    """Mean nDCG@10 over groups while one weight varies and the others stay."""
    found = []
    for part in PARTS:
        weight = getattr(used, part)
        steps = [factor * (weight or 1.0) for factor in FACTORS]
        others = any(getattr(used, name) for name in PARTS if name != part)
        tried = [replace(used, **{part: step}) for step in steps if step or others]
        points = tuple((getattr(one, part), mean_ndcg(pool, one)) for one in tried)
        found.append(Curve(part, weight, points))
    return tuple(found)


def fusion_error(run: Run, components: Mapping[Part, Run], weights: Weights) -> float | None:
    """Largest difference between the fused scores of a run and the weighted sums of the raw scores.

    Relative to the sum of the terms' absolute values, which is what rounding is relative to. None if no fused score has
    its three parts.
    """
    worst = None
    for query, scores in run.items():
        for name, fused in scores.items():
            if all(name in components[part].get(query, {}) for part in PARTS):
                terms = [getattr(weights, part) * components[part][query][name] for part in PARTS]
                worst = max(worst or 0.0, abs(fused - sum(terms)) / max(sum(map(abs, terms)), 1e-6))
    return worst
