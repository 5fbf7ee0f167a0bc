"""The plan of batches: what may share one, that nothing is lost, and that it goes on wherever it stopped."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3_vdb.encoding.packing import CALL_COST
from m3_vdb.errors import ConfigError
from tests.train._toy import VOCABULARY
from train.config import EDGES, Batching
from train.contrastive.draw import Draw, draw_batch
from train.contrastive.stages import ContrastiveTask, row_sizes
from train.data.batches import BatchSampler, Numbers, RowSizes, plan_epoch
from train.engine.m3_task import GPU_CALL_COST

SEVERAL = settings(max_examples=150, deadline=None, derandomize=True)


@st.composite
def row_sizes_of_any_kind(draw: Any) -> RowSizes:
    """Up to four data sets; lengths over all buckets, some exactly at an edge."""
    rows = draw(st.integers(1, 150))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = np.exp(rng.uniform(np.log(3), np.log(8193), rows)).astype(np.int64)
    at_edge = rng.random(rows) < 0.1
    longest[at_edge] = rng.choice([64, 128, *EDGES], at_edge.sum())
    cost = longest * rng.integers(1, 9, rows) + rng.integers(2, 64, rows)
    return RowSizes(longest, cost, rng.integers(0, draw(st.integers(1, 4)), rows) * 3)


@st.composite
def any_batching(draw: Any) -> tuple[Batching, int]:
    """(batching, least rows of a batch)."""
    least = draw(st.integers(2, 6))
    tokens, rows = draw(st.sampled_from([0, 100, 3_000, 40_000])), draw(st.sampled_from([0, 1, 4, 13]))
    table = draw(st.sampled_from(["none", "pretrain", "finetune"])) if tokens or rows else "finetune"
    scale = 1 / 32 if table == "finetune" else 1 / 1600  # 36 … 6 rows
    fine = [64, 128, 256, *EDGES]
    edges = draw(st.sampled_from([fine, [200], []])) if table == "none" else fine
    return Batching(tokens=tokens, rows=rows, table=table, scale=scale, edges=edges), least


def buckets(sizes: RowSizes, batching: Batching) -> np.ndarray:
    """Number of each row's bucket; a length at an edge belongs to the longer one."""
    return np.array([sum(length >= edge for edge in batching.bounds) for length in sizes.longest])


def fits(rows: np.ndarray, sizes: RowSizes, limit: tuple[int | None, int | None], least: int) -> bool:
    """Whether the rows may be one batch of a bucket with these limits; ``least`` rows always may."""
    most_rows, most_tokens = limit
    within_rows = most_rows is None or len(rows) <= most_rows
    return len(rows) <= least or (within_rows and (most_tokens is None or sizes.cost[rows].sum() <= most_tokens))


@SEVERAL
@given(row_sizes_of_any_kind(), any_batching(), st.integers(0, 3), st.integers(0, 3))
def test_a_plan_keeps_every_promise(sizes, batching_and_least, seed, epoch):
    batching, least = batching_and_least
    limits, bucket = batching.limits(), buckets(sizes, batching)
    plan = plan_epoch(sizes, batching, least=least, seed=seed, epoch=epoch)

    used = Counter(chain.from_iterable(batch.tolist() for batch in plan))
    assert set(used.values()) <= {1}
    dropped = Counter(sizes.dataset[row] for row in range(len(sizes.longest)) if row not in used)
    assert all(count < least for count in dropped.values())
    for number in np.unique(sizes.dataset):  # rows are dropped only from what is left at the very end
        rows = int((sizes.dataset == number).sum())
        if batching.tokens == 0 and batching.table == "none":
            most = max(batching.rows, least)
            assert dropped[number] == (rows % most if rows % most < least else 0)

    for batch in plan:
        assert len(batch) >= least
        assert len(set(sizes.dataset[batch].tolist())) == 1
        # limits fall with the length, so a batch fits into the bucket of its longest row
        assert fits(batch, sizes, limits[bucket[batch].max()], least)

    # a row beside longer ones is a leftover of its bucket, and those are less than one batch there
    for number in np.unique(sizes.dataset):
        moved: dict[int, list[int]] = {}
        for batch in plan:
            if sizes.dataset[batch[0]] == number:
                for row in batch[bucket[batch] < bucket[batch].max()].tolist():
                    moved.setdefault(bucket[row], []).append(row)
        for own, rows in moved.items():
            assert fits(np.array(rows), sizes, limits[own], least)


