"""How many padded tokens a forward pass should have: tried, not guessed.

Sizes are doubled with texts of the longest length in the data until memory runs out or speed no longer grows; the
fastest that fitted is taken. On CPUs the gain ends at a few thousand tokens, on GPUs usually at the end of memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import torch

from train.engine.distributed import most
from train.engine.processes import Processes
from train.model import M3Model

SMALLEST: Final = 1024
LARGEST: Final = 1 << 20
LARGEST_CPU: Final = 1 << 13
"""Where trying ends on CPUs: more brings nothing there, and a system out of memory kills the process instead of saying
so."""
GAIN: Final = 1.03
"""A doubling that brings less than 3 % is not worth its memory."""


def fastest_micro_tokens(model: M3Model, *, longest: int, processes: Processes) -> int:
    """The number of padded tokens of one forward and backward pass that runs fastest, on the slowest process.

    Args:
        model: as it will be trained; its gradients are cleared.
        longest: tokens of the longest text.
        processes: this process.
    """
    model.to(processes.device).train()

    def run(tokens: int) -> None:
        ids = torch.full((max(1, tokens // longest), longest), 5, device=processes.device)
        with processes.autocast():
            output = model(ids, torch.ones_like(ids))
        (output.dense.sum() + output.token_weights.sum() + output.multi_vector.sum()).backward()
        if processes.device.type == "cuda":
            torch.cuda.synchronize()

    tokens = choose(
        run, start=max(SMALLEST, longest), largest=LARGEST if processes.device.type == "cuda" else LARGEST_CPU
    )
    model.zero_grad(set_to_none=True)
    return -most(-tokens, processes.device)


def choose(run: Callable[[int], None], *, start: int, largest: int = LARGEST) -> int:
    """The fastest size by tokens per second, doubling from ``start`` while it is not above ``largest``.

    ``run`` raises OutOfMemoryError at the limit.

    Raises:
        torch.OutOfMemoryError: not even ``start`` fits.
    """
    best, best_speed, tokens = start, 0.0, start
    while tokens <= largest:
        try:
            run(tokens)  # the first call also allocates
            begun = time.perf_counter()
            run(tokens)
        except torch.OutOfMemoryError:
            if tokens == start:
                raise
            torch.cuda.empty_cache()
            return best
        speed = tokens / (time.perf_counter() - begun)
        if speed < best_speed * GAIN:
            return best
        best, best_speed, tokens = tokens, speed, tokens * 2
    return best
