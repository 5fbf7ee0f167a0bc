"""``python -m train distill``: a model learns the vectors of a teacher, text by text.

What the student should give is known for every text, so no queries, negatives or labels are needed, and sub-batches are
independent. The loss of a batch is the sum of three means, each 0 where both models agree:

    dense          1 − cosine of the two dense vectors, mean over texts
    multi_vector   1 − cosine of the two rows of a token, mean over tokens
    sparse         Σ (w − w')² / Σ w'² over all tokens, w' the teacher's weights

Legend: B texts, L padded tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from m3_vdb.encoding.packing import pack
from m3_vdb.encoding.tokenizer import TokenBatch
from m3_vdb.errors import ConfigError
from onnx_export.weights import RANK, dequantize_matrix, frequent_rows, quantize_matrix, rounded_table, table_basis
from train.config import LoRA, Phase
from train.data.batches import BatchSampler, Numbers, RowSizes
from train.data.store import Lengths, RowStore, token_batch
from train.distill.config import DistillConfig
from train.engine.loop import Loop
from train.engine.m3_task import M3Task
from train.engine.processes import sum_over_processes, world_size
from train.engine.run import Outcome, Report, Run
from train.engine.task import Hook, Measures, Sync
from train.model import M3Model, M3Output

INT8_ROUNDING: Final = 0.015
"""Share of a matrix that blocks may miss without a correction. A model from an int8 bundle (m3-small) is off by up to
.012 where it was made of blocks and never trained, and by .023 and more where it was."""
METRIC_TEXTS: Final = 2000
"""From which the importance of errors of an embedding is measured."""
METRIC_TOKENS: Final = 2048
"""Padded tokens of a pass for that."""


def distill(config: DistillConfig, *, report: Report, warn: Callable[[str], None]) -> Outcome:
    """Train the student.

    Raises:
        BundleError: a checkpoint is incomplete.
        DocumentError: a line is malformed.
        ConfigError: settings, files or directories do not fit together.
        ModelOutputError: the loss is not finite; the last checkpoint is kept.
    """
    run = Run.open(config, report=report, warn=warn)
    if run.resume_from and run.is_finished([("distill", config.phase)]):
        return Outcome(run.resume_from)
    model = run.load_model(config.model, longest=config.max_length)
    teacher = run.load_model(config.teacher or config.model, longest=config.max_length)
    if (model.dim, model.colbert_dim) != (teacher.dim, teacher.colbert_dim):
        raise ConfigError(
            f"the teacher's vectors have {teacher.dim} and {teacher.colbert_dim} numbers, the student's {model.dim} "
            f"and {model.colbert_dim}: choose models of the same widths"
        )
    length = min(config.max_length, model.max_length, teacher.max_length)
    store = run.read_rows(config.data, Lengths(length, length), kind="texts")
    if config.export_precision == "int4" and model.embedding_basis is None:
        table = model.encoder.get_input_embeddings().weight.detach().numpy()
        some = np.linspace(0, len(store) - 1, min(METRIC_TEXTS, len(store))).astype(int).tolist()
        tokens = token_batch(record["query"] for record in store.rows(some))
        rare = frequent_rows(table)
        model.embedding_basis = table_basis(table[rare:], embedding_metric(model, tokens, first=rare))
    return Loop(DistillTask(run, model, teacher, store), run).run()


@dataclass(frozen=True, slots=True)
class Differences:
    """What a student misses, float32 scalars: sums, because a batch may be split.

    Attributes:
        dense: Σ over texts of 1 − cosine.
        sparse: Σ over tokens of the squared difference of their weights.
        multi_vector: Σ over tokens but the first of 1 − cosine of their rows.
    """

    dense: Tensor
    sparse: Tensor
    multi_vector: Tensor

    @classmethod
    def between(cls, found: M3Output, wanted: M3Output, mask: Tensor) -> Differences:
        """Of two outputs for the same texts.

        Args:
            found: the student's.
            wanted: the teacher's.
            mask: int64 [B, L], 1 for real tokens.
        """
        rows = mask[:, 1:]
        return cls(
            dense=(1 - (found.dense * wanted.dense).sum(-1)).sum(),
            sparse=((found.token_weights - wanted.token_weights).square() * mask).sum(),
            multi_vector=((1 - (found.multi_vector * wanted.multi_vector).sum(-1)) * rows).sum(),
        )


class DistillTask(M3Task):
    """See ``train.engine.task.Task``.

    Args:
        run: settings, tokenizer and processes.
        model: the student; at int4 its weights become those of 4-bit blocks, with adapters for the corrections.
        teacher: stays as it is.
        store: the texts, as queries.
    """

    def __init__(self, run: Run[DistillConfig], model: M3Model, teacher: M3Model, store: RowStore) -> None:
        config = run.config
        corrections = to_int4(model) if config.export_precision == "int4" else {}
        super().__init__(run, model, LoRA(rank=RANK, alpha=RANK, modules=list(corrections)) if corrections else LoRA())
        set_adapters(model, corrections)
        self.phases: Sequence[tuple[str, Phase]] = [("distill", config.phase)]
        self.hooks: Sequence[Hook] = []
        self._teacher = teacher.to(run.processes.device).requires_grad_(requires_grad=False)
        self._store, self._micro_tokens = store, config.micro_tokens
        lengths = store.column("query_length").astype("int64")
        sizes = RowSizes(lengths, lengths, lengths * 0)
        self.sampler = BatchSampler(sizes, config.batching, least=world_size(), seed=config.seed)

    def collate(self, rows: Numbers, *, epoch: int, share: float) -> TokenBatch:
        """The texts of the rows."""
        return token_batch(record["query"] for record in self._store.rows(rows.tolist()))

    def step(self, model: nn.Module, batch: TokenBatch, phase: Phase, *, scale: float, sync: Sync) -> Measures:
        """The three means over all processes, one sub-batch after another."""
        groups = pack(batch.lengths, batch_tokens=self._micro_tokens, call_cost=self.call_cost)
        wanted = [self._wanted(batch, group) for group in groups]
        counts = {
            "dense": float(len(batch)),
            "sparse": sum(float(output.token_weights.square().sum()) for output in wanted),
            "multi_vector": float(batch.lengths.sum() - len(batch)),
        }
        counts = {n: max(1e-6, count) for n, count in sum_over_processes(counts, self._processes.device).items()}
        sums = dict.fromkeys(("loss", *(f"loss/{name}" for name in counts)), 0.0)
        passes = [(group, output, 1.0) for group, output in zip(groups, wanted, strict=True)]
        passes += [(groups[0], wanted[0], 0.0)] * self._run.idle_passes(len(passes))
        for number, (group, output, weight) in enumerate(passes, start=1):
            with sync(number == len(passes)):
                found, _, mask = self.forward(model, batch, group)
                differences = Differences.between(found, output, mask)
                terms = {name: getattr(differences, name) / count * weight for name, count in counts.items()}
                (sum(terms.values(), torch.zeros(())) * scale).backward()
            for name, term in terms.items():
                sums[f"loss/{name}"] += float(term.detach()) * scale / world_size()
        sums["loss"] = sum(sums[f"loss/{name}"] for name in counts)
        padded = sum(len(group) * int(batch.lengths[group].max()) for group in groups)
        return Measures({}, sums | {"tokens": int(batch.lengths.sum()), "padded_tokens": padded})

    @torch.no_grad()
    def _wanted(self, batch: TokenBatch, group: NDArray[np.intp]) -> M3Output:
        """The teacher's output; weights of padding are 0."""
        output, _, mask = self.forward(self._teacher, batch, group)
        return M3Output(output.dense, output.token_weights * mask, output.multi_vector)

    def name_rows(self, rows: Numbers) -> str:
        """Text numbers."""
        return f"texts {rows.tolist()}"


