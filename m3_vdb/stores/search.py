"""The words of a search: names of the vectors, sources of candidates, ways of fusion, and all of it as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from m3_vdb.filters import Expression
from m3_vdb.inputs import real_number, whole_number
from m3_vdb.weights import Weights

DEFAULT_CANDIDATES: Final = 200
"""Dense candidates that are re-scored exactly; the paper re-ranks the dense top 200."""
DEFAULT_WEIGHTS: Final = Weights()
Source: TypeAlias = Literal["dense", "sparse", "union"]
"""Where candidates come from. "dense": the nearest by s_dense. "sparse": the best by s_lex, among documents that share
a token with the query. "union": both lists, so up to twice as many."""
SOURCES: Final[tuple[Source, ...]] = get_args(Source)
Fusion: TypeAlias = Literal["exact", "rrf", "dbsf"]
"""How scores become one; see ``Search``."""
FUSIONS: Final[tuple[Fusion, ...]] = get_args(Fusion)
RRF_K: Final = 60
"""Rank constant of reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009)."""
DENSE: Final = "dense"
SPARSE: Final = "sparse"
MULTI_VECTOR: Final = "multi_vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How to search: which candidates, how they are scored, which hits come back.

    Attributes:
        weights: weights of the three scores.
        limit: hits to return, ≥ 1.
        offset: hits to skip before them, ≥ 0.
        candidates: documents taken from a list and scored; pages beyond them are short or empty.
        source: the list or lists that candidates are taken from.
        fusion: "exact" is the M3 score of every candidate. "rrf" adds 1/(60 + rank) over the lists of the scores that
            have a weight, whatever its size; "dbsf" adds scores normalised by their mean and deviation. The last two
            are ranks of lists, not M3 scores. Of equal scores the smaller id has the better rank.
        ef: effort of an approximate dense search (HNSW's ef); None takes the engine's own.
        score_threshold: drop hits with a fused score below it.
        filter: payload conditions, read (``m3_vdb.filters``).

    Raises:
        ConfigError: a number is out of range or of another type.
    """

    weights: Weights = DEFAULT_WEIGHTS
    limit: int = 10
    offset: int = 0
    candidates: int = DEFAULT_CANDIDATES
    source: Source = "dense"
    fusion: Fusion = "exact"
    ef: int | None = None
    score_threshold: float | None = None
    filter: Expression | None = None

    def __post_init__(self) -> None:
        read: dict[str, object] = {
            "limit": whole_number("limit", self.limit, least=1),
            "offset": whole_number("offset", self.offset, least=0, expected="expected 0 or more hits to skip"),
            "candidates": whole_number("candidates", self.candidates, least=1),
        }
        if self.ef is not None:
            read["ef"] = whole_number("ef", self.ef, least=1, expected="expected 1 or more, or None")
        if self.score_threshold is not None:
            read["score_threshold"] = real_number("score_threshold", self.score_threshold)
        for name, value in read.items():
            object.__setattr__(self, name, value)
