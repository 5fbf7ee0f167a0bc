"""Every setting of training, typed and in one place: YAML keys and command-line options are the names of these fields.

No torch here, so that ``--help`` is quick. The classes are frozen but not slotted, since jsonargparse reads defaults
from ``__dict__``; their "Attributes" sections are the help texts. What cannot work is refused here, before anything is
loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.metrics import MEASURES
from train.retrieval.config import EvaluateOptions, MineOptions

Head = Literal["dense", "sparse", "multi_vector"]
HEADS: Final[tuple[Head, ...]] = get_args(Head)
Part = Literal["embeddings", "encoder", "sparse", "multi_vector"]
Heads = list[Head]
Parts = list[Part]

EDGES: Final = (500, 1000, 2000, 3000, 4000, 5000, 6000, 7000)
"""Where the paper's length buckets end, in tokens."""
FINE_EDGES: Final = (64, 128, 256, *EDGES)
DEFAULT_TOKENS: Final = 16_384
SHORTEST: Final = 3
"""Tokens of the shortest text: ``<s>``, one token, ``</s>``."""
PAPER_PRETRAIN: Final = (67_200, 54_720, 37_248, 27_648, 21_504, 17_280, 15_072, 12_288, 9_984)
PAPER_FINETUNE: Final = (1_152, 768, 480, 432, 336, 336, 288, 240, 192)
"""Queries of a step in each bucket, over all processes (arXiv 2402.03216v4, table 9)."""

IGNORED_SETTINGS: Final = (
    "resume",
    "out",
    "save_every",
    "keep",
    "trackers",
    "workers",
    "device",
    "memory",
    "micro_tokens",
    "parallel",
)
"""Settings that may change at a resume: the gradients stay the same."""


def _check(config: object, good: Callable[[float], bool], expected: str, *names: str) -> None:
    for name in names:
        if not good(value := getattr(config, name)):
            raise ConfigError(f"{name}={value}: {expected}")


def _positive(config: object, *names: str) -> None:
    _check(config, lambda value: value > 0, "must be positive", *names)


def _not_negative(config: object, *names: str) -> None:
    _check(config, lambda value: value >= 0, "must not be negative", *names)


def _share(config: object, *names: str) -> None:
    _check(config, lambda value: 0 <= value <= 1, "a share between 0 and 1", *names)


@dataclass(frozen=True)
class Batching:
    """How many rows a step takes, over all processes.

    A batch holds rows of one data set and of similar length. It is as large as all limits allow.

    Attributes:
        tokens: most tokens of a batch, queries and drawn passages; 0 sets no limit, or 16,384 if nothing else does.
        rows: most rows of a batch; 0 sets no limit.
        table: rows for each length bucket as in the paper ("pretrain": 67,200 … 9,984 on 96 GPUs, "finetune":
            1,152 … 192 on 24 GPUs), multiplied by ``scale``.
        scale: factor of ``table``.
        edges: lengths in tokens at which the next bucket begins; a table has its own.
    """

    tokens: int = 0
    rows: int = 0
    table: Literal["none", "pretrain", "finetune"] = "none"
    scale: float = 1.0
    edges: list[int] = field(default_factory=lambda: list(FINE_EDGES))

    def __post_init__(self) -> None:
        _not_negative(self, "tokens", "rows")
        _positive(self, "scale")
        if self.edges != sorted(set(self.edges)) or min(self.edges, default=1) < 1:
            raise ConfigError(f"batching.edges={self.edges}: expected ascending positive numbers")
        if self.table != "none" and self.edges not in (list(EDGES), list(FINE_EDGES)):
            raise ConfigError(f"batching.edges={self.edges}: the table {self.table!r} has its own, leave them out")

    @property
    def bounds(self) -> list[int]:
        """The edges in use."""
        return list(EDGES) if self.table != "none" else self.edges

    def limits(self) -> list[tuple[int | None, int | None]]:
        """(most rows, most tokens) of each bucket; None is no limit."""
        table = {"none": (), "pretrain": PAPER_PRETRAIN, "finetune": PAPER_FINETUNE}[self.table]
        tokens = self.tokens or (None if self.rows or table else DEFAULT_TOKENS)
        of_table = [max(2, round(rows * self.scale)) for rows in table] or [0] * (len(self.bounds) + 1)
        return [(min(filter(None, (self.rows, rows)), default=None), tokens) for rows in of_table]


