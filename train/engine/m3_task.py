"""What the stages that train an M3 model have in common: what moves, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from m3_vdb.encoding.packing import CALL_COST
from m3_vdb.encoding.tokenizer import TokenBatch
from train.config import LoRA, Part, Phase
from train.engine.checkpoint import STATE
from train.engine.run import Run
from train.engine.task import ParameterGroup
from train.lora import add_adapters, load_adapter, merged, save_adapter
from train.model import M3Model, M3Output

PREFIXES: Final[dict[Part, str]] = {
    "embeddings": "encoder.embeddings",
    "encoder": "encoder.encoder",
    "sparse": "sparse_linear",
    "multi_vector": "colbert_linear",
}

GPU_CALL_COST: Final = 128
"""Price of a forward pass in tokens on a GPU, where small passes are bound by launches: a guess that keeps padding of a
realistic mix at 1.5 % (docs/log.md); no GPU was at hand to measure it."""


class M3Task:
    """Part of ``train.engine.task.Task``.

    Args:
        run: settings, tokenizer and processes.
        model: on the CPU.
        lora: adapters that train in place of the encoder's weights.
    """

    def __init__(self, run: Run[Any], model: M3Model, lora: LoRA) -> None:
        self.model = model
        self.call_cost = CALL_COST if run.processes.device.type == "cpu" else GPU_CALL_COST
        self._run, self._lora, self._processes = run, lora, run.processes
        if lora.rank:
            add_adapters(model, lora)
        run.set_dropout(model)
        model.recompute = run.config.memory == "split"
        self.layers: Sequence[nn.Module] = list(model.encoder.encoder.layer)

    def begin(self, phase: Phase) -> list[ParameterGroup]:
        """Freeze what the phase does not train; with adapters they stand for the encoder."""
        lora = bool(self._lora.rank)
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

    def forward(self, model: nn.Module, texts: TokenBatch, group: NDArray[Any]) -> tuple[M3Output, Tensor, Tensor]:
        """The model's output for some texts, their ids and mask, each int64 [B, L]."""
        ids, mask = (torch.from_numpy(array).to(self._processes.device) for array in texts.padded(group))
        with self._processes.autocast():
            output: M3Output = model(ids, mask)
        return output, ids, mask

    def write(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """BGE-M3 layout; with adapters also these."""
        if self._lora.rank:
            save_adapter(path / STATE, state)
            state = merged(state, self._lora)
        self.model.save(path, tokenizer_json=self._run.tokenizer_json, state=state)

    def restore(self, path: Path) -> None:
        """Weights of a checkpoint."""
        if self._lora.rank:
            load_adapter(path / STATE, self.model)
        else:
            self.model.load_state_dict(M3Model.load(path).state_dict())
