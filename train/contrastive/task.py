"""Stages 1 and 2 as the training loop sees them: an M3 model, rows, and one contrastive step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from m3_vdb.encoding.packing import CALL_COST, pack
from m3_vdb.encoding.tokenizer import TokenBatch
from train.config import ContrastiveConfig, Head, Part, Phase
from train.contrastive.backward import Forward, gradcache, through_the_graph
from train.contrastive.batch import Batch, Order, batch_losses
from train.contrastive.draw import Draw, draw_batch
from train.contrastive.losses import Losses
from train.contrastive.representations import Representations, concatenate, owners, pack_output
from train.data.batches import BatchSampler, Numbers, RowSizes
from train.data.store import RowStore
from train.engine.checkpoint import STATE
from train.engine.distributed import most, world_size
from train.engine.processes import Processes
from train.engine.task import Hook, Measures, ParameterGroup, Sync
from train.lora import add_adapters, load_adapter, merged, save_adapter
from train.model import M3Model

PREFIXES: Final[dict[Part, str]] = {
    "embeddings": "encoder.embeddings",
    "encoder": "encoder.encoder",
    "sparse": "sparse_linear",
    "multi_vector": "colbert_linear",
}

GPU_CALL_COST: Final = 128
"""Price of a forward pass in tokens on a GPU, where small passes are bound by launches: a guess that keeps padding of a
realistic mix at 1.5 % (docs/log.md); no GPU was at hand to measure it."""


@dataclass(frozen=True, slots=True)
class Forwards:
    """The forward passes of a batch: sub-batches of queries, then of passages, each of texts of like length."""

    passes: list[Forward]
    queries: int
    order: Order
    tokens: int
    padded_tokens: int


class ContrastiveTask:
    """See ``train.engine.task.Task``.

    Args:
        config: settings.
        model: on the CPU.
        tokenizer_json: goes into checkpoints.
        store: the rows.
        draw: how groups are drawn.
        phases: (name, phase).
        processes: this process among its peers.
    """

    def __init__(
        self,
        config: ContrastiveConfig,
        model: M3Model,
        tokenizer_json: str,
        store: RowStore,
        draw: Draw,
        phases: Sequence[tuple[str, Phase]],
        processes: Processes,
    ) -> None:
        self.model, self.phases, self.hooks = model, phases, list[Hook]()
        self.micro_tokens = config.micro_tokens
        self._call_cost = CALL_COST if processes.device.type == "cpu" else GPU_CALL_COST
        self._config, self._tokenizer_json, self._draw, self._processes = config, tokenizer_json, draw, processes
        if config.lora.rank:
            add_adapters(model, config.lora)
        if config.dropout is not None:
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = config.dropout
        model.recompute = config.memory == "split"
        self.layers: Sequence[nn.Module] = list(model.encoder.encoder.layer)
        self.use_rows(store)

    def use_rows(self, store: RowStore, *, epoch: int = 0) -> None:
        """Train on these rows, from the beginning of the epoch of that number."""
        self._store = store
        self._datasets = store.column("dataset")
        self.sampler = BatchSampler(
            row_sizes(store, self._draw.group_size),
            self._config.batching,
            least=max(2, world_size()),
            seed=self._config.seed,
            epoch=epoch,
        )

    def begin(self, phase: Phase) -> list[ParameterGroup]:
        """Freeze what the phase does not train; with adapters they stand for the encoder."""
        lora = bool(self._config.lora.rank)
        for name, parameter in self.model.named_parameters():
            part = next(part for part, prefix in PREFIXES.items() if name.startswith(prefix))
            parameter.requires_grad_(
                part in phase.train and (not lora or ".lora_" in name or part in ("sparse", "multi_vector"))
            )
        for layer in self.layers[: phase.freeze_layers]:
            layer.requires_grad_(False)
        return [
            ParameterGroup(("encoder.",), phase.learning_rate),
            ParameterGroup(("sparse_linear", "colbert_linear"), phase.head_learning_rate),
        ]

    def collate(self, rows: Numbers, *, epoch: int, share: float) -> Batch:
        """Draw passages for the rows."""
        return draw_batch(self._store.rows(rows.tolist()), rows.tolist(), self._draw, epoch=epoch, share=share)

    def step(self, model: nn.Module, batch: Batch, phase: Phase, *, scale: float, sync: Sync) -> Measures:
        """Forward passes over sub-batches, the loss over all of them, and the gradients."""
        heads = tuple(phase.losses)
        work = self.forwards(model, batch, heads)
        losses_of = partial(
            batch_losses,
            batch=batch,
            order=work.order,
            heads=heads,
            objective=self._config.objective,
            self_distill=phase.self_distill,
        )

        def loss_of(parts: list[Representations]) -> tuple[Tensor, tuple[Losses, dict[str, Tensor], dict[str, float]]]:
            queries, passages = concatenate(parts[: work.queries]), concatenate(parts[work.queries :])
            losses, found = losses_of(queries, passages)
            return losses.total * (scale * batch.share), (losses, found, sparsity(passages))

        idle = most(len(work.passes), self._processes.device) - len(work.passes) if self._processes.lockstep else 0
        run: Callable[..., tuple[Losses, dict[str, Tensor], dict[str, float]]]
        run = gradcache if self._config.memory == "gradcache" else through_the_graph
        losses, found, sparse = run(work.passes, loss_of, sync=sync, idle=idle)
        means = {"loss": losses.total, "teacher_entropy": losses.entropy} | found
        means |= {f"loss/{name}": term for name, term in losses.terms.items()}
        numbers = {name: float(value.detach()) for name, value in means.items()}
        return Measures(numbers | sparse, {"tokens": work.tokens, "padded_tokens": work.padded_tokens})

    def forwards(self, model: nn.Module, batch: Batch, heads: tuple[Head, ...]) -> Forwards:
        """Sub-batches of at most ``micro_tokens`` padded tokens."""
        passes: list[Forward] = []
        orders: list[Tensor] = []
        tokens = padded = 0
        queries = 0
        for texts in (batch.queries, batch.passages):
            groups = pack(texts.lengths, batch_tokens=self.micro_tokens, call_cost=self._call_cost)
            passes += [partial(self._forward, model, texts, group, heads) for group in groups]
            orders.append(torch.from_numpy(np.concatenate(groups)).to(self._processes.device))
            tokens += int(texts.lengths.sum())
            padded += sum(len(group) * int(texts.lengths[group].max()) for group in groups)
            queries = queries or len(groups)
        return Forwards(passes, queries, Order(*orders), tokens, padded)

    def _forward(
        self, model: nn.Module, texts: TokenBatch, group: NDArray[np.intp], heads: tuple[Head, ...]
    ) -> Representations:
        ids, mask = (torch.from_numpy(array).to(self._processes.device) for array in texts.padded(group))
        with self._processes.autocast():
            output = model(ids, mask)
        return pack_output(output, ids, mask, heads)

    def write(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """BGE-M3 layout; with adapters also these."""
        lora = self._config.lora
        if lora.rank:
            save_adapter(path / STATE, state)
            state = merged(state, lora)
        self.model.save(path, tokenizer_json=self._tokenizer_json, state=state)

    def restore(self, path: Path) -> None:
        """Weights of a checkpoint."""
        if self._config.lora.rank:
            load_adapter(path / STATE, self.model)
        else:
            self.model.load_state_dict(M3Model.load(path).state_dict())

    def name_rows(self, rows: Numbers) -> str:
        """Row numbers and data set."""
        return f"rows {rows.tolist()} of data set {self._datasets[rows[0]]!r}"


def row_sizes(store: RowStore, group_size: int) -> RowSizes:
    """What the batch plan needs; the cost of a row counts its longest passages."""
    negatives = np.minimum(store.column("negatives_count"), group_size - 1)
    cost = store.column("query_length") + store.column("positive_length") + negatives * store.column("negative_length")
    dataset = np.unique(store.column("dataset"), return_inverse=True)[1]
    return RowSizes(store.column("longest").astype(np.int64), cost.astype(np.int64), dataset.astype(np.int64))


@torch.no_grad()
def sparsity(passages: Representations) -> dict[str, float]:
    """Mean number of distinct ids with a weight, and share of texts without any; {} if the head is not in use."""
    if not len(passages.ids):
        return {}
    alive = passages.weights > 0
    owner = owners(passages.id_counts)[alive]
    pairs = torch.unique(torch.stack([owner, passages.ids[alive]]), dim=1)
    per_text = torch.bincount(pairs[0], minlength=len(passages))
    return {
        "sparse/active_dimensions": float(per_text.float().mean()),
        "sparse/zero_share": float((per_text == 0).float().mean()),
    }
