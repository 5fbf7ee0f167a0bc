"""The search for the fastest sub-batch, on a machine that is made up: speeds and the end of memory are given."""

from __future__ import annotations

import pytest
import torch

from train.engine import run as engine


def machine(monkeypatch, *, memory: int, speed: dict[int, float]):
    """(run, sizes tried): a pass of n tokens takes n / speed[n] seconds and fails beyond ``memory``."""
    now, tried = [0.0], []

    def run(tokens: int) -> None:
        tried.append(tokens)
        if tokens > memory:
            raise torch.OutOfMemoryError
        now[0] += tokens / speed[tokens]

    monkeypatch.setattr(engine.time, "perf_counter", lambda: now[0])
    return run, tried


def test_doubling_ends_where_memory_ends(monkeypatch):
    run, tried = machine(monkeypatch, memory=4096, speed={1024: 1.0, 2048: 2.0, 4096: 3.0})
    assert engine.choose(run, start=1024) == 4096
    assert max(tried) == 8192


def test_doubling_ends_where_speed_no_longer_grows(monkeypatch):
    run, tried = machine(monkeypatch, memory=1 << 30, speed={1024: 1.0, 2048: 1.5, 4096: 1.52, 8192: 9.0})
    assert engine.choose(run, start=1024) == 2048  # 4096 brings less than 3 %, so 8192 is not tried
    assert max(tried) == 4096


def test_a_text_that_does_not_fit_at_all_is_an_error(monkeypatch):
    run, _ = machine(monkeypatch, memory=100, speed={})
    with pytest.raises(torch.OutOfMemoryError):
        engine.choose(run, start=1024)


def test_trying_ends_at_the_largest_size(monkeypatch):
    run, tried = machine(monkeypatch, memory=1 << 30, speed={1024: 1.0, 2048: 2.0, 4096: 4.0, 8192: 8.0})
    assert engine.choose(run, start=1024, largest=4096) == 4096
    assert max(tried) == 4096