@dataclass(frozen=True)
class Objective:
    """Constants of the contrastive objective; defaults are the paper's, the public code's where the paper is silent.

    Attributes:
        temperature: τ, divides every score (not in the paper; 0.02 in the public code).
        inter_weights: w1, w2, w3 of s_inter = w1·s_dense + w2·s_lex + w3·s_mul.
        loss_weights: λ1, λ2, λ3 of the dense, lexical and multi-vector terms.
        symmetric: also ask each positive for its query, half of every InfoNCE term (for parallel text).
        mask_duplicates: a passage that is known to answer a query never counts against it.
        reranker_weight: weight of the distillation of ``pos_scores`` and ``neg_scores``; 0 ignores them.
        reranker_temperature: divides those scores before their softmax.
    """

    temperature: float = 0.02
    inter_weights: tuple[float, float, float] = (1.0, 0.3, 1.0)
    loss_weights: tuple[float, float, float] = (1.0, 0.1, 1.0)
    symmetric: bool = False
    mask_duplicates: bool = True
    reranker_weight: float = 0.0
    reranker_temperature: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "temperature", "reranker_temperature")
        _not_negative(self, "reranker_weight")


@dataclass(frozen=True)
class Anchor:
    """A plain encoder that joins the teacher of self-distillation, so that the model keeps what that encoder knows.

    The teacher's scores are then (Σ w·s + weight · a) / (Σ w + weight), w·s the weighted scores that are summed without
    an anchor and a the inner product of the two texts' mean-pooled vectors. It is a mean, as flat as one score.

    Attributes:
        model: checkpoint with the same tokenizer, such as ``import-base`` makes; its heads are not used.
        weight: of its inner product; 3 was nearly as good as 6 and better than 1 for m3-small (docs/log.md).
    """

    model: Path
    weight: float = 3.0

    def __post_init__(self) -> None:
        _positive(self, "weight")


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own optimiser, learning rate and trained parts.

    Attributes:
        steps: optimiser steps; 0 leaves it to ``epochs``.
        epochs: passes over the rows, used if ``steps`` is 0; both 0 skip the phase.
        losses: heads whose scores are trained. With more than one, their weighted sum has a loss as well.
        train: parts that move; all others are frozen.
        freeze_layers: lower encoder layers that stay as they are.
        self_distill: distil the weighted sum of the scores into each score.
        learning_rate: peak of encoder and embeddings.
        head_learning_rate: peak of the sparse and multi-vector heads, which often start untrained.
    """

    steps: int = 0
    epochs: float = 0.0
    losses: Heads = field(default_factory=lambda: list(HEADS))
    train: Parts = field(default_factory=lambda: ["embeddings", "encoder", "sparse", "multi_vector"])
    freeze_layers: int = 0
    self_distill: bool = False
    learning_rate: float = 1e-5
    head_learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        _not_negative(self, "steps", "epochs", "freeze_layers", "learning_rate", "head_learning_rate")
        if not self.losses or not self.train:
            raise ConfigError(f"losses={self.losses}, train={self.train}: a phase needs at least one of each")
        if len(set(self.losses)) < len(self.losses):
            raise ConfigError(f"losses={self.losses}: each head once")
        for head in ("sparse", "multi_vector"):
            if head in self.train and head not in self.losses:
                raise ConfigError(f"the phase trains {head!r} without its loss: add it to losses, or remove it there")
        if self.losses == ["dense"] and not {"encoder", "embeddings"} & set(self.train):
            raise ConfigError("the dense loss trains nothing without the encoder: add 'encoder' to train")
        if self.self_distill and len(self.losses) < 2:
            raise ConfigError(f"self_distill needs at least two losses to learn from each other, got {self.losses}")
        if self.freeze_layers and "embeddings" in self.train:
            raise ConfigError("freeze_layers has no effect while embeddings train: remove 'embeddings' from train")

    @property
    def skipped(self) -> bool:
        """Whether the phase has no steps."""
        return not (self.steps or self.epochs)


@dataclass(frozen=True)
class Schedule:
    """The three phases of the paper's fine-tuning; any of them can be skipped.

    Attributes:
        dense: first, the dense score alone.
        heads: second, the sparse and the multi-vector score.
        unified: third, all scores with self-distillation.
    """

    dense: Phase = field(default_factory=lambda: Phase(losses=["dense"], train=["embeddings", "encoder"]))
    heads: Phase = field(
        default_factory=lambda: Phase(losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"])
    )
    unified: Phase = field(default_factory=lambda: Phase(epochs=1.0, self_distill=True))

    def __iter__(self) -> Iterator[tuple[str, Phase]]:
        """(name, phase) of those that are not skipped, in order."""
        for name in ("dense", "heads", "unified"):
            phase: Phase = getattr(self, name)
            if not phase.skipped:
                yield name, phase


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters on the encoder in place of its own weights (peft); checkpoints hold the merged weights.

    Attributes:
        rank: 0 trains the weights themselves.
        alpha: the update is multiplied by alpha / rank.
        dropout: of the adapters' input.
        modules: endings of the names of the linear layers that get an adapter.
    """

    rank: int = 0
    alpha: int = 16
    dropout: float = 0.0
    modules: list[str] = field(default_factory=lambda: ["query", "key", "value"])

    def __post_init__(self) -> None:
        _not_negative(self, "rank")
        _share(self, "dropout")


