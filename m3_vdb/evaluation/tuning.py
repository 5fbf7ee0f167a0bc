"""Weights for a task, chosen on dev queries and reported on others: never on those that they were chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.measuring import Asked, Searcher
from m3_vdb.evaluation.protocol import WEIGHTED, Mode, Protocol
from m3_vdb.evaluation.weighting import Pool, tune
from m3_vdb.weights import Weights


@dataclass(frozen=True, slots=True)
class Tuned:
    """Weights of one mode, by their nDCG@10 on dev; ``results.Tuning`` adds what they are worth elsewhere."""

    mode: Mode
    before: Weights
    after: Weights
    queries: int
    value_before: float
    value_after: float


def tune_weights(dev: Sequence[Collection], asked: Asked) -> tuple[Protocol, tuple[Tuned, ...]]:
    """The protocol with the best weights for the dev queries.

    The candidates of "dense_sparse" are cut to the first ``rerank`` of each list here, which are enough to tell which
    weights are good.

    Args:
        dev: the reported collections with other queries; they share the stores.
        asked: what is asked of the reported ones; the weights to begin with.
    """
    protocol, found = asked.protocol, []
    for mode, pool in _pools(dev, asked).items():
        before = protocol.weights_of(mode)
        after, value = tune(pool, before, mode)
        found.append(Tuned(mode, before, after, pool.queries, pool.mean(before), value))
        protocol = protocol.with_weights(mode, after)
    return replace(protocol, name=f"{protocol.name}, weights tuned on dev"), tuple(found)


def check_dev(dev: Sequence[Collection], test: Sequence[Collection], modes: Sequence[Mode]) -> None:
    """Refuse dev queries that would make the tuned figures worthless, or that would tune nothing.

    Raises:
        ConfigError: a dev collection has no judgements, no counterpart, or a query that is also reported; or none of
            the modes has weights.
    """
    if not any(mode in WEIGHTED for mode in modes):
        raise ConfigError(f"modes={list(modes)}: none has weights to tune: add {' or '.join(WEIGHTED)}")
    queries = {collection.name: collection.queries.keys() for collection in test}
    for collection in dev:
        if not collection.qrels:
            raise ConfigError(f"{collection.name}: the dev queries have no judgements, and tuning weights needs some")
        if collection.name not in queries:
            raise ConfigError(f"{collection.name}: no such collection is evaluated, so its dev queries tune nothing")
        if shared := sorted(collection.queries.keys() & queries[collection.name]):
            raise ConfigError(f"{collection.name}: query {shared[0]!r} is in dev and in test: tune on other queries")


def _pools(dev: Sequence[Collection], asked: Asked) -> dict[Mode, Pool]:
    """The raw scores of the candidates of the dev queries, for every mode with weights."""
    asked = replace(asked, part="dev.", protocol=replace(asked.protocol, candidates=asked.protocol.rerank))
    pools: dict[Mode, list[Pool]] = {mode: [] for mode in WEIGHTED if mode in asked.modes}
    for collection in dev:
        with asked.opener(collection.name, True) as store:
            searcher = Searcher(collection, store, asked)
            for mode, found in pools.items():
                probes = searcher.probe(mode, WEIGHTED[mode])
                found.append(Pool.of([(collection, probes)], passages=asked.passages))
    return {mode: Pool.join(found) for mode, found in pools.items()}
