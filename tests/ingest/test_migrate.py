"""A collection gets another model, in a folder or file and on stubs of servers: nothing is lost or mixed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.stubs.milvus_stub import MilvusStub
from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import CollectionMismatchError, CollectionNotFoundError, ConfigError, StoreError, StoreRequestError
from m3_vdb.ingest import async_migrate, cancel_migration, drop_old, migrate
from m3_vdb.retry import ONCE, is_transient
from m3_vdb.stores import CollectionOptions, open_store
from m3_vdb.stores.succession import aliases, succession
from m3_vdb.types import Document, M3Embeddings, Passage
from tests.ingest._fakes import IDENTITY, HashEmbed, documents
from tests.ingest._migrate_victim import NEW

SPLIT = [
    Document("s", "one two", passage=Passage("s", 1, 2, 0, 7)),
    Document("s¶2", "three", passage=Passage("s", 2, 2, 7, 12)),
]
SOURCED = Document("f", "a file", "Title", {"lang": "de", "n": 1}, source="notes")


ENGINES = ["qdrant", "milvus"]


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a stub of a server."""
    with served(request.param) as url:
        yield url


@contextmanager
def served(engine: str) -> Iterator[str]:
    if engine == "qdrant":
        rest = RestStub()
        yield f"qdrant://{rest.address}"
        rest.close()
    else:
        milvus = MilvusStub()
        yield milvus.url
        milvus.close()


