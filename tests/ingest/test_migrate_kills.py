"""kill -9 at any moment of a migration: what is served is whole, and the next run ends as an undisturbed one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import StoreRequestError
from m3_vdb.ingest import drop_old
from m3_vdb.stores import open_store
from m3_vdb.types import Document
from tests._soak import soak
from tests.ingest._fakes import IDENTITY, HashEmbed, documents
from tests.ingest._migrate_victim import NEW, killed, run

EVENTS = {"folder": 20, "server": 24}
"""Of an undisturbed migration."""
DROP_EVENTS = 4


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a collection of 20 documents."""
    stub = RestStub() if request.param == "server" else None
    url = str(tmp_path / "notes.qdrant") if stub is None else f"qdrant://{stub.address}/notes"
    write(url, documents(20))
    yield url
    if stub is not None:
        stub.close()


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
    return url.removesuffix("/notes") + "/live" if url.startswith("qdrant:") else url


def exists(url: str) -> bool:
    with suppress(Exception), open_store(url):
        return True
    return False


@pytest.mark.parametrize("place", ["folder", "server"], indirect=True)
@pytest.mark.parametrize("seed", [0, *soak(range(1, 20))])
def test_killed_and_run_again(place: str, seed: int) -> None:
    rng = random.Random(seed)
    events = EVENTS["server" if place.startswith("qdrant:") else "folder"]
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
