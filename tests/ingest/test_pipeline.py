"""Good documents are stored whatever stands beside them; the report counts everything."""

import asyncio
import inspect
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m3_vdb import Document, M3EmbeddingFunction
from m3_vdb.errors import CollectionMismatchError, DocumentError
from m3_vdb.ingest import IngestReport, Progress, Rejected, async_ingest, ingest
from m3_vdb.stores import MemoryStore
from tests.ingest._fakes import IDENTITY, Faulty, HashEmbed, documents, rows
from tests.serving._fakes import embed_with


@pytest.fixture(scope="module")
def embed(tiny_bundle: Path) -> M3EmbeddingFunction:
    return M3EmbeddingFunction(tiny_bundle, runtime="onnxruntime", device="cpu")


def test_what_is_stored_is_what_the_embedding_function_gives(embed: M3EmbeddingFunction) -> None:
    documents = [Document("a", "dense vector"), Document("b", "поиск слово", title="Suche"), Document("c", "")]
    with MemoryStore(embed.identity) as store:
        report = ingest(documents, embed, store)
        assert (report.documents, report.rejected, store.count()) == (3, [], 3)
        expected = embed.encode_documents([document.content for document in documents])
        assert report.tokens == expected.token_counts.sum()
        hit = store.query(expected[1], limit=1, explain=True)[0]
    assert hit.document == documents[1]
    assert hit.parts is not None
    assert hit.parts.dense == pytest.approx(1, abs=1e-5)
    assert hit.parts.multi_vector == pytest.approx(1, abs=1e-5)


def test_bad_items_are_set_aside_and_every_good_one_is_stored(embed: M3EmbeddingFunction) -> None:
    items = [
        Document("a", "dense"),
        Rejected("file, line 2", "not JSON"),
        Document("b", "lone \ud800 surrogate"),
        Document("c", "sparse"),
        Document("d", "payload", payload={"bad": object()}),
        Document("e", "search"),
    ]
    with MemoryStore(embed.identity) as store:
        report = ingest(items, embed, store)
        stored = {document.id for document in store.get(["a", "b", "c", "d", "e"])}
    assert stored == {"a", "c", "e"}
    assert [rejected.where for rejected in report.rejected] == ["file, line 2", "b", "d"]
    assert "surrogate" in report.rejected[1].reason


def test_a_text_that_makes_the_model_return_nan_costs_itself_only(embed: M3EmbeddingFunction) -> None:
    poison = embed.tokenizer.encode(["model"], max_length=8).ids[1]

    class PoisonedSession:
        description = "poisoned"

        def run(self, outputs, input_ids, attention_mask):
            raw = dict(embed.session.run(outputs, input_ids, attention_mask))
            raw["dense_vecs"][(input_ids == poison).any(axis=1)] = np.nan
            return raw

    poisoned = embed_with(PoisonedSession(), embed.bundle.path)
    with MemoryStore(embed.identity) as store:
        report = ingest([Document("a", "token"), Document("b", "model"), Document("c", "text")], poisoned, store)
        assert store.count() == report.documents == 2
    assert [rejected.where for rejected in report.rejected] == ["b"]


def test_progress_is_told_after_every_forward_pass_and_batch_and_truncation_is_counted(
    embed: M3EmbeddingFunction,
) -> None:
    documents = [Document(str(i), "vector " * (100 if i == 3 else 2)) for i in range(5)]
    seen: list[Progress] = []
    with MemoryStore(embed.identity) as store:
        report = ingest(documents, embed, store, batch_documents=2, progress=seen.append)
    assert sorted({state.documents for state in seen} - {0}) == [2, 4, 5]
    assert [state.encoded_rows for state in seen] == sorted(state.encoded_rows for state in seen)
    assert {2, 3, 4, 5} <= {state.encoded_rows for state in seen}, "texts of unlike lengths are two forward passes"
    assert seen[-1].encoded_tokens == report.tokens
    assert report.truncated == 1


def test_rows_of_the_same_id_are_rejected_after_the_first(tmp_path: Path) -> None:
    items = [Document("a", "one"), Document("b", "two"), Document("a", "three"), Document("a", "one")]
    letters = tmp_path / "bad.jsonl"
    for size in (1, 2, 8):
        with MemoryStore(IDENTITY) as store:
            report = ingest(items, HashEmbed(), store, batch_documents=size, rejected=letters)
            assert [document.text for document in store.get(["a", "b"])] == ["one", "two"]
        assert report.documents == 2
        assert report.rejections == {"duplicate id": report.duplicates} == {"duplicate id": 2}
        assert "row 1 of the corpus" in report.rejected[0].reason
        lines = [json.loads(line) for line in letters.read_text().splitlines()]
        assert [(line["id"], line["kind"]) for line in lines] == [("a", "duplicate id")] * 2


