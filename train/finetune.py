"""Stage 2 in one process: the complete M3 objective with all heads on JSONL rows.

Each step encodes the queries and the passages of a batch in one forward each, scores every query against every
passage with all three heads, and minimises ``train.losses.unified_loss``. Frozen parts cost no backward pass.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from m3_vdb.errors import ConfigError, ModelOutputError
from m3_vdb.tokenizer import TokenBatch, Tokenizer
from train.data import Row, draw, plan_batches, read_rows
from train.losses import Losses, Objective, unified_loss
from train.model import M3Model, M3Output
from train.precision import MasterWeights
from train.scores import dense_scores, lexical_scores, multi_vector_scores

HEADS: Final = ("sparse_linear", "colbert_linear")
DTYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """Settings of a run; written into the checkpoint as ``training.json``.

    Attributes:
        batch_size: queries of a step.
        group_size: passages of a query, one positive and the rest hard negatives.
        query_max_length: tokens kept of a query.
        passage_max_length: tokens kept of a passage.
        max_steps: optimiser steps.
        learning_rate: peak, of the encoder; linear warm-up, then linear decay to 0.
        head_learning_rate: peak, of the two heads, which start untrained.
        warmup: share of the steps that warms up.
        weight_decay: AdamW's.
        max_grad_norm: gradients are clipped to this norm.
        dropout: of the encoder while training; None keeps the checkpoint's own.
        freeze_embeddings: leave word and position embeddings as they are.
        freeze_layers: leave this many lower layers as they are (needs ``freeze_embeddings``).
        dtype: "bfloat16" (with a float32 master copy) or "float32".
        device: torch device.
        seed: of data order, draws and dropout.
        save_steps: write a checkpoint this often; 0 only at the end.
        objective: constants of the loss.
    """

    batch_size: int = 24
    group_size: int = 4
    query_max_length: int = 64
    passage_max_length: int = 256
    max_steps: int = 500
    learning_rate: float = 5e-5
    head_learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    dropout: float | None = 0.0
    freeze_embeddings: bool = True
    freeze_layers: int = 0
    dtype: str = "bfloat16"
    device: str = "cpu"
    seed: int = 0
    save_steps: int = 0
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.group_size < 2:
            raise ConfigError(
                f"batch_size={self.batch_size}, group_size={self.group_size}: both at least 2, or nothing competes "
                f"with the positive"
            )
        if self.max_steps < 1 or self.objective.temperature <= 0:
            raise ConfigError(
                f"max_steps={self.max_steps}, temperature={self.objective.temperature}: both must be positive"
            )
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype={self.dtype!r}: expected one of {', '.join(DTYPES)}")
        if self.freeze_layers and not self.freeze_embeddings:
            raise ConfigError("freeze_layers needs freeze_embeddings: gradients would have to pass the frozen layers")


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did, for progress and logs."""

    step: int
    losses: dict[str, float]
    accuracy: dict[str, float]
    gradient_norm: float
    learning_rate: float
    tokens: int
    seconds: float


def finetune(
    checkpoint: Path, data: Path, out: Path, config: FinetuneConfig, *, report: Callable[[StepReport], None]
) -> None:
    """Fine-tune a checkpoint on training rows and write the result to ``out`` (a new directory).

    Raises:
        BundleError: the checkpoint is incomplete.
        DocumentError: a training row is malformed.
        ConfigError: ``out`` holds something already.
        ModelOutputError: the loss is not finite; the last checkpoint is kept.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: give a new directory")
    torch.manual_seed(config.seed)
    tokenizer = Tokenizer.from_file(checkpoint / "tokenizer.json")
    tokenizer_json = (checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    rows = read_rows(data)
    model = M3Model.load(checkpoint)
    prepare(model, config)
    master = MasterWeights(model, DTYPES[config.dtype])
    optimiser = _optimiser(master, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config))
    out.mkdir(parents=True, exist_ok=True)
    with (out / "training.jsonl").open("w", encoding="utf-8") as log:
        for step, batch in enumerate(_batches(rows, config), start=1):
            begun = time.perf_counter()
            seeds = [f"{config.seed}/{step}/{index}" for index in batch]  # a new draw every epoch
            tokens = _tokenize(tokenizer, [rows[index] for index in batch], seeds, config)
            losses, accuracy = _forward(model, tokens, config)
            if not torch.isfinite(losses.total):
                raise ModelOutputError(f"step {step}: loss {losses.detached()} on rows {batch}", index=batch[0])
            losses.total.backward()  # type: ignore[no-untyped-call]
            norm = master.take_gradients(max_norm=config.max_grad_norm)
            optimiser.step()
            master.publish()
            rate = float(schedule.get_last_lr()[0])
            schedule.step()
            count = len(tokens.queries.ids) + len(tokens.passages.ids)
            done = StepReport(step, losses.detached(), accuracy, norm, rate, count, time.perf_counter() - begun)
            log.write(json.dumps(asdict(done)) + "\n")
            log.flush()
            report(done)
            if step == config.max_steps or (config.save_steps and step % config.save_steps == 0):
                save(model, master, out, tokenizer_json=tokenizer_json, config=config, step=step)


def prepare(model: M3Model, config: FinetuneConfig) -> None:
    """Freeze, set dropout, and bring the model to its device; ``MasterWeights`` brings it to the working dtype."""
    layers = model.encoder.config.num_hidden_layers
    if not 0 <= config.freeze_layers <= layers:
        raise ConfigError(f"freeze_layers={config.freeze_layers}: the encoder has {layers} layers")
    model.encoder.embeddings.requires_grad_(not config.freeze_embeddings)
    for layer in model.encoder.encoder.layer[: config.freeze_layers]:
        layer.requires_grad_(False)
    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout
    model.to(config.device).train()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A padded batch of texts with its representations.

    Attributes:
        ids: int64 [n, L].
        mask: int64 [n, L], 1 for real tokens.
        output: what the model made of them.
    """

    ids: Tensor
    mask: Tensor
    output: M3Output


