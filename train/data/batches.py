"""The plan of batches: one data set and one length bucket each, within a budget, the same in every process.

A plan is a pure function of the rows' lengths, the settings, the seed and the epoch, so a resumed run only needs two
numbers. Every row is used once an epoch; what does not fill a batch moves on to the next longer bucket of its data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError
from train.config import Batching

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowSizes:
    """What the plan needs to know of n rows.

    Attributes:
        longest: [n], tokens of the longest text; decides the bucket.
        cost: [n], most tokens that the row can bring into a step.
        dataset: [n], number of its data set.
    """

    longest: Numbers
    cost: Numbers
    dataset: Numbers


def plan_epoch(sizes: RowSizes, batching: Batching, *, least: int, seed: int, epoch: int) -> list[Numbers]:
    """Row numbers of every batch of an epoch, in order.

    Args:
        sizes: of all rows.
        batching: limits.
        least: fewest rows of a batch; fewer at the end of a data set are left out of this epoch.
        seed: of the order.
        epoch: of the order.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(sizes.longest))
    bucket = np.searchsorted(batching.bounds, sizes.longest, side="right")
    limits = batching.limits()
    batches: list[Numbers] = []
    for dataset in np.unique(sizes.dataset):
        carried: list[int] = []
        rows = order[sizes.dataset[order] == dataset]
        for number, (most_rows, most_tokens) in enumerate(limits):
            full, carried = _fill(
                [*carried, *rows[bucket[rows] == number].tolist()], sizes.cost, most_rows, most_tokens, least
            )
            batches += full
        if len(carried) >= least:
            batches.append(np.array(carried))
    return [batches[i] for i in random.permutation(len(batches))]


def _fill(
    rows: list[int], cost: Numbers, most_rows: int | None, most_tokens: int | None, least: int
) -> tuple[list[Numbers], list[int]]:
    """(full batches, rows that fill none); a batch has at least ``least`` rows, whatever they cost."""
    batches: list[Numbers] = []
    batch: list[int] = []
    tokens = 0
    for row in rows:
        if len(batch) >= least and most_tokens is not None and tokens + cost[row] > most_tokens:
            batches.append(np.array(batch))
            batch, tokens = [], 0
        batch.append(row)
        tokens += int(cost[row])
        if len(batch) >= least and (tokens == most_tokens or (most_rows is not None and len(batch) >= most_rows)):
            batches.append(np.array(batch))
            batch, tokens = [], 0
    return batches, batch


class BatchSampler:
    """Batches without end, epoch after epoch, from any position.

    Args:
        sizes: of all rows.
        batching: limits.
        least: fewest rows of a batch.
        seed: of all epochs.
        epoch: number of the first.

    Raises:
        ConfigError: the rows give no batch.
    """

    def __init__(self, sizes: RowSizes, batching: Batching, *, least: int, seed: int, epoch: int = 0) -> None:
        self._sizes, self._batching, self._least, self._seed = sizes, batching, least, seed
        self.epoch = epoch
        self.position = 0
        self._plan = self._new_plan()
        if not self._plan:
            raise ConfigError(f"{len(sizes.longest)} training rows give no batch of {least}: add rows")

    def _new_plan(self) -> list[Numbers]:
        return plan_epoch(self._sizes, self._batching, least=self._least, seed=self._seed, epoch=self.epoch)

    def __len__(self) -> int:
        """Batches of the present epoch."""
        return len(self._plan)

    def __iter__(self) -> Iterator[tuple[int, Numbers]]:
        """(epoch, row numbers of a batch), for ever."""
        while True:
            if self.position >= len(self._plan):
                self.epoch, self.position = self.epoch + 1, 0
                self._plan = self._new_plan()
            batch = self._plan[self.position]
            self.position += 1
            yield self.epoch, batch

    def state_dict(self) -> dict[str, int]:
        """Where the next batch comes from, and of how many rows."""
        return {"epoch": self.epoch, "position": self.position, "rows": len(self._sizes.longest)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            ConfigError: there are more or fewer rows than then.
        """
        if state["rows"] != len(self._sizes.longest):
            raise ConfigError(
                f"there are {len(self._sizes.longest)} rows and were {state['rows']}: resume with the same data, "
                f"or give a new out"
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self._plan = self._new_plan()