def test_an_id_is_taken_also_by_a_row_that_is_rejected_later() -> None:
    # Whether the first row has failed already when the second is read depends on the threads; the outcome must not.
    for size in (1, 2):
        with MemoryStore(IDENTITY) as store:
            report = ingest([Document("a", "poison"), Document("a", "fine")], HashEmbed(), store, batch_documents=size)
            assert (store.count(), report.rejections) == (0, {"model output": 1, "duplicate id": 1})


def test_what_the_store_holds_unchanged_is_not_encoded_again() -> None:
    first = [Document("a", "t", "T", {"x": 0.1 + 0.2}), Document("b", "u"), Document("c", "v", payload={"n": 1})]
    changed = [Document("a", "t", "T", {"x": 0.1 + 0.2}), Document("b", "new"), Document("c", "v", payload={"n": True})]
    with MemoryStore(IDENTITY) as store:
        ingest(first, HashEmbed(), store)
        embed = HashEmbed()
        report = ingest(changed, embed, store)
        assert (report.documents, report.unchanged, embed.encoded) == (2, 1, ["new", "v"])
        assert store.get(["b"])[0].text == "new"
        assert store.get(["c"])[0].payload["n"] is True
        assert ingest(changed, HashEmbed(), store, skip_unchanged=False).documents == 3


def test_a_document_encoded_at_another_length_is_encoded_again(embed: M3EmbeddingFunction) -> None:
    short = embed_with(embed.session, embed.bundle.path, max_length=8)
    documents = [Document("a", "vector " * 20, payload={"lang": "en"})]
    with MemoryStore(embed.identity) as store:
        for function, stored in ((embed, 1), (short, 1), (short, 0), (embed, 1), (embed, 0)):
            assert ingest(documents, function, store).documents == stored
            assert store._rows["a"].embedding.multi_vector.shape[0] == function.max_length - 1 or function is embed
        assert store.get(["a"]) == documents, "the mark goes with the encoding that needed it"


def test_embeddings_stay_with_their_documents_in_every_batch_size() -> None:
    many = documents(100)
    with MemoryStore(IDENTITY) as oracle:
        oracle.upsert(many, HashEmbed().encode_documents([one.content for one in many]))
        expected = rows(oracle, [one.id for one in many])
    for size in (1, 7, 100, 1000):
        with MemoryStore(IDENTITY) as store:
            ingest(many, HashEmbed(), store, batch_documents=size)
            assert rows(store, [one.id for one in many]) == expected