def equal_rows(counts: dict[int, int], cost: int = 10) -> RowSizes:
    """{length: rows} of one data set, each of the same cost."""
    lengths = np.array([length for length, count in counts.items() for _ in range(count)])
    return RowSizes(lengths, np.full(len(lengths), cost), np.zeros(len(lengths), dtype=np.int64))


def test_leftovers_move_on_to_the_next_longer_bucket_by_eye():
    batching = Batching(tokens=0, rows=4, edges=[100, 200])
    plan = plan_epoch(equal_rows({50: 6, 150: 3, 250: 4}), batching, least=2, seed=0, epoch=0)
    # 4 short ones; 2 short with 2 of 3 middle ones; the middle one left with 3 of 4 long ones; 1 long one is dropped
    lengths = [sorted([50] * 6 + [150] * 3 + [250] * 4)[row] for batch in plan for row in sorted(batch)]
    found = sorted(lengths[start : start + 4] for start in range(0, len(lengths), 4))
    assert found == [[50] * 4, [50, 50, 150, 150], [150, 250, 250, 250]]


def test_every_batch_but_the_last_is_full():
    for batching in (Batching(tokens=0, rows=7), Batching(tokens=75), Batching(tokens=79, rows=99)):
        plan = plan_epoch(equal_rows({20: 40}), batching, least=2, seed=0, epoch=0)
        assert sorted(map(len, plan)) == [5, 7, 7, 7, 7, 7]


def test_a_row_beyond_the_budget_still_has_company():
    for batching in (Batching(tokens=300), Batching(tokens=0, rows=1)):
        plan = plan_epoch(equal_rows({20: 9}, cost=1000), batching, least=3, seed=0, epoch=0)
        assert [len(batch) for batch in plan] == [3, 3, 3]


def test_a_batch_that_just_fills_the_budget_does_not_move_on():
    lengths = {20: 3, 200: 3}
    for batching in (Batching(tokens=30, edges=[100]), Batching(tokens=0, rows=3, edges=[100])):
        plan = plan_epoch(equal_rows(lengths), batching, least=2, seed=0, epoch=0)
        assert sorted(sorted(batch) for batch in plan) == [[0, 1, 2], [3, 4, 5]]


def test_too_few_rows_are_left_out_of_one_epoch_and_not_of_all():
    left_out = set()
    for epoch in range(30):
        plan = plan_epoch(equal_rows({20: 9}), Batching(tokens=0, rows=4), least=2, seed=0, epoch=epoch)
        left_out |= set(range(9)) - set(np.concatenate(plan).tolist())
    assert left_out == set(range(9))


def some_rows(rows: int = 300) -> RowSizes:
    rng = np.random.default_rng(5)
    longest = np.exp(rng.uniform(np.log(10), np.log(8192), rows)).astype(np.int64)
    return RowSizes(longest, longest * 4, rng.integers(0, 3, rows))


def as_lists(plan: list[Numbers]) -> list[list[int]]:
    return [batch.tolist() for batch in plan]


@pytest.mark.parametrize("other", [{"epoch": 3}, {"seed": 2}])
def test_other_epochs_and_seeds_give_other_batches(other):
    arguments = {"least": 2, "seed": 1, "epoch": 2}
    first = as_lists(plan_epoch(some_rows(), Batching(), **arguments))
    assert first == as_lists(plan_epoch(some_rows(), Batching(), **arguments))
    second = as_lists(plan_epoch(some_rows(), Batching(), **arguments | other))
    together = {frozenset(batch) for batch in first} & {frozenset(batch) for batch in second}
    assert len(together) < len(first) / 2
    assert [some_rows().longest[batch[0]] for batch in first] != sorted(some_rows().longest[b[0]] for b in first)


