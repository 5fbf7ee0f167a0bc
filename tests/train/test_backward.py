"""Sub-batches: they really are several, and "gradcache" and "split" really hold less than "plain"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch

from tests.train._gradients import CASES, ROWS, make_task, open_rows
from tests.train._runs import write_rows

PHASE, OBJECTIVE = CASES["distill"]


@pytest.fixture
def task_of(tiny_checkpoint, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", rows=len(ROWS), scores=True)
    store = open_rows(tiny_checkpoint, rows)

    def make(memory: str):
        task = make_task(tiny_checkpoint, rows, store, OBJECTIVE, memory, "ddp")
        task.begin(PHASE)
        task.model.train()
        return task

    return make


@contextmanager
def live_saved_bytes() -> Iterator[list[int]]:
    """[bytes that autograd holds now, most it ever held], of tensors other than parameters."""
    count = [0, 0]

    class Held:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor
            self.size = 0 if isinstance(tensor, torch.nn.Parameter) else tensor.numel() * tensor.element_size()
            count[0] += self.size
            count[1] = max(count)

        def __del__(self) -> None:
            count[0] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        yield count


def run(task, calls: list[tuple[int, int, bool]] | None = None):
    batch = task.collate(ROWS, epoch=0, share=1.0)
    inner = task.model.forward

    def counted(ids, mask):
        if calls is not None:
            calls.append((*ids.shape, torch.is_grad_enabled()))
        return inner(ids, mask)

    task.model.forward = counted
    return batch, task.step(task.model, batch, PHASE, scale=1.0, sync=lambda last: nullcontext())


def test_a_batch_is_split_into_sub_batches_of_at_most_micro_tokens(task_of):
    calls: list[tuple[int, int, bool]] = []
    batch, _ = run(task_of("plain"), calls)
    assert len(calls) > 6
    assert sum(rows for rows, _, _ in calls) == len(batch.queries) + len(batch.passages) == len(ROWS) * 5
    assert all(rows * length <= 80 or rows == 1 for rows, length, _ in calls)
    assert len({length for _, length, _ in calls}) > 3  # they pad to different lengths


def test_gradcache_runs_every_sub_batch_twice_once_without_a_graph(task_of):
    plain: list[tuple[int, int, bool]] = []
    cached: list[tuple[int, int, bool]] = []
    run(task_of("plain"), plain)
    run(task_of("gradcache"), cached)
    half = len(plain)
    assert [call[:2] for call in cached] == [call[:2] for call in plain] * 2
    assert not any(graph for _, _, graph in cached[:half])
    assert all(graph for _, _, graph in cached[half:])


@pytest.mark.parametrize(("memory", "share"), [("split", 0.6), ("gradcache", 0.35)])
def test_less_is_held_for_the_backward_pass(task_of, memory, share):
    peaks = {}
    for name in ("plain", memory):
        task = task_of(name)
        with live_saved_bytes() as count:
            run(task)
        peaks[name] = count[1]
    assert peaks["plain"] > 100_000
    assert peaks[memory] < share * peaks["plain"], peaks


@pytest.mark.parametrize("memory", ["split", "gradcache"])
def test_dropout_is_the_same_in_all_ways(task_of, memory):
    found = []
    for name in ("plain", memory):
        task = task_of(name)
        for module in task.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        torch.manual_seed(5)
        run(task)
        found.append(task.model.colbert_linear.weight.grad.clone())
        found.append(torch.rand(3))  # the generator goes on from the same place
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-5 * found[0].abs().max().item())
    assert torch.equal(found[1], found[3])