def test_texts_in_memory_are_bounded_whatever_the_corpus() -> None:
    alive = worst = 0

    class Text(str):
        def __init__(self, _: str) -> None:
            nonlocal alive, worst
            alive += 1
            worst = max(worst, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    class Bottomless(Faulty):
        def upsert(self, documents, embeddings):
            self.sizes.append(len(documents))

    def endless():
        for i in range(20_000):
            text = Text(f"word{i}")
            yield Rejected(f"line {i}", "bad", row=text) if i % 3 == 0 else Document(str(i), text)

    report = ingest(endless(), HashEmbed(), Bottomless(), batch_documents=50)
    assert report.documents + report.rejected_count == 20_000
    assert worst <= 12 * 50, "a batch in each of four hands, two in each of three queues, and some on their way"
    assert len(report.rejected) < 10_000


def test_long_texts_make_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3_vdb.ingest.batch.BATCH_BYTES", 50_000)
    sizes: list[int] = []

    class Watching(HashEmbed):
        def encode_documents(self, texts):
            sizes.append(len(texts))
            return super().encode_documents(texts)

    with MemoryStore(IDENTITY) as store:
        ingest([Document(str(i), "word " * 200) for i in range(20)], Watching(), store)
    assert sum(sizes) == 20
    assert max(sizes) <= 3


def test_uploads_are_cut_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3_vdb.writer.PIECE_BYTES", 600)
    store = Faulty()
    ingest([Document(str(i), "word " * (100 if i == 7 else 5)) for i in range(20)], HashEmbed(), store)
    assert sum(store.sizes) == 20
    assert len(store.sizes) > 3
    assert 1 in store.sizes, "the long one travels alone"


def test_a_source_that_fails_loses_nothing_that_it_gave() -> None:
    def source():
        yield from documents(10)
        raise RuntimeError("the tape broke")

    with MemoryStore(IDENTITY) as store:
        with pytest.raises(RuntimeError, match="tape"):
            ingest(source(), HashEmbed(), store, batch_documents=4)
        assert store.count() == 10


def test_a_failing_progress_callback_ends_the_run() -> None:
    def told(state: Progress) -> None:
        raise LookupError("told")

    with MemoryStore(IDENTITY) as store, pytest.raises(LookupError, match="told"):
        ingest(documents(1000), HashEmbed(), store, batch_documents=4, progress=told)


def test_stop_finishes_what_is_encoded_and_says_so() -> None:
    stop = threading.Event()
    with MemoryStore(IDENTITY) as store:
        report = ingest(
            documents(1000), HashEmbed(), store, batch_documents=10, stop=stop, progress=lambda state: stop.set()
        )
        assert report.interrupted
        assert 10 <= report.documents == store.count() < 1000


def test_stop_does_not_wait_for_a_source_that_says_nothing() -> None:
    stop, silent = threading.Event(), threading.Event()

    def source():
        yield from documents(4)
        silent.wait(60)

    with MemoryStore(IDENTITY) as store:
        report = ingest(source(), HashEmbed(), store, batch_documents=2, stop=stop, progress=lambda state: stop.set())
    silent.set()
    assert report.interrupted


def test_strict_ends_at_the_first_bad_row() -> None:
    for bad in (Rejected("file, line 2", "not JSON"), Document("x", "poison"), Document("d0", "again")):
        with MemoryStore(IDENTITY) as store, pytest.raises(DocumentError, match=r"line 2|x:|d0:"):
            ingest([*documents(3), bad, *documents(9)], HashEmbed(), store, strict=True)


def test_the_encoders_time_adds_up_and_names_the_slow_side() -> None:
    slow = {"encoder": 0.03, "input": 0.0, "store": 0.0}
    for side in slow:

        def source(side: str = side):
            for one in documents(40):
                time.sleep(0.01 if side == "input" else 0)
                yield one

        def wait(name: str, call: int, side: str = side) -> None:
            time.sleep(0.05 if side == "store" and name == "upsert" else 0)

        report = ingest(source(), HashEmbed(seconds=0.05 if side == "encoder" else 0), Faulty(wait), batch_documents=4)
        times = report.encoder
        assert times.bottleneck == side
        assert times.busy + times.waiting_for_input + times.waiting_for_store == pytest.approx(report.seconds, rel=0.05)


def test_the_twin_for_event_loops_takes_what_ingest_takes() -> None:
    ours, theirs = (inspect.signature(function).parameters for function in (async_ingest, ingest))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values() if p.name != "stop"
    ]


def test_the_same_in_an_event_loop() -> None:
    async def source():
        for one in documents(30):
            await asyncio.sleep(0)
            yield one

    async def run(items, store) -> IngestReport:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.ensure_future(tick())
        report = await async_ingest(items, HashEmbed(seconds=0.01), store, batch_documents=5)
        ticking.cancel()
        assert ticks > 3, "the loop was free"
        return report

    for items in (source(), documents(30)):
        with MemoryStore(IDENTITY) as store:
            assert asyncio.run(run(items, store)).documents == store.count() == 30


def test_a_cancelled_task_ends_the_run_and_leaves_what_is_stored() -> None:
    async def endless():
        i = 0
        while True:
            yield Document(str(i), "text")
            i += 1
            await asyncio.sleep(0)

    async def run(store) -> None:
        task = asyncio.ensure_future(async_ingest(endless(), HashEmbed(), store, batch_documents=5))
        while store.count() < 20:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with MemoryStore(IDENTITY) as store:
        asyncio.run(run(store))
        assert store.count() >= 20


def test_nothing_at_all() -> None:
    with MemoryStore(IDENTITY) as store:
        report = ingest([], HashEmbed(), store)
    assert (report.documents, report.rejected_count, report.interrupted) == (0, 0, False)


def test_a_store_of_another_model_is_refused() -> None:
    with MemoryStore(IDENTITY) as store, pytest.raises(CollectionMismatchError):
        ingest(documents(1), HashEmbed(identity=replace(IDENTITY, fingerprint="other")), store)
