"""Weights for a task, chosen on dev queries and reported on others: never on those that they were chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from m3_vdb.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.measuring import Asked, Searcher, StoreOpener
from m3_vdb.evaluation.metrics import Run
from m3_vdb.evaluation.protocol import WEIGHTED, Mode, Part, Protocol
from m3_vdb.evaluation.weighting import Pool, tune
from m3_vdb.fusion import Weights


@dataclass(frozen=True, slots=True)
class Tuned:
    """Weights of one mode, by their nDCG@10 on dev; ``results.Tuning`` adds what they are worth elsewhere."""

    mode: Mode
    before: Weights
    after: Weights
    queries: int
    value_before: float
    value_after: float


def tune_weights(
    dev: Sequence[Collection], embed: M3EmbeddingFunction, opener: StoreOpener, asked: Asked
) -> tuple[Protocol, tuple[Tuned, ...]]:
    """The protocol with the best weights for the dev queries.

    The candidates of "dense_sparse" are cut to the first ``rerank`` of each list here, which are enough to tell which
    weights are good.

    Args:
        dev: the reported collections with other queries; they share the stores.
        embed: the model.
        opener: opens the stores.
        asked: modes, and the weights to begin with.

    Raises:
        ConfigError: a dev collection has no judgements.
    """
    protocol, found = asked.protocol, []
    asked = replace(
        asked,
        out=asked.out / "dev" if asked.out is not None else None,
        protocol=replace(protocol, candidates=protocol.rerank),
    )
    for mode in (mode for mode in WEIGHTED if mode in asked.modes):
        pool, before = _pool(mode, dev, embed, opener, asked), protocol.weights_of(mode)
        after, value = tune(pool, before, mode)
        found.append(Tuned(mode, before, after, pool.queries, pool.mean(before), value))
        protocol = protocol.with_weights(mode, after)
    return replace(protocol, name=f"{protocol.name}, weights tuned on dev"), tuple(found)


def check_dev(dev: Sequence[Collection], test: Sequence[Collection]) -> None:
    """Refuse dev queries that would make the tuned figures worthless.

    Raises:
        ConfigError: a dev collection has no judgements, no counterpart, or a query that is also reported.
    """
    queries = {collection.name: collection.queries.keys() for collection in test}
    for collection in dev:
        if not collection.qrels:
            raise ConfigError(f"{collection.name}: the dev queries have no judgements, and tuning weights needs some")
        if collection.name not in queries:
            raise ConfigError(f"{collection.name}: no such collection is evaluated, so its dev queries tune nothing")
        if shared := sorted(collection.queries.keys() & queries[collection.name]):
            raise ConfigError(f"{collection.name}: query {shared[0]!r} is in dev and in test: tune on other queries")


def _pool(mode: Mode, dev: Sequence[Collection], embed: M3EmbeddingFunction, opener: StoreOpener, asked: Asked) -> Pool:
    """The raw scores of the candidates of the dev queries."""
    found: list[tuple[Collection, dict[Part, Run]]] = []
    for collection in dev:
        with opener(collection.name, True) as store:
            found.append((collection, Searcher(collection, embed, store, asked).probe(mode, WEIGHTED[mode])))
    return Pool.of(found)