def test_batches_come_in_random_order_of_buckets_and_data_sets():
    sizes = some_rows()
    plan = plan_epoch(sizes, Batching(), least=2, seed=0, epoch=0)
    for feature in (sizes.dataset, buckets(sizes, Batching())):
        runs = [feature[batch].max() for batch in plan]
        changes = sum(a != b for a, b in pairwise(runs))
        assert changes > len(plan) / 3  # in order, there were as many changes as values, about ten


def sampler(state: dict[str, int] | None = None, **changes: Any) -> BatchSampler:
    made = BatchSampler(some_rows(60), Batching(tokens=20_000), **{"least": 2, "seed": 3} | changes)
    if state is not None:
        made.load_state_dict(state)
    return made


def steps(batches: Any, count: int) -> list[tuple[int, list[int]]]:
    return [(epoch, rows.tolist()) for epoch, rows in islice(batches, count)]


def test_a_sampler_resumes_exactly_where_it_stopped():
    length = len(sampler())
    total = 2 * length + length // 2
    assert length > 5
    whole = steps(sampler(), total)
    assert [epoch for epoch, _ in whole[:: length // 2]][:2] == [0, 0]
    assert max(epoch for epoch, _ in whole) >= 2
    for stop in range(total):
        first = sampler()
        before = steps(first, stop)
        again = sampler(first.state_dict())
        assert before + steps(again, total - stop) == whole, stop
        assert len(again) == sum(epoch == again.epoch for epoch, _ in steps(sampler(), 4 * length))


def test_a_sampler_follows_the_plan_of_each_epoch():
    batches = steps(sampler(), 3 * len(sampler()))
    for epoch in (0, 1):
        plan = plan_epoch(some_rows(60), Batching(tokens=20_000), least=2, seed=3, epoch=epoch)
        assert [rows for number, rows in batches if number == epoch] == as_lists(plan)
    made = sampler()
    iterator = iter(made)
    for number in range(3):
        assert made.state_dict() == made.state_dict() == {"epoch": 0, "position": number, "rows": 60}
        assert steps(iterator, 1) == [batches[number]]


def test_a_sampler_of_other_rows_does_not_go_on():
    made = BatchSampler(some_rows(61), Batching(), least=2, seed=3)
    with pytest.raises(ConfigError, match="61 rows and were 60"):
        made.load_state_dict(sampler().state_dict())


def test_a_sampler_may_begin_with_a_later_epoch():
    length = len(sampler())
    later = [batch for batch in steps(sampler(), 4 * length) if batch[0] >= 2][:length]
    assert steps(sampler(epoch=2), length) == later


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_too_few_rows_for_any_batch_are_refused(rows):
    with pytest.raises(ConfigError, match=f"{rows} training rows give no batch of 5"):
        BatchSampler(some_rows(rows), Batching(), least=5, seed=0)


def test_the_tables_of_the_paper():
    """numerics.md §6, typed once more."""
    edges = [500, 1000, 2000, 3000, 4000, 5000, 6000, 7000]
    pretrain = [67_200, 54_720, 37_248, 27_648, 21_504, 17_280, 15_072, 12_288, 9_984]
    finetune = [1_152, 768, 480, 432, 336, 336, 288, 240, 192]
    for table, expected in (("pretrain", pretrain), ("finetune", finetune)):
        batching = Batching(tokens=0, table=table)
        assert batching.bounds == edges
        assert batching.limits() == [(rows, None) for rows in expected]
    per_gpu = Batching(tokens=0, table="pretrain", scale=1 / 96).limits()
    assert [rows for rows, _ in per_gpu] == [700, 570, 388, 288, 224, 180, 157, 128, 104]
    per_gpu = Batching(tokens=0, table="finetune", scale=1 / 24).limits()
    assert [rows for rows, _ in per_gpu] == [48, 32, 20, 18, 14, 14, 12, 10, 8]
    assert [rows for rows, _ in Batching(tokens=0, table="finetune", scale=0.001).limits()] == [2] * 9
    assert Batching(tokens=99, rows=400, table="finetune").limits() == [
        (rows, 99) for rows in [400, 400, 400, 400, 336, 336, 288, 240, 192]
    ]


def test_a_table_decides_the_rows_of_each_bucket():
    batching = Batching(tokens=0, table="finetune", scale=1 / 24)
    lengths = np.repeat([400, 600, 7500], [491, 325, 83])  # three data sets
    plan = plan_epoch(RowSizes(lengths, lengths, lengths), batching, least=2, seed=0, epoch=0)
    # of the short ones 11 are left, and move on to where 10 are allowed; the last has no company. 5 and 3 are left over
    assert Counter(map(len, plan)) == {48: 10, 10: 1, 32: 10, 5: 1, 8: 10, 3: 1}


class ToyRows:
    """What a ``RowStore`` of rows without content offers: texts of these lengths, a positive and then negatives."""

    def __init__(self, queries: Numbers, passages: Numbers) -> None:
        self._queries, self._passages = queries, passages
        self._columns = {
            "query_length": queries,
            "positive_length": passages[:, 0],
            "negative_length": passages[:, 1:].max(1),
            "negatives_count": np.full(len(queries), passages.shape[1] - 1),
            "longest": np.maximum(queries, passages.max(1)),
            "dataset": np.full(len(queries), "/"),
        }

    def column(self, name: str) -> np.ndarray:
        return self._columns[name]

    def rows(self, numbers: list[int]) -> list[dict[str, Any]]:
        tokens = np.arange(8192) % VOCABULARY
        return [
            {
                "query": tokens[: self._queries[row]],
                "query_key": row,
                "positives": [tokens[: self._passages[row, 0]]],
                "positive_keys": [row],
                "positive_scores": [],
                "negatives": [tokens[:length] for length in self._passages[row, 1:]],
                "negative_keys": [0] * (self._passages.shape[1] - 1),
                "negative_scores": [],
            }
            for row in numbers
        ]


def log_uniform(rng: np.random.Generator, low: int, high: int, *shape: int) -> Numbers:
    return np.exp(rng.uniform(np.log(low), np.log(high + 1), shape)).astype(np.int64)


def padding_of_an_epoch(
    rows: int, *, tokens: int, micro_tokens: int, call_cost: int, seed: int = 0
) -> dict[str, float]:
    """Counts of the forward passes that ``ContrastiveTask`` would run on rows with four passages each."""
    rng = np.random.default_rng(seed)
    store: Any = ToyRows(log_uniform(rng, 10, 512, rows), log_uniform(rng, 10, 8192, rows, 4))
    plan = plan_epoch(row_sizes(store, 4), Batching(tokens=tokens), least=2, seed=0, epoch=0)
    task: Any = SimpleNamespace(
        micro_tokens=micro_tokens,
        call_cost=call_cost,
        _forward=lambda *arguments: None,
        _processes=SimpleNamespace(device="cpu"),
    )
    real = padded = passes = 0
    for numbers in plan:
        batch = draw_batch(store.rows(numbers.tolist()), numbers.tolist(), Draw(4, 0), epoch=0, share=1.0)
        assert len(batch.passages) == 4 * len(numbers)
        work = ContrastiveTask.forwards(task, None, batch, ("dense",))  # type: ignore[arg-type]
        real, padded, passes = real + work.tokens, padded + work.padded_tokens, passes + len(work.passes)
    return {"padding": 1 - real / padded, "batches": len(plan), "passes": passes, "tokens": real}


@pytest.mark.parametrize("call_cost", [CALL_COST, GPU_CALL_COST])
@pytest.mark.parametrize(("tokens", "micro_tokens"), [(65_536, 16_384), (16_384, 8_192)])
def test_padding_is_at_most_three_percent_of_a_realistic_mix(tokens, micro_tokens, call_cost, record_property):
    found = padding_of_an_epoch(4_000, tokens=tokens, micro_tokens=micro_tokens, call_cost=call_cost)
    record_property("counts", found)
    assert 0 < found["padding"] <= 0.03, found
    assert found["tokens"] > 4_000 * 4 * 500  # nothing was left out
