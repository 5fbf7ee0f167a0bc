"""Which request answers a query in each of the five modes, and the paper's settings (M3-Embedding, arXiv 2402.03216v4).

Section 4 and appendix C: dense and sparse search the whole corpus; dense + sparse ranks the union of both lists;
multi-vector and all re-score the dense top 200. Every score is exact: where the public code gives a document 0 for the
list that it is missing from, here its true score is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

from m3_vdb.errors import ConfigError
from m3_vdb.stores.options import DEFAULT_CANDIDATES, SOURCES, Source
from m3_vdb.weights import PRESETS, Weights, WeightsLike

Mode: TypeAlias = Literal["dense", "sparse", "multi_vector", "dense_sparse", "all"]
"""One way to rank; the last two are weighted sums."""
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
Part: TypeAlias = Literal["dense", "sparse", "multi_vector"]
"""One raw score."""
PARTS: Final[tuple[Part, ...]] = get_args(Part)
WEIGHTED: Final[dict[Mode, tuple[Part, ...]]] = {"dense_sparse": ("dense", "sparse"), "all": PARTS}
"""The modes that have weights, and the scores that these weigh."""
DEPTH: Final = 100
"""Results kept per query: what Recall@100 looks at."""
CANDIDATES_PER_LIST: Final = 1000
"""Results of the dense and of the sparse search whose union dense + sparse ranks."""


@dataclass(frozen=True, slots=True)
class Request:
    """How a mode asks a store: the arguments of ``VectorStore.rank``."""

    weights: Weights
    source: Source
    candidates: int
    limit: int = DEPTH


@dataclass(frozen=True, slots=True)
class Protocol:
    """Settings of an evaluation.

    Attributes:
        name: of the preset.
        weights: of the mode "all".
        dense_sparse_weights: of the mode "dense_sparse"; the third is 0.
        candidates: of each list whose union "dense_sparse" ranks.
        rerank: candidates that "multi_vector" and "all" re-score, of each list in ``rerank_source``.
        rerank_source: where these candidates come from; the paper takes the dense list alone.
        query_max_length: tokens kept of a query; the model's maximum length if that is less. Passages have the latter.

    Raises:
        ConfigError: a value is out of range.
    """

    name: str = "paper"
    weights: Weights = PRESETS["default"]
    dense_sparse_weights: Weights = PRESETS["dense_sparse"]
    candidates: int = CANDIDATES_PER_LIST
    rerank: int = DEFAULT_CANDIDATES
    rerank_source: Source = "dense"
    query_max_length: int = 512

    def __post_init__(self) -> None:
        for name in ("weights", "dense_sparse_weights"):
            object.__setattr__(self, name, Weights.parse(getattr(self, name)))
        if self.weights.bm25 or self.dense_sparse_weights.bm25:
            raise ConfigError("weights: exact words (bm25) are not evaluated; give three weights")
        if self.dense_sparse_weights.multi_vector:
            raise ConfigError(f"dense_sparse_weights={self.dense_sparse_weights}: the third weight must be 0")
        if self.candidates < DEPTH or self.rerank < DEPTH:
            raise ConfigError(
                f"candidates={self.candidates}, rerank={self.rerank}: at least {DEPTH}, or R@{DEPTH} is not measured"
            )
        if self.rerank_source not in SOURCES:
            raise ConfigError(f"rerank_source={self.rerank_source!r}: expected one of {', '.join(SOURCES)}")
        if self.query_max_length < 3:
            raise ConfigError(f"query_max_length={self.query_max_length}: at least 3 (<s>, one token, </s>)")

    def request(self, mode: Mode) -> Request:
        """What ``mode`` asks of the store."""
        if mode == "dense":
            return Request(Weights(1, 0, 0), "dense", DEPTH)
        if mode == "sparse":
            return Request(Weights(0, 1, 0), "sparse", DEPTH)
        if mode == "dense_sparse":
            return Request(self.dense_sparse_weights, "union", self.candidates)
        if mode == "all":
            return Request(self.weights, self.rerank_source, self.rerank)
        # More than ``DEPTH``, so that this is also the request for the multi-vector component scores.
        return Request(Weights(0, 0, 1), self.rerank_source, self.rerank, limit=self.rerank)

    def component_requests(self, mode: Mode, part: Part) -> dict[Source, Request]:
        """One raw score of every candidate of a weighted mode, by the list that the candidates come from.

        Each list is asked for on its own: a request for more hits than one list has would lengthen both.
        """
        source: Source
        source, candidates = ("union", self.candidates) if mode == "dense_sparse" else (self.rerank_source, self.rerank)
        weights = Weights(*(float(part == name) for name in PARTS))
        lists: tuple[Source, ...] = ("dense", "sparse") if source == "union" else (source,)
        return {one: Request(weights, one, candidates, limit=candidates) for one in lists}

    def weights_of(self, mode: Mode) -> Weights:
        """Weights of a mode, 1 and 0 for the single scores."""
        return self.request(mode).weights

    def with_weights(self, mode: Mode, weights: WeightsLike) -> Protocol:
        """The same protocol with other weights for "all" or "dense_sparse"."""
        weights = Weights.parse(weights)
        return replace(self, weights=weights) if mode == "all" else replace(self, dense_sparse_weights=weights)

    def describe(self, max_length: int) -> dict[str, str]:
        """The settings in words, for a report.

        Args:
            max_length: of the model.
        """
        lists = {"dense": "dense", "sparse": "sparse", "union": "dense ∪ sparse"}
        return {
            "protocol": self.name,
            "all": f"{_words(self.weights)} over {lists[self.rerank_source]} top {self.rerank}, exact scores",
            "dense_sparse": f"{_words(self.dense_sparse_weights)} over dense ∪ sparse top {self.candidates}",
            "multi_vector": f"{lists[self.rerank_source]} top {self.rerank}, exact scores",
            "maximum length": f"queries {min(self.query_max_length, max_length)}, passages {max_length} tokens",
        }


def _words(weights: Weights) -> str:
    return f"{weights.dense:g}·dense + {weights.sparse:g}·sparse + {weights.multi_vector:g}·multi_vector"


PROTOCOLS: Final[dict[str, Protocol]] = {
    "paper": Protocol(),  # MIRACL, MKQA
    "paper-long": Protocol(  # MLDR, NarrativeQA
        "paper-long", PRESETS["long_document"], PRESETS["long_dense_sparse"]
    ),
    "union": Protocol("union", rerank_source="union"),  # what dense search misses, lexical search may find
    "union-long": Protocol("union-long", PRESETS["long_document"], PRESETS["long_dense_sparse"], rerank_source="union"),
}
"""Presets. The "union" ones re-score the sparse top 200 too, which the paper does not."""
