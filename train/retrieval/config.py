"""Settings of mining, topics and evaluation; importing this module loads neither torch nor faiss.

``…Options`` are what a trainer passes along with its model, ``…Config`` adds the paths of a command. The classes have
no slots, because jsonargparse reads their defaults from the class; their ``Attributes:`` become the help texts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from m3_vdb.encoding.packing import DEFAULT_BATCH_TOKENS
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.protocol import MODES, PARTS, Mode, Part, Request
from m3_vdb.stores.fusion import SOURCE_VECTORS
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
        work: folder for encoded passages, a sub-folder per state of a model; an interrupted run resumes from
            it. null: in memory.
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

    def request(self, mode: Mode, *, depth: int, rerank: int | None = None) -> Request:
        """What a mode asks of an index: dense and sparse search, the others score candidates of these lists exactly.

        Args:
            mode: a ranking.
            depth: results, and candidates of the lists that are not re-ranked.
            rerank: dense results to re-rank; None takes the option's.
        """
        weights = self.weights_of(mode)
        if mode == "multi_vector" or mode == "all":  # noqa: PLR1714 - mypy narrows this
            return Request(weights, "union" if self.rerank_sparse else "dense", rerank or self.rerank, depth)
        return Request(weights, "union" if mode == "dense_sparse" else mode, depth, depth)

    def parts_of(self, modes: Collection[Mode]) -> tuple[Part, ...]:
        """The representations that these modes need: those with a weight, and those that find candidates."""
        needed: set[str] = set()
        for request in (self.request(mode, depth=1) for mode in modes):
            needed.update(SOURCE_VECTORS[request.source])
            needed.update(part for part in PARTS if getattr(request.weights, part))
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
        max_documents: subsample a corpus to N documents; all judged ones stay in any case. null: all.
        max_queries: subsample the queries to N. null: all.
        seed: of the subsamples.
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


@dataclass(frozen=True, kw_only=True)
class MineConfig(MineOptions):
    """Mine hard negatives for training rows.

    Attributes:
        model: checkpoint in BGE-M3 layout.
        data: JSONL training rows {"query", "pos": […], "neg": […]}; every other field is kept.
        out: JSONL file to create.
        corpus: JSONL passages {"text", "title", "id"} to mine from. null: all passages of the rows, a pool for each
            data set (``source`` and ``lang`` of a row).
        device: torch device of the encoder; "auto" takes a GPU if there is one.
    """

    model: Path
    data: list[Path]
    out: Path
    corpus: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ConfigError("data is empty: expected at least one JSONL file of training rows")


@dataclass(frozen=True, kw_only=True)
class TopicsConfig:
    """Group training rows by topic, so that the rows of a batch are hard negatives for each other.

    Attributes:
        model: checkpoint in BGE-M3 layout, whose dense vectors of the first positives are clustered.
        data: JSONL training rows; every field is kept. "topic" is new and, with "source" and "lang", names a data set.
        out: JSONL file to create.
        passages: about how many different passages a topic has: a few batches' worth.
        passage_max_length: tokens kept of a passage.
        seed: of the clusters.
        dtype: arithmetic of the encoder; "bfloat16" is autocast over float32 weights.
        batch_tokens: padded tokens of one forward pass.
        device: torch device of the encoder; "auto" takes a GPU if there is one.
    """

    model: Path
    data: list[Path]
    out: Path
    passages: int = 200
    passage_max_length: int = 128
    seed: int = 0
    dtype: Dtype = "float32"
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("data is empty: expected at least one JSONL file of training rows")
        if self.passages < 2 or self.passage_max_length < 3 or self.batch_tokens < 1:
            raise ConfigError(
                f"passages={self.passages}, passage_max_length={self.passage_max_length}, "
                f"batch_tokens={self.batch_tokens}: expected at least 2, 3 and 1"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(EvaluateOptions):
    """Measure a checkpoint in every mode.

    Attributes:
        model: checkpoint in BGE-M3 layout.
        collections: folders with corpus.jsonl, queries.jsonl and qrels/, folders of such folders, or glob patterns.
        out: folder for metrics.json and runs; null writes nothing.
        runs: also write TREC run files, ``runs/COLLECTION.MODE.trec``.
        device: torch device of the encoder; "auto" takes a GPU if there is one.
    """

    model: Path
    collections: list[str]
    out: Path | None = None
    runs: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.collections:
            raise ConfigError("collections is empty: expected at least one folder in BEIR layout")
        if self.runs and self.out is None:
            raise ConfigError("runs=True needs out, the folder for the run files")


def no_report(line: str) -> None:
    """Takes a line and drops it."""


def _one_of(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: expected one of {', '.join(allowed)}")


def _some_of(name: str, values: Collection[str], allowed: Collection[str]) -> None:
    if not values or not set(values) <= set(allowed) or len(set(values)) < len(values):
        raise ConfigError(f"{name}={list(values)}: expected one or more of {', '.join(allowed)}, each once")