def encode(model: M3Model, batch: TokenBatch, *, device: str) -> Encoded:
    """One forward pass over all texts of a token batch."""
    ids, mask = (torch.from_numpy(array).to(device) for array in batch.padded(np.arange(len(batch))))
    return Encoded(ids, mask, model(ids, mask))


def score_batch(query: Encoded, passage: Encoded) -> tuple[Tensor, Tensor, Tensor]:
    """(s_dense, s_lex, s_mul), each float32 [B, P], of B queries against P passages."""
    q, p = query.output, passage.output
    return (
        dense_scores(q.dense, p.dense),
        lexical_scores(query.ids, q.token_weights, passage.ids, p.token_weights),
        multi_vector_scores(q.multi_vector, query.mask[:, 1:].bool(), p.multi_vector, passage.mask[:, 1:].bool()),
    )


@dataclass(frozen=True, slots=True)
class _Batch:
    """What a step scores: B queries, and ``group_size`` passages of each, its positive first."""

    queries: TokenBatch
    passages: TokenBatch


def _tokenize(tokenizer: Tokenizer, rows: Sequence[Row], seeds: Sequence[str], config: FinetuneConfig) -> _Batch:
    groups = [draw(row, group_size=config.group_size, seed=seed) for row, seed in zip(rows, seeds, strict=True)]
    return _Batch(
        tokenizer.encode([row.query for row in rows], max_length=config.query_max_length),
        tokenizer.encode([text for group in groups for text in group], max_length=config.passage_max_length),
    )


def _forward(model: M3Model, batch: _Batch, config: FinetuneConfig) -> tuple[Losses, dict[str, float]]:
    """(losses, share of queries whose positive scores highest, by head)."""
    query, passage = (encode(model, part, device=config.device) for part in (batch.queries, batch.passages))
    scores = score_batch(query, passage)
    positive = torch.arange(len(batch.queries), device=config.device) * config.group_size
    accuracy = {
        name: float((matrix.detach().argmax(1) == positive).float().mean())
        for name, matrix in zip(("dense", "sparse", "multi_vector"), scores, strict=True)
    }
    return unified_loss(*scores, positive, config.objective), accuracy


def _batches(rows: Sequence[Row], config: FinetuneConfig) -> Iterator[list[int]]:
    """Exactly ``max_steps`` batches, over as many epochs as that takes."""
    step, epoch = 0, 0
    while step < config.max_steps:
        batches = plan_batches(rows, batch_size=config.batch_size, seed=config.seed, epoch=epoch)
        if not batches:
            raise ConfigError(f"{len(rows)} training rows give no batch of two")
        yield from batches[: config.max_steps - step]
        step += len(batches)
        epoch += 1


def _optimiser(master: MasterWeights, config: FinetuneConfig) -> torch.optim.Optimizer:
    heads = [p for n, p in zip(master.names, master.master, strict=True) if n.startswith(HEADS)]
    encoder = [p for n, p in zip(master.names, master.master, strict=True) if not n.startswith(HEADS)]
    groups = [{"params": encoder, "lr": config.learning_rate}, {"params": heads, "lr": config.head_learning_rate}]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=config.weight_decay)


def _rate(step: int, config: FinetuneConfig) -> float:
    warmup = max(1, math.ceil(config.warmup * config.max_steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (config.max_steps - step) / max(1, config.max_steps - warmup))


def save(
    model: M3Model, master: MasterWeights, out: Path, *, tokenizer_json: str, config: FinetuneConfig, step: int
) -> Path:
    """Write ``out/step-N`` atomically in float32, from the master copy; return its path."""
    final = out / f"step-{step:06d}"
    partial = out / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    whole = M3Model(type(model.encoder)(model.encoder.config, add_pooling_layer=False), colbert_dim=model.colbert_dim)
    whole.load_state_dict(master.state())
    whole.save(partial, tokenizer_json=tokenizer_json)
    (partial / "training.json").write_text(json.dumps(asdict(config) | {"step": step}, indent=2) + "\n")
    return partial.rename(final)
