"""Three ways to the same gradient: keep every activation, make them again, or cache what the loss wants.

A step is a list of forward passes over sub-batches and one loss over all their representations. "plain" and "split"
(the model recomputes, see ``M3Model.recompute``) build one graph and go back through it. "gradcache" (arXiv
2101.06983) never holds more than one sub-batch:

1. run all forward passes without a graph, and remember the random state of each;
2. compute the loss on the representations alone, which gives a gradient for each of them;
3. run every forward pass again with a graph and the same random numbers, and feed it these gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from train.contrastive.representations import Representations
from train.engine.processes import random_state, set_random_state
from train.engine.task import Sync

Forward = Callable[[], Representations]
T = TypeVar("T")


def through_the_graph(
    forwards: Sequence[Forward],
    loss_of: Callable[[list[Representations]], tuple[Tensor, T]],
    *,
    sync: Sync,
    idle: int = 0,
) -> T:
    """One graph over all forward passes; gradients are added to the parameters.

    Args:
        forwards: one per sub-batch.
        loss_of: representations of all sub-batches → (loss, anything else).
        sync: see ``Sync``.
        idle: extra forward passes without effect, so that all processes run the same number (sharded models
            communicate in each).

    Returns:
        What ``loss_of`` returned beside the loss.
    """
    with sync(True):
        parts = [forward() for forward in forwards]
        unused = [forwards[0]() for _ in range(idle)]  # before the loss, in which processes exchange too
        loss, other = loss_of(parts)
        nothing = [0.0 * tensor.sum() for part in unused for tensor in part.differentiable]
        torch.stack([loss, *nothing]).sum().backward()
    return other


def gradcache(
    forwards: Sequence[Forward],
    loss_of: Callable[[list[Representations]], tuple[Tensor, T]],
    *,
    sync: Sync,
    idle: int = 0,
) -> T:
    """As ``through_the_graph``, with the activations of one sub-batch at a time and every forward pass run twice."""
    passes = [*forwards, *[forwards[0]] * idle]
    states, parts = [], []
    with torch.no_grad():
        for forward in passes:
            states.append(random_state())
            parts.append(forward().leaves())
    loss, other = loss_of(parts[: len(forwards)])
    loss.backward()
    after = random_state()
    for number, (forward, state, cached) in enumerate(zip(passes, states, parts, strict=True), start=1):
        with sync(number == len(passes)):
            set_random_state(state)
            pairs = zip(forward().differentiable, cached.differentiable, strict=True)
            products = [(new * (0.0 if old.grad is None else old.grad)).sum() for new, old in pairs]
            torch.stack(products).sum().backward()
    set_random_state(after)
    return other
