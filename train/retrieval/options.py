"""How to search, mine and evaluate, as plain data: importing this module loads neither torch nor faiss.

These are what a trainer passes along with its model; ``train.retrieval.config`` adds the paths of a command. The
classes have no slots, because jsonargparse reads their defaults from the class; their ``Attributes:`` become the help
texts of the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from m3_vdb.encoding.packing import DEFAULT_BATCH_TOKENS
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.protocol import MODES, PARTS, Mode, Part
from m3_vdb.weights import Weights

Dtype: TypeAlias = Literal["float32", "bfloat16"]
Report: TypeAlias = Callable[[str], None]
"""Takes one line about the progress."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How texts are encoded and a corpus is searched.

    Attributes:
        query_max_length: tokens kept of a query; the model's own maximum if that is less.
        passage_max_length: tokens kept of a passage; the model's own maximum if that is less.
        weights: of the mode "all": a preset (default, long_document) or three numbers such as 1,0.3,1.
        dense_sparse_weights: of the mode "dense_sparse": a preset (dense_sparse, long_dense_sparse) or 1,0.3,0.
        index: faiss factory string of the dense index; "Flat" is exact, "HNSW32" or "IVF256,Flat" suit millions.
        rerank: dense results that "multi_vector" and "all" re-rank with exact scores (the paper: 200).
        rerank_sparse: re-rank as many sparse results too, which the paper does not.
        dtype: arithmetic of the encoder; "bfloat16" is autocast over float32 weights.
        batch_tokens: padded tokens of one forward pass.
        shard_size: passages that are encoded, and searched, together.
        work: folder where encoded shards are kept, in a sub-folder for each state of a model, and found again after an
            interruption. null: in memory.
    """

    query_max_length: int = 512
    passage_max_length: int = 8192
    weights: str = "default"
    dense_sparse_weights: str = "dense_sparse"
    index: str = "Flat"
    rerank: int = 200
    rerank_sparse: bool = False
    dtype: Dtype = "float32"
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    shard_size: int = 16384
    work: Path | None = None

    def __post_init__(self) -> None:
        if self.query_max_length < 3 or self.passage_max_length < 3:
            raise ConfigError(
                f"query_max_length={self.query_max_length}, passage_max_length={self.passage_max_length}: "
                f"both at least 3 (<s>, one token, </s>)"
            )
        for name in ("rerank", "batch_tokens", "shard_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: at least 1")
        _one_of("dtype", self.dtype, get_args(Dtype))
        Weights.parse(self.weights)
        if Weights.parse(self.dense_sparse_weights).multi_vector:
            raise ConfigError(f"dense_sparse_weights={self.dense_sparse_weights!r}: the third weight must be 0")

    def weights_of(self, mode: Mode) -> Weights:
        """The weights by which a mode sums the three exact scores."""
        if mode == "all":
            return Weights.parse(self.weights)
        if mode == "dense_sparse":
            return Weights.parse(self.dense_sparse_weights)
        return Weights(*(float(mode == part) for part in PARTS))

    def parts_of(self, modes: Collection[Mode]) -> tuple[Part, ...]:
        """The representations that these modes need: those with a weight, and dense for whatever re-ranks."""
        needed = {part for mode in modes for part in PARTS if getattr(self.weights_of(mode), part)}
        if set(modes) & {"multi_vector", "dense_sparse", "all"}:
            needed.add("dense")
        if "dense_sparse" in modes or (self.rerank_sparse and set(modes) & {"multi_vector", "all"}):
            needed.add("sparse")
        return tuple(part for part in PARTS if part in needed)


@dataclass(frozen=True, kw_only=True)
class MineOptions(SearchOptions):
    """How hard negatives are found and chosen.

    Attributes:
        modes: the scores that find candidates: dense, sparse, multi_vector.
        first: best rank that is taken, in each mode, counted from 1 after the positives are removed; what ranks
            higher is often relevant and merely not labelled.
        last: worst rank that is taken.
        negatives: negatives wanted for a row.
        keep_existing: keep the row's own negatives, first and counted among the wanted; otherwise they are replaced.
        margin: drop a candidate that scores above (positive − margin) in one of the modes, where it ranks up to
            ``last`` there; the positive is the row's lowest-scoring one. null: no such limit.
        ratio: drop a candidate that scores above (ratio · positive), likewise. null: no such limit.
        sample: "random" draws among the candidates, "top" takes the best ranks.
        seed: of the draw; a row's draw depends on nothing but seed, row and candidates.
        score: mode whose exact scores are written as ``pos_scores`` and ``neg_scores``.
    """

    modes: tuple[Part, ...] = ("dense", "sparse")
    first: int = 10
    last: int = 200
    negatives: int = 7
    keep_existing: bool = False
    margin: float | None = None
    ratio: float | None = 0.95
    sample: Literal["random", "top"] = "random"
    seed: int = 0
    score: Mode = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        _some_of("modes", self.modes, PARTS)
        _one_of("sample", self.sample, ("random", "top"))
        _one_of("score", self.score, MODES)
        if not 1 <= self.first <= self.last:
            raise ConfigError(f"first={self.first}, last={self.last}: expected 1 ≤ first ≤ last")
        if self.negatives < 1:
            raise ConfigError(f"negatives={self.negatives}: at least 1")
        if self.margin is not None and self.margin < 0:
            raise ConfigError(f"margin={self.margin}: at least 0, or null")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ConfigError(f"ratio={self.ratio}: above 0 and at most 1, or null")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SearchOptions):
    """What is measured on collections in BEIR layout.

    Attributes:
        modes: rankings to measure: dense, sparse, multi_vector, dense_sparse, all.
        split: name of the judgements, ``qrels/SPLIT.tsv``.
        depth: results of a search; "multi_vector" and "all" have as many as they re-rank.
        max_documents: thin a corpus to so many documents; all judged ones stay, in any case. null: no thinning.
        max_queries: thin the queries to so many. null: no thinning.
        seed: of the thinning.
    """

    modes: tuple[Mode, ...] = MODES
    split: str = "test"
    depth: int = 1000
    max_documents: int | None = None
    max_queries: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _some_of("modes", self.modes, MODES)
        if self.depth < 100:
            raise ConfigError(f"depth={self.depth}: at least 100, or Recall@100 is not measured")
        for name in ("max_documents", "max_queries"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name}={value}: at least 1, or null")


def silent(line: str) -> None:
    """The report that nobody reads."""


def _one_of(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: expected one of {', '.join(allowed)}")


def _some_of(name: str, values: Collection[str], allowed: Collection[str]) -> None:
    if not values or not set(values) <= set(allowed) or len(set(values)) < len(values):
        raise ConfigError(f"{name}={list(values)}: expected one or more of {', '.join(allowed)}, each once")