@dataclass(frozen=True)
class Watch:
    """Evaluation during training, choice of the best checkpoint, early stopping.

    Attributes:
        data: folders in BEIR layout; none switches it off.
        every: optimiser steps between evaluations; a checkpoint is written for each.
        metric: mode and measure that decide, e.g. "all/nDCG@10", "dense/R@100".
        patience: stop after this many evaluations without improvement; 0 never.
        options: what is measured.
    """

    data: list[str] = field(default_factory=list)
    every: int = 500
    metric: str = "all/nDCG@10"
    patience: int = 0
    options: EvaluateOptions = field(default_factory=EvaluateOptions)

    def __post_init__(self) -> None:
        _positive(self, "every")
        _not_negative(self, "patience")
        mode, _, measure = self.metric.partition("/")
        if mode not in self.options.modes or measure not in MEASURES:
            raise ConfigError(
                f"watch.metric={self.metric!r}: expected MODE/MEASURE, one of "
                f"{', '.join(self.options.modes)} and one of {', '.join(MEASURES)}"
            )


@dataclass(frozen=True)
class RunConfig:
    """What every stage shares.

    Attributes:
        model: checkpoint in BGE-M3 layout to start from.
        data: JSONL files.
        out: directory of checkpoints and logs; new, unless ``resume`` is set.
        resume: resume from the last checkpoint in ``out``.
        seed: of data order, draws and dropout.
        device: "auto" takes a GPU if there is one.
        precision: "bf16" computes in bfloat16 under autocast, weights stay float32.
        attention: "auto" takes eager on CPUs up to 512 tokens (the fastest there) and sdpa elsewhere.
        parallel: with several processes, replicate the model ("ddp") or shard it ("fsdp").
        batching: rows of a step.
        accumulate: batches of an optimiser step; each is contrasted by itself.
        memory: "plain" keeps all activations of a batch, "split" makes them again in the backward pass, "gradcache"
            holds one sub-batch at a time. All give the same gradients.
        micro_tokens: padded tokens of one forward pass; 0 finds the fastest that fits by trying.
        query_max_length: tokens kept of a query.
        passage_max_length: tokens kept of a passage.
        on_bad_row: "stop" at a malformed row, or "skip", count and list it.
        workers: processes that tokenize, one file each; one process already uses every core.
        warmup: share of each phase in which the rate rises linearly; then it falls linearly to 0.
        weight_decay: AdamW's, of matrices only.
        max_grad_norm: gradients are clipped to this norm.
        dropout: of the encoder; null keeps the checkpoint's own.
        save_every: optimiser steps between checkpoints; 0 only at the end of phases.
        keep: checkpoints kept, beside the best; 0 keeps all.
        trackers: any of "tensorboard" and "wandb".
    """

    model: Path
    data: list[Path]
    out: Path
    resume: bool = False
    seed: int = 0
    device: str = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    batching: Batching = field(default_factory=Batching)
    accumulate: int = 1
    memory: Literal["plain", "split", "gradcache"] = "plain"
    micro_tokens: int = 8_192
    query_max_length: int = 512
    passage_max_length: int = 8_192
    on_bad_row: Literal["stop", "skip"] = "stop"
    workers: int = 1
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    dropout: float | None = 0.0
    save_every: int = 0
    keep: int = 2
    trackers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("data is empty: name at least one JSONL file")
        _positive(self, "accumulate", "max_grad_norm", "workers")
        _not_negative(self, "micro_tokens", "weight_decay", "save_every", "keep")
        _share(self, "warmup")
        if self.dropout is not None:
            _share(self, "dropout")
        if min(self.query_max_length, self.passage_max_length) < SHORTEST:
            raise ConfigError(
                f"query_max_length={self.query_max_length}, passage_max_length={self.passage_max_length}: "
                f"at least {SHORTEST}"
            )


