"""Gradients of one global batch, by however many processes run it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from train.config import Batching, FinetuneConfig, Objective, Phase
from train.contrastive.draw import Draw
from train.contrastive.stages import ContrastiveTask
from train.data.store import Lengths, RowStore
from train.engine.processes import Processes, gradient_sync, leave_processes, rank, sum_over_processes, world_size
from train.engine.run import Run
from train.model import M3Model

CASES: dict[str, tuple[Phase, Objective]] = {
    "dense": (Phase(steps=1, losses=["dense"], train=["embeddings", "encoder"]), Objective()),
    "sparse": (Phase(steps=1, losses=["sparse"], train=["embeddings", "encoder", "sparse"]), Objective()),
    "multi_vector": (
        Phase(steps=1, losses=["multi_vector"], train=["embeddings", "encoder", "multi_vector"]),
        Objective(),
    ),
    "inter": (Phase(steps=1), Objective(loss_weights=(0.0, 0.0, 0.0))),
    "unified": (Phase(steps=1), Objective()),
    "distill": (Phase(steps=1, self_distill=True), Objective()),
    "symmetric": (Phase(steps=1), Objective(symmetric=True)),
    "reranker": (Phase(steps=1), Objective(reranker_weight=1.0, reranker_temperature=2.0)),
}
ROWS = torch.arange(11).numpy()
"""Eleven rows: no number of processes divides them."""


def open_rows(checkpoint: Path, rows: Path) -> RowStore:
    return RowStore([rows], (checkpoint / "tokenizer.json").read_text(encoding="utf-8"), Lengths(16, 48))


def make_task(
    checkpoint: Path, rows: Path, store: RowStore, objective: Objective, memory: str, parallel: str
) -> ContrastiveTask:
    config = FinetuneConfig(
        model=checkpoint,
        data=[rows],
        out=Path("unused"),
        device="cpu",
        precision="fp32",
        memory=memory,  # type: ignore[arg-type]
        parallel=parallel,  # type: ignore[arg-type]
        micro_tokens=80,
        batching=Batching(rows=len(ROWS)),
        objective=objective,
    )
    json = (checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    run = Run(config, json, Processes(config), report=lambda step: None, warn=print)
    return ContrastiveTask(run, M3Model.load(checkpoint), store, Draw(4, 0), [("test", Phase(steps=1))])


def gradients(task: ContrastiveTask, phase: Phase, wrapped: torch.nn.Module) -> tuple[float, dict[str, Tensor]]:
    """(loss of the global batch, gradients by name) of one step on ``ROWS``."""
    own = ROWS[rank() :: world_size()]
    share = len(own) / len(ROWS)
    batch = task.collate(own, epoch=0, share=share)
    found = task.step(wrapped, batch, phase, scale=world_size(), sync=lambda last: gradient_sync(wrapped, last))
    loss = sum_over_processes({"loss": found.means["loss"] * share}, torch.device("cpu"))["loss"]
    return loss, {n: full(p.grad) for n, p in task.model.named_parameters() if p.grad is not None}


def full(gradient: Tensor) -> Tensor:
    whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return whole.clone()


def collect(checkpoint: Path, rows: Path, parallel: str, memories: list[str]) -> dict[str, Tensor]:
    collected: dict[str, Tensor] = {}
    store = open_rows(checkpoint, rows)
    for memory in memories:
        for name, (phase, objective) in CASES.items():
            task = make_task(checkpoint, rows, store, objective, memory, parallel)
            task.begin(phase)
            task.model.train()
            wrapped = task._processes.wrap(task.model, task.layers)
            loss, found = gradients(task, phase, wrapped)
            collected[f"{memory}/{name}/loss"] = torch.tensor([loss], dtype=torch.float64)
            collected |= {f"{memory}/{name}/{parameter}": gradient for parameter, gradient in found.items()}
    return collected


def write_gradients(out: Path, checkpoint: Path, rows: Path, parallel: str, memories: list[str]) -> None:
    """What one of several processes does: the first one writes the file."""
    found = collect(checkpoint, rows, parallel, memories)
    if rank() == 0:
        save_file(found, out)
    leave_processes()
