"""Detects silent training failures: dead heads, batches without negatives, weights that do not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

SAMPLE: Final = 64
"""Numbers of each parameter that are compared; an optimiser moves all of a matrix or nothing."""
FEW_STEPS: Final = 20
"""A phase of fewer optimiser steps barely changes a model, at rates that do no harm."""
DEAD: Final = 0.5
"""Share of all-zero sparse vectors from which the head counts as dying (FlagEmbedding #982 saw 99 %)."""


class Guards:
    """Each warning is given when it first occurs, and again only after it went away.

    Args:
        warn: where warnings go.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._active: set[str] = set()

    def say(self, name: str, text: str, *, active: bool) -> None:
        """Give a warning if it is active and was not."""
        if active and name not in self._active:
            self._warn(text)
        (self._active.add if active else self._active.discard)(name)

    def look(self, measures: dict[str, float], step: int) -> None:
        """Look at the measures of a step."""
        zero = measures.get("sparse/zero_share", 0.0)
        self.say(
            "dead",
            f"step {step}: {zero:.0%} of the passages have an all-zero sparse vector, the head is dying: lower "
            f"head_learning_rate, or begin with a phase that trains the sparse head alone",
            active=zero > DEAD,
        )
        candidates = measures.get("candidates", 2.0)
        self.say(
            "alone",
            f"step {step}: queries have {candidates:.0f} candidate, their positive, and nothing is learned: give rows "
            f"with 'neg', or batches of more than one row",
            active=candidates < 2,
        )
        duplicates = measures.get("excluded_share", 0.0)
        self.say(
            "duplicates",
            f"step {step}: {duplicates:.0%} of the candidates answer a query that they were not drawn for and were "
            f"left out: the rows repeat themselves; remove duplicates or make batches smaller",
            active=duplicates > 0.2,
        )
        self.say(
            "still",
            f"step {step}: the gradient is 0, nothing is learned: positives are trivially easy, or a head is dead",
            active=measures["gradient_norm"] == 0.0,
        )

    def count_steps(self, phase: str, steps: int, *, batches: int) -> None:
        """Say that a phase which is given in epochs comes to few optimiser steps."""
        self.say(
            "few",
            f"phase {phase} has only {steps} optimiser steps ({batches} batches per epoch), too few to learn from: "
            f"raise --epochs, or make batches smaller with --batching.rows (train/recipes/few-rows-finetune.yaml)",
            active=steps < FEW_STEPS,
        )


class UnchangedWeights:
    """Whether training changed the weights that it was meant to change (FlagEmbedding #1547 found that it need not).

    Args:
        model: at the beginning of a phase.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = {
            name: _sample(p)
            for name, p in model.named_parameters()
            # rows of tokens and positions that do not occur stay where they are, rightly
            if p.requires_grad and p.dim() > 1 and "embeddings" not in name
        }

    def check(self, model: nn.Module, phase: str, guards: Guards) -> None:
        """Warn if nothing moved, or a matrix did not."""
        now = dict(model.named_parameters())
        still = [name for name, old in self._before.items() if _sample(now[name]).equal(old)]
        guards.say(
            "movement",
            f"phase {phase}: {len(still)} of {len(self._before)} trained matrices did not move "
            f"({', '.join(still[:3])} …): is the learning rate 0, or is their gradient?",
            active=bool(still),
        )


def _sample(parameter: Tensor) -> Tensor:
    local: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter  # a shard of a DTensor
    flat = local.detach().flatten()
    step = max(1, len(flat) // SAMPLE)
    return torch.clone(flat[::step])
