"""``HybridIndex.open``, and ``AsyncHybridIndex``: the same results without blocking the event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

from m3_vdb import AsyncHybridIndex, Boost, CollectionOptions, Document, HybridIndex, LongDocuments
from m3_vdb.errors import (
    BundleError,
    CollectionMismatchError,
    ConfigError,
    DocumentError,
    M3Error,
    StoreError,
    TextError,
)
from m3_vdb.stores import MemoryStore
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings


class FakeEmbedder:
    """The same text gives the same vectors. While ``gate`` is shut, encoding waits."""

    identity = IDENTITY

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.closed = False

    def encode_documents(self, texts, /):
        self.waiting.set()
        assert self.gate.wait(20)
        if "bad" in texts:
            raise TextError(f"item {texts.index('bad')} is bad", index=texts.index("bad"))
        return make_embeddings(len(texts), seed=sum(map(ord, texts[0])))

    encode_queries = encode_documents

    def close(self):
        self.closed = True


def both() -> tuple[HybridIndex, AsyncHybridIndex]:
    indexes = [HybridIndex(FakeEmbedder(), MemoryStore(IDENTITY)) for _ in range(2)]
    return indexes[0], AsyncHybridIndex(indexes[1])


@pytest.mark.parametrize("name", [name for name in vars(AsyncHybridIndex) if not name.startswith("_")])
def test_methods_take_what_those_of_the_index_take(name):
    ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (AsyncHybridIndex, HybridIndex))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


def test_every_method_of_the_index_has_a_twin():
    public = {name for name, member in vars(HybridIndex).items() if not name.startswith("_")} - {"store", "embed"}
    assert public == {name for name in vars(AsyncHybridIndex) if not name.startswith("_")}


def test_results_are_those_of_the_index():
    async def run() -> None:
        index, twin = both()
        documents = make_documents(12)
        async with twin:
            assert await twin.add(documents, batch_size=5) == index.add(documents, batch_size=5)
            assert await twin.query("text 3", limit=4, offset=1, explain=True) == index.query(
                "text 3", limit=4, offset=1, explain=True
            )
            assert await twin.get(["d3", "none", "d1"]) == index.get(["d3", "none", "d1"])
            texts = ["text 1", "text 7"]
            assert await twin.query_many(texts, limit=3) == index.query_many(texts, limit=3)
            for one in (twin.update(["d1"], {"kind": "new"}), twin.delete(["d3"])):
                await one
            index.update(["d1"], {"kind": "new"})
            index.delete(["d3"])
            assert await twin.get(["d1", "d3"]) == index.get(["d1", "d3"])
            assert await twin.count({"kind": "new"}) == index.count({"kind": "new"}) == 1
            await twin.delete(filter={"kind": "new"})
            assert await twin.count() == 10

    asyncio.run(run())


def test_documents_may_come_one_by_one_from_elsewhere():
    async def documents():
        for document in make_documents(7):
            await asyncio.sleep(0)
            yield document

    async def run() -> None:
        async with both()[1] as twin:
            assert (await twin.add(documents(), batch_size=3)).documents == await twin.count() == 7

    asyncio.run(run())


def test_the_event_loop_goes_on_while_a_text_is_encoded_and_so_do_requests():
    async def run() -> None:
        _, twin = both()
        embed = twin._index.embed
        async with twin:
            await twin.add(make_documents(3))
            embed.gate.clear()
            embed.waiting.clear()
            query = asyncio.create_task(twin.query("text 1"))
            while not embed.waiting.is_set():
                await asyncio.sleep(0.01)
            assert await twin.count() == 3
            assert not query.done()
            embed.gate.set()
            assert len(await query) == 3

    asyncio.run(run())


def test_a_bad_document_is_named_by_its_place_in_all():
    async def run() -> None:
        async with both()[1] as twin:
            texts = [Document(str(i), "bad" if i == 5 else "good") for i in range(8)]
            with pytest.raises(TextError, match="item 5") as raised:
                await twin.add(texts, batch_size=2)
            assert raised.value.index == 5
            assert await twin.count() == 4
            with pytest.raises(DocumentError, match="document 4: its id '1' is that of document 0:"):
                await twin.add([*texts[1:5], texts[1]], batch_size=2)
            for wrong in ({"limit": 0}, {"weights": "none"}, {"candidates": 0}):
                with pytest.raises(ConfigError):
                    await twin.query("a", **wrong)
            with pytest.raises(TextError):
                await twin.query(["a"])

    asyncio.run(run())


def test_a_closed_index_says_so():
    async def run() -> None:
        _, twin = both()
        await twin.close()
        await twin.close()
        with pytest.raises(StoreError, match="closed"):
            await twin.query("a")

    asyncio.run(run())


def test_open_makes_a_collection_and_finds_it_again(tiny_bundle, tmp_path):
    with HybridIndex.open(tmp_path / "notes.qdrant", model=tiny_bundle) as index:
        index.add([{"id": "1", "text": "vector search"}])
        assert "notes.qdrant" in repr(index)

    async def run() -> None:
        async with await AsyncHybridIndex.open(tmp_path / "notes.qdrant", model=tiny_bundle, create=False) as twin:
            assert [hit.document.id for hit in await twin.query("vector")] == ["1"]

    asyncio.run(run())
    with HybridIndex.open(tmp_path / "notes.qdrant", model=tiny_bundle) as index:  # nobody holds the folder
        assert index.count() == 1


def test_open_closes_what_it_opened_and_leaves_what_it_was_given(tmp_path):
    embed = FakeEmbedder()
    index = HybridIndex.open(tmp_path / "notes.qdrant", model=embed)
    index.close()
    index.close()
    with pytest.raises(StoreError):
        index.store.count()
    assert not embed.closed


def test_what_cannot_be_opened_leaves_nothing_open(tiny_bundle, tmp_path):
    with pytest.raises(BundleError):
        HybridIndex.open(tmp_path / "notes.qdrant", model=tmp_path / "nothing")
    assert not (tmp_path / "notes.qdrant").exists()
    with HybridIndex.open(tmp_path / "notes.qdrant", model=FakeEmbedder()):
        pass
    with pytest.raises(CollectionMismatchError):
        HybridIndex.open(tmp_path / "notes.qdrant", model=tiny_bundle)
    with pytest.raises(M3Error):  # FakeEmbedder has no tokenizer to split with
        HybridIndex.open(tmp_path / "notes.qdrant", model=FakeEmbedder(), long_documents=LongDocuments(plan="split"))
    HybridIndex.open(tmp_path / "notes.qdrant", model=FakeEmbedder()).close()


def test_boosts_are_added_by_query_and_query_many():
    async def run() -> None:
        async with await AsyncHybridIndex.open("memory://", model=FakeEmbedder()) as index:
            await index.add([Document(f"d{i}", "the same text", payload={"rank": i}) for i in range(9)])
            (best,) = await index.query("text", boosts=["rank:0.1"], limit=1, explain=True)
            (many,) = await index.query_many(
                ["text"], boosts=(one for one in [Boost("rank", 0.1)]), limit=1, explain=True
            )
            assert (best.document.id, best.parts.boost) == ("d8", pytest.approx(0.8))
            assert [best] == many

    asyncio.run(run())


def test_exact_words_of_the_question_are_searched():
    async def run() -> None:
        options = CollectionOptions(bm25=True)
        async with await AsyncHybridIndex.open("memory://", model=FakeEmbedder(), options=options) as index:
            await index.add([Document(f"d{i}", f"error E10{i}") for i in range(20)])
            (hit,) = await index.query("e1017", weights=(0, 0, 0, 1), limit=1, explain=True)
            (many,) = await index.query_many(["e1017"], weights=(0, 0, 0, 1), limit=1, explain=True)
            assert [hit] == many
            assert (hit.document.id, hit.score) == ("d17", pytest.approx(hit.parts.bm25))

    asyncio.run(run())
