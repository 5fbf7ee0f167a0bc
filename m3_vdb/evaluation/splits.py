"""Reported queries and dev queries over the same documents, so that both are asked of one store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import Collection, thin


def thin_splits(
    test: Sequence[Collection],
    dev: Sequence[Collection],
    *,
    max_documents: int | None = None,
    max_queries: int | None = None,
    seed: int = 0,
) -> tuple[list[Collection], list[Collection]]:
    """Thin collections with their dev queries; the judged documents of both stay.

    Args:
        test: what is reported.
        dev: collections of the same names, or none.
        max_documents: as ``thin``.
        max_queries: as ``thin``, for each of the two.
        seed: as ``thin``.

    Raises:
        ConfigError: a dev collection has no counterpart, or two collections have one name.
    """
    tests, devs = _by_name(test, max_queries, seed), _by_name(dev, max_queries, seed)
    if strangers := sorted(devs.keys() - tests.keys()):
        raise ConfigError(f"{strangers[0]}: no such collection is evaluated, so its dev queries tune nothing")
    for name, one in tests.items():
        other = devs.get(name)
        both = one if other is None else _joined(one, other)
        documents = thin(both, max_documents=max_documents, seed=seed).documents
        tests[name] = replace(one, documents=documents)
        if other is not None:
            devs[name] = replace(other, documents=documents)
    return list(tests.values()), list(devs.values())


def _by_name(collections: Sequence[Collection], max_queries: int | None, seed: int) -> dict[str, Collection]:
    found: dict[str, Collection] = {}
    for one in collections:
        if one.name in found:
            raise ConfigError(f"two collections have the name {one.name!r}: their figures could not be told apart")
        found[one.name] = thin(one, max_queries=max_queries, seed=seed)
    return found


def _joined(one: Collection, other: Collection) -> Collection:
    if shared := sorted(one.queries.keys() & other.queries.keys()):
        raise ConfigError(f"{one.name}: query {shared[0]!r} is in dev and in test: tune on other queries")
    return replace(
        one,
        queries={**one.queries, **other.queries},
        qrels={**one.qrels, **other.qrels},
        answers={**one.answers, **other.answers},
    )