@dataclass(frozen=True)
class ContrastiveConfig(RunConfig):
    """What stages 1 and 2 share.

    Attributes:
        objective: constants of the loss.
        anchor: an encoder that joins the teacher of self-distillation; null is without.
        lora: adapters on the encoder.
        watch: evaluation during training.
    """

    objective: Objective = field(default_factory=Objective)
    anchor: Anchor | None = None
    lora: LoRA = field(default_factory=LoRA)
    watch: Watch = field(default_factory=Watch)


@dataclass(frozen=True)
class PretrainConfig(ContrastiveConfig):
    """Stage 1: the dense score on pairs, with the other pairs of the batch as negatives.

    Attributes:
        shuffle: share of passages that are cut in three at word boundaries and shuffled.
        phase: length and learning rate.
    """

    shuffle: float = 0.002
    phase: Phase = field(
        default_factory=lambda: Phase(epochs=1.0, losses=["dense"], train=["embeddings", "encoder"], learning_rate=5e-5)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _share(self, "shuffle")
        if self.phase.skipped:
            raise ConfigError("phase has neither steps nor epochs: nothing to train")


@dataclass(frozen=True)
class Refresh:
    """New hard negatives from the model itself while it trains (ANCE).

    Attributes:
        every: optimiser steps between refreshes, a checkpoint is written for each; 0 never. A new epoch begins then.
        corpus: JSONL of passages to mine from; null takes all passages of the rows.
        options: how negatives are chosen.
    """

    every: int = 0
    corpus: Path | None = None
    options: MineOptions = field(default_factory=MineOptions)

    def __post_init__(self) -> None:
        _not_negative(self, "every")


@dataclass(frozen=True)
class FinetuneConfig(ContrastiveConfig):
    """Stage 2: all heads on rows with hard negatives, in the paper's three phases.

    Attributes:
        group_size: passages of a query and step: one positive, the rest hard negatives.
        phases: the three phases.
        refresh: new negatives while training.
        epochs: passes over the rows in the unified phase; short for ``phases.unified.epochs`` without its steps.
        learning_rate: of all that trains in the unified phase, the heads included; short for its two rates.
    """

    group_size: int = 8
    phases: Schedule = field(default_factory=Schedule)
    refresh: Refresh = field(default_factory=Refresh)
    epochs: float | None = None
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "group_size")
        unified = self.phases.unified
        if self.epochs is not None:
            _positive(self, "epochs")
            unified = replace(unified, steps=0, epochs=self.epochs)
        if self.learning_rate is not None:
            _positive(self, "learning_rate")
            unified = replace(unified, learning_rate=self.learning_rate, head_learning_rate=self.learning_rate)
        # From here on ``phases`` says it, so that a run can be resumed however it was said.
        for name, value in (
            ("phases", replace(self.phases, unified=unified)),
            ("epochs", None),
            ("learning_rate", None),
        ):
            object.__setattr__(self, name, value)
        if not list(self.phases):
            raise ConfigError("all phases are skipped: give one of them steps or epochs")


def as_json(config: object) -> Any:
    """Settings as plain JSON values."""
    return json.loads(json.dumps(asdict(config), default=str))  # type: ignore[call-overload]
