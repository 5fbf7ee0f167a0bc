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
    tokenizer_json = (checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer(tokenizer_json)
    rows = read_rows(data)
    model = M3Model.load(checkpoint)
    prepare(model, config)
    master = MasterWeights(model)
    optimiser = _optimiser(master, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config))
    out.mkdir(parents=True, exist_ok=True)
    with (out / "training.jsonl").open("w", encoding="utf-8") as log:
        for step, batch in enumerate(_batches(rows, config), start=1):
            begun = time.perf_counter()
            losses, accuracy, tokens = _forward(model, tokenizer, rows, batch, config, step)
            if not torch.isfinite(losses.total):
                raise ModelOutputError(f"step {step}: loss {losses.detached()} on rows {batch}", index=batch[0])
            losses.total.backward()  # type: ignore[no-untyped-call]
            norm = master.take_gradients(max_norm=config.max_grad_norm)
            optimiser.step()
            master.publish()
            rate = float(schedule.get_last_lr()[0])
            schedule.step()
            done = StepReport(step, losses.detached(), accuracy, norm, rate, tokens, time.perf_counter() - begun)
            log.write(json.dumps(asdict(done)) + "\n")
            log.flush()
            report(done)
            if step == config.max_steps or (config.save_steps and step % config.save_steps == 0):
                save(model, master, out, tokenizer_json=tokenizer_json, config=config, step=step)


def prepare(model: M3Model, config: FinetuneConfig) -> None:
    """Freeze, set dropout, and bring the model to the working dtype and device."""
    model.encoder.embeddings.requires_grad_(not config.freeze_embeddings)
    for layer in model.encoder.encoder.layer[: config.freeze_layers]:
        layer.requires_grad_(False)
    if config.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout
    model.to(config.device, DTYPES[config.dtype]).train()


def score_batch(
    query: M3Output, q_ids: Tensor, q_mask: Tensor, passage: M3Output, p_ids: Tensor, p_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(s_dense, s_lex, s_mul), each float32 [B, P], of B queries against P passages.

    Args:
        query: output for ``q_ids``.
        q_ids: int64 [B, Lq].
        q_mask: int64 [B, Lq], 1 for real tokens.
        passage: output for ``p_ids``.
        p_ids: int64 [P, Lp].
        p_mask: int64 [P, Lp].
    """
    return (
        dense_scores(query.dense, passage.dense),
        lexical_scores(q_ids, query.token_weights, p_ids, passage.token_weights),
        multi_vector_scores(query.multi_vector, q_mask[:, 1:].bool(), passage.multi_vector, p_mask[:, 1:].bool()),
    )


def _forward(
    model: M3Model, tokenizer: Tokenizer, rows: Sequence[Row], batch: Sequence[int], config: FinetuneConfig, step: int
) -> tuple[Losses, dict[str, float], int]:
    groups = [
        draw(rows[i], group_size=config.group_size, seed=f"{config.seed}/{step}/{i}")  # a new draw every epoch
        for i in batch
    ]
    queries = tokenizer.encode([rows[i].query for i in batch], max_length=config.query_max_length)
    passages = tokenizer.encode([text for group in groups for text in group], max_length=config.passage_max_length)
    q_ids, q_mask = _tensors(queries, config.device)
    p_ids, p_mask = _tensors(passages, config.device)
    scores = score_batch(model(q_ids, q_mask), q_ids, q_mask, model(p_ids, p_mask), p_ids, p_mask)
    positive = torch.arange(len(batch), device=config.device) * config.group_size
    losses = unified_loss(*scores, positive, config.objective)
    accuracy = {
        name: float((matrix.detach().argmax(1) == positive).float().mean())
        for name, matrix in zip(("dense", "sparse", "multi_vector"), scores, strict=True)
    }
    return losses, accuracy, int(q_mask.sum() + p_mask.sum())


def _tensors(batch: TokenBatch, device: str) -> tuple[Tensor, Tensor]:
    ids, mask = batch.padded(np.arange(len(batch)))
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


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
    whole.load_state_dict({name: tensor.float() for name, tensor in model.state_dict().items()} | master.state())
    whole.save(partial, tokenizer_json=tokenizer_json)
    (partial / "training.json").write_text(json.dumps(asdict(config) | {"step": step}, indent=2) + "\n")
    return partial.rename(final)
