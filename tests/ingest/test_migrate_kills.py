"""kill -9 at any moment of a migration: what is served is whole, and the next run ends as an undisturbed one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from benchmarks.stubs.milvus_stub import MilvusStub
from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import StoreRequestError
from m3_vdb.ingest import drop_old
from m3_vdb.stores import open_store
from m3_vdb.types import Document
from tests._soak import soak
from tests.ingest._fakes import IDENTITY, HashEmbed, documents
from tests.ingest._migrate_victim import NEW, killed, run

EVENTS = {"notes.qdrant": 20, "notes.milvus.db": 24, "qdrant": 24, "milvus": 24}
"""Of an undisturbed migration, in a folder or file and on stubs of servers."""
SEEDS = {"notes.qdrant": 20, "notes.milvus.db": 5, "qdrant": 20, "milvus": 5}
DROP_EVENTS = 4


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a collection of 20 documents."""
    with ExitStack() as opened:
        if request.param == "qdrant":
            rest = opened.enter_context(closing(RestStub()))
            url = f"qdrant://{rest.address}/notes"
        elif request.param == "milvus":
            url = f"{opened.enter_context(closing(MilvusStub())).url}/notes"
        else:
            url = str(tmp_path / request.param)
        write(url, documents(20))
        yield url


def seeds(kind: str, events: int) -> list[Any]:
    return [(kind, events, 0), *soak((kind, events, seed) for seed in range(1, SEEDS[kind]))]


def write(url: str, given: list[Document]) -> None:
    with open_store(url, IDENTITY) as store:
        store.upsert(given, HashEmbed().encode_documents([one.text for one in given]))


def served(url: str) -> dict[str, Document]:
    """What is served at a place now; each document is found by the vectors of the model that the place names."""
    with suppress(Exception):
        url = live(url) if exists(live(url)) else url
    with open_store(url) as store:
        held = {one.id: one for some in store.documents() for one in some}
        for one in list(held.values())[::7]:
            (query,) = HashEmbed(identity=store.identity).encode_queries([one.text])
            assert store.query(query, limit=1)[0].document.text == one.text
    return held


def live(url: str) -> str:
    return url.removesuffix("/notes") + "/live" if "://" in url else url


def exists(url: str) -> bool:
    with suppress(Exception), open_store(url):
        return True
    return False


@pytest.mark.parametrize(
    ("place", "events", "seed"),
    [one for kind, events in EVENTS.items() for one in seeds(kind, events)],
    indirect=["place"],
)
def test_killed_and_run_again(place: str, events: int, seed: int) -> None:
    rng = random.Random(seed)
    expected = {one.id: one for one in documents(20)}
    deaths, refused = 0, set[str]()
    for event in (rng.randrange(1, events), rng.randrange(1, events)):
        deaths += killed(place, event)
        assert without(served(place), refused) == expected
        if not switched(place):  # others write on, if they may
            new = Document(f"late {event}", f"w{event} late", payload={"n": event})
            try:
                write(place, [new])
                expected[new.id] = new
            except StoreRequestError:  # not acknowledged: it may be there or not
                refused.add(new.id)
    assert deaths
    assert run(place).switched
    assert switched(place)
    assert without(served(place), refused) == expected
    killed(live(place), rng.randrange(1, DROP_EVENTS), drop=True)
    assert without(served(place), refused) == expected
    drop_old(live(place))
    assert drop_old(live(place)) is None
    assert without(served(place), refused) == expected


def without(held: dict[str, Document], ids: set[str]) -> dict[str, Document]:
    return {id: one for id, one in held.items() if id not in ids}


def switched(url: str) -> bool:
    with suppress(Exception), open_store(live(url)) as store:
        return store.identity == NEW
    return False
