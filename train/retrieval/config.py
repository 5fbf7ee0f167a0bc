"""Settings of mining, topics and evaluation; importing this module loads neither torch nor faiss.

Those of mining and evaluation are options (``train.retrieval.options``, what is said there about slots and help texts
holds here) and the paths of a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m3_vdb.encoding.packing import DEFAULT_BATCH_TOKENS
from m3_vdb.errors import ConfigError
from train.retrieval.options import Dtype, EvaluateOptions, MineOptions


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