def embedding_metric(model: M3Model, tokens: TokenBatch, *, first: int) -> NDArray[np.float64]:
    """What errors of an embedding do to the vectors: the mean of g·gᵀ over tokens, [d, d].

    g is the gradient by a token's embedding of the dense vector and all rows of its text in a random direction, so that
    eᵀ·H·e is the mean square of what an error e changes, but for a factor.

    Args:
        model: is not changed.
        tokens: of some hundred texts.
        first: the smallest id that counts.

    Returns:
        [d, d]; the unit matrix if no such id occurs.
    """
    generator = torch.Generator().manual_seed(0)
    metric = np.zeros((model.dim, model.dim))
    count = int((tokens.ids >= first).sum())
    if not count:
        return np.eye(model.dim)
    embedded: list[Tensor] = []
    hook = model.encoder.get_input_embeddings().register_forward_hook(lambda _, ids, output: embedded.append(output))
    for group in pack(tokens.lengths, batch_tokens=METRIC_TOKENS, call_cost=0):
        ids, mask = (torch.from_numpy(array) for array in tokens.padded(group))
        output = model(ids, mask)
        rows = output.multi_vector * mask[:, 1:, None]
        drawn = [torch.randn(one.shape, generator=generator) for one in (output.dense, rows)]
        value = (drawn[0] * output.dense).sum() + (drawn[1] * rows).sum()
        gradients = torch.autograd.grad(value, embedded.pop())[0][(mask == 1) & (ids >= first)].double().numpy()
        metric += gradients.T @ gradients
    hook.remove()
    mean: NDArray[np.float64] = metric / count
    return mean


@torch.no_grad()
def to_int4(model: M3Model) -> dict[str, tuple[Tensor, Tensor]]:
    """Give a model the weights of 4-bit blocks and codes that an export at int4 would give it.

    Returns:
        Name of a linear layer in the encoder → the factors (left, right) of its correction, which is not applied yet:
        of those that need one, or of all if none does.
    """
    table = model.encoder.get_input_embeddings().weight
    table.copy_(torch.from_numpy(rounded_table(table.numpy(), model.embedding_basis)))
    corrections: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in model.encoder.named_modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight.numpy()
            packed, scales, left, right = quantize_matrix(weight)
            blocks = dequantize_matrix(packed, scales)
            if np.linalg.norm(weight - blocks) < INT8_ROUNDING * np.linalg.norm(weight):
                left, right = left[:, :0], right[:, :0]
            layer.weight.copy_(torch.from_numpy(blocks))  # weight, too: it is the same memory
            corrections[name] = torch.from_numpy(left), torch.from_numpy(right)
    return {name: factors for name, factors in corrections.items() if factors[0].numel()} or corrections


@torch.no_grad()
def set_adapters(model: M3Model, corrections: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Start the adapters (``add_adapters``) of these layers at the given factors."""
    for name, (left, right) in corrections.items():
        if left.numel():
            state = {"lora_A.default.weight": right.T, "lora_B.default.weight": left}
            model.encoder.get_submodule(name).load_state_dict(state, strict=False)