@pytest.fixture(params=["notes.qdrant", "notes.milvus.db", *ENGINES])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a collection with an index, and with exact words where there are such; on a server an alias."""
    options = CollectionOptions(indexes={"lang": "keyword"}, bm25="qdrant" in request.param, storage="half")
    if request.param not in ENGINES:
        url = str(tmp_path / request.param)
        write(url, [*documents(20), *SPLIT, SOURCED], options)
        yield url
        return
    with served(request.param) as base:
        write(f"{base}/first", [*documents(20), *SPLIT, SOURCED], options)
        point(f"{base}/first", "notes")
        yield f"{base}/notes"


def write(url: str, given: list[Document], options: CollectionOptions | None = None) -> None:
    with open_store(url, IDENTITY, options=options or CollectionOptions()) as store:
        store.upsert(given, HashEmbed().encode_documents([one.content for one in given]))


def point(url: str, alias: str) -> None:
    heir = succession(url, None)
    heir._aliases.point(alias, url.rpartition("/")[2])
    heir.close()


def exists(url: str) -> bool:
    with suppress(CollectionNotFoundError), open_store(url):
        return True
    return False


def held(url: str) -> dict[str, Document]:
    with open_store(url) as store:
        return {one.id: one for some in store.documents() for one in some}


class Meanwhile(HashEmbed):
    """The new model; calls of others happen while it encodes for the first times."""

    def __init__(self, *calls: Callable[[], None]) -> None:
        super().__init__(identity=NEW)
        self.calls = list(calls)

    def encode_documents(self, texts: list[str]) -> M3Embeddings:
        if self.calls:
            self.calls.pop(0)()
        return super().encode_documents(texts)


open_to_others = pytest.mark.parametrize("place", ["notes.qdrant", *ENGINES], indirect=True)
"""A file of milvus-lite is open to the migration alone."""


@open_to_others
def test_what_others_write_meanwhile_is_there_and_nothing_else_changes(place: str) -> None:
    def first() -> None:
        with open_store(place, IDENTITY) as store:
            store.delete(["d1", "d2"])
            store.update(["d3"], {"n": "other"})
            changed = [Document("d4", "changed text"), Document("new", "a new text")]
            store.upsert(changed, HashEmbed().encode_documents([one.text for one in changed]))

    before = held(place)
    embed = Meanwhile(first, lambda: write(place, [Document("later", "later text")]))
    report = migrate(place, embed, old_embed=HashEmbed(), batch_documents=64)
    assert report.switched
    assert report.passes == 5, "all; what came meanwhile, twice; nothing; nothing, with the place closed"
    after = held(place)
    expected = {
        **{id: one for id, one in before.items() if id not in ("d1", "d2")},
        "d3": Document("d3", before["d3"].text, payload={"n": "other"}),
        "d4": Document("d4", "changed text"),
        "new": Document("new", "a new text"),
        "later": Document("later", "later text"),
    }
    assert after == expected
    with open_store(place, NEW) as store:
        assert store.field_types == {"lang": "keyword"}
        assert store.facts().options["storage"] == "half"
        assert store.has_bm25 == ("milvus" not in place)
        (query,) = HashEmbed(identity=NEW).encode_queries(["a new text"])
        assert store.query(query, limit=1)[0].document.id == "new"
    with pytest.raises(CollectionMismatchError, match="holds vectors of model 'new'"):
        open_store(place, IDENTITY)
    assert migrate(place, HashEmbed(identity=NEW)).switched, "already"


def test_compared_then_switched_then_the_old_one_is_dropped(place: str, tmp_path: Path) -> None:
    judged = tmp_path / "judged.jsonl"
    judged.write_text(json.dumps({"query": SOURCED.content, "relevant": ["f"]}) + "\n")
    dry = migrate(place, HashEmbed(identity=NEW), dry_run=True)
    assert (dry.documents, dry.encoded, dry.switched) == (23, 0, False)
    built = migrate(place, HashEmbed(identity=NEW), old_embed=HashEmbed(), switch=False)
    assert built.comparison is not None
    assert built.comparison.overlap == 1, "the two differ in name alone"
    assert held(place).keys() == {*(f"d{i}" for i in range(20)), "s", "s¶2", "f"}
    write(place, [Document("late", "late text")])
    again = HashEmbed(identity=NEW)
    done = asyncio.run(async_migrate(place, again, judged=judged))
    assert done.switched
    assert again.encoded[0] == "late text", "the next run does what has changed"
    assert done.comparison is not None
    assert done.comparison.new.ndcg == 1
    assert done.comparison.overlap is None
    third = HashEmbed(identity=IDENTITY)
    with pytest.raises(ConfigError, match=r"is still kept: delete it first.*--drop-old"):
        migrate(place, third)
    assert drop_old(place) is not None
    assert drop_old(place) is None
    assert "late" in held(place)
    assert migrate(place, third).switched, "and back"
    assert drop_old(place) is not None
    assert "late" in held(place)


def test_a_file_of_milvus_lite_has_the_new_one_by_its_old_name_too(tmp_path: Path) -> None:
    """Version 0.1.0 opens the collection m3."""
    url = str(tmp_path / "notes.milvus.db")
    write(url, documents(3))

    def others() -> None:
        with pytest.raises(StoreError, match="is open already in this process"):
            write(url, [])

    migrate(url, Meanwhile(others))
    drop_old(url)
    heir = succession(url, None)
    assert heir._aliases.target("m3") == heir.old == "m3__m3_0123abcd"
    heir.close()


def test_given_up(place: str) -> None:
    migrate(place, HashEmbed(identity=NEW), switch=False)
    other = HashEmbed(identity=IDENTITY.__class__("other", "99999999", dense_dim=8, multi_vector_dim=4))
    with pytest.raises(ConfigError, match="is not finished: finish it with its model, or give it up"):
        migrate(place, other)
    assert cancel_migration(place) is not None
    assert cancel_migration(place) is None
    assert migrate(place, other).switched


@open_to_others
def test_rows_that_cannot_be_stored_stop_it(place: str) -> None:
    poisoned = Meanwhile(lambda: write(place, [Document("bad", "nan")]))
    write(place, [])
    with pytest.raises(ConfigError, match=r"1 rows of .* cannot be stored with the model 'new', so nothing"):
        migrate(place, poisoned)
    with open_store(place, IDENTITY) as store:
        store.delete(["bad"])
    assert migrate(place, HashEmbed(identity=NEW)).switched


def test_a_name_of_its_own_needs_an_alias(server: str) -> None:
    url = f"{server}/mine"
    write(url, documents(3))
    write(f"{server}/taken", documents(1))
    embed = HashEmbed(identity=NEW)
    live = "mine-live" if url.startswith("qdrant") else "mine_live"
    with pytest.raises(
        ConfigError, match=rf"no alias can have it: pass .* \(--alias {live}\), after the switch {url[:6]}"
    ):
        migrate(url, embed)
    with pytest.raises(ConfigError, match="alias 'taken': that is a collection already"):
        migrate(url, embed, alias="taken")
    assert migrate(url, embed, alias=live).switched
    assert held(f"{server}/{live}").keys() == held(url).keys()
    with pytest.raises(
        StoreRequestError, match=r"was replaced by 'mine(--m3-|__m3_)0123abcd', and this write is not in it: open"
    ):
        write(url, [Document("lost", "lost")])
    assert migrate(url, embed, alias=live).switched, "already"
    assert drop_old(url) == "mine"


def test_old_and_new_models_never_meet_on_an_alias(server: str) -> None:
    """Who has the alias open stays with the old collection, and is told so when writing."""
    url = f"{server}/notes"
    write(f"{server}/first", documents(5))
    point(f"{server}/first", "notes")
    (query,) = HashEmbed().encode_queries(["w1 w2"])
    with open_store(url, IDENTITY) as store:
        found = store.rank(query)
        heir = succession(url, NEW)
        heir.claim()
        store.upsert([Document("a", "w1")], HashEmbed().encode_documents(["w1"]))
        with (
            heir.closed(),
            pytest.raises(StoreRequestError, match=r"is being replaced .* try again in a") as told,
        ):
            store.delete(["a"])
        assert is_transient(told.value)
        store.delete(["a"])
        heir.close()
        migrate(url, HashEmbed(identity=NEW))
        store._followed.asked = 0.0
        assert store.rank(query) == found
        with pytest.raises(StoreRequestError, match="was replaced") as refused:
            store.update(["d1"], {})
        assert not is_transient(refused.value)
    with open_store(url, NEW) as store:
        write(f"{server}/same", [])
        assert store.count() == 5


def test_two_machines(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that works changes its mark; one that does not is taken for dead, and finds out when it is not."""
    url, live = f"{server}/mine", "mine_live"
    write(url, documents(3))
    other = succession(url, NEW, alias=live)
    monkeypatch.setattr(aliases, "MACHINE", "other 0")
    other.claim()
    monkeypatch.undo()
    monkeypatch.setattr(aliases.time, "sleep", lambda _: other.beat())
    with pytest.raises(ConfigError, match=r"mine_live is being migrated by process \d+ on other: wait for it"):
        migrate(url, HashEmbed(identity=NEW), alias=live)
    monkeypatch.setattr(aliases.time, "sleep", lambda _: None)
    assert not migrate(url, HashEmbed(identity=NEW), alias=live, switch=False).switched
    with pytest.raises(ConfigError, match="the migration was ended elsewhere: run one at a time"):
        other.beat()
    again = succession(url, NEW, alias=live)
    again.claim()
    with pytest.raises(ConfigError, match=r"mine_live: process \d+ on .* has taken the migration over"):
        other.switch()
    assert not exists(f"{server}/{live}")
    again.close()
    monkeypatch.setattr(aliases, "BEAT_SECONDS", 0.001)
    write(url, [Document("new", "a new text")])

    def taken() -> None:
        while not stop.wait(0.01):
            other.claim()

    stop = threading.Event()
    with pytest.raises(ConfigError, match="has taken the migration over"):
        migrate(url, Meanwhile(taken), alias=live, stop=stop)
    other.close()
    assert migrate(url, HashEmbed(identity=NEW), alias=live).switched


def test_texts_of_a_corpus(tmp_path: Path) -> None:
    """Of what the corpus has; the rest keeps its own, and nothing may be without one."""
    url = str(tmp_path / "notes.qdrant")
    write(url, [Document("a", "", payload={"n": 1}), Document("b", "own text"), Document("c", ""), *cut("", "")])
    corpus = [Document("a", "a text", "T"), Document("s", "one twothree"), Document("else", "not in the collection")]
    embed = HashEmbed(identity=NEW)
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match=r"1 documents \(c\) of .* have no text there, and the corpus does not"):
            migrate(url, embed, corpus=corpus, dry_run=dry_run)
    assert not embed.encoded
    corpus.append(Document("c", "c text"))
    short = [Document("s", "one two"), *corpus]
    with pytest.raises(ConfigError, match=r"1 documents \(s¶2\) of .* are not parts of the texts that the corpus has"):
        migrate(url, embed, corpus=short)
    assert migrate(url, embed, corpus=corpus).switched
    expected = [Document("a", "a text", "T", {"n": 1}), Document("b", "own text"), Document("c", "c text")]
    assert held(url) == {one.id: one for one in [*expected, *SPLIT]}
    with open_store(url, NEW) as store:
        assert store.get(["s¶2"])[0].passage == SPLIT[1].passage


def cut(*texts: str) -> list[Document]:
    return [replace(one, text=text) for one, text in zip(SPLIT, texts, strict=True)]


def test_an_alias_that_moves_to_the_same_model_is_followed(server: str) -> None:
    write(f"{server}/first", documents(5))
    write(f"{server}/second", documents(7))
    point(f"{server}/first", "notes")
    with open_store(f"{server}/notes", IDENTITY) as store:
        assert store.count() == 5
        point(f"{server}/second", "notes")
        store._followed.asked = 0.0
        assert store.count() == 7


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://", "memory:// ends with its process"),
        ("x.milvus.db", r"there is no collection in .*x.milvus.db: check the name"),
    ],
)
def test_stores_without_a_place_to_switch(url: str, words: str) -> None:
    with pytest.raises((ConfigError, CollectionNotFoundError), match=words):
        migrate(url, HashEmbed(identity=NEW), retry=ONCE)
