"""Concurrent calls share forward passes, and each caller gets what a call of its own would have given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3_vdb.encoding.coalesce import Coalescer
from m3_vdb.errors import BusyError, ConfigError, M3Error, ModelOutputError, TextError, TruncationError
from tests.serving._fakes import FakeSession, Gate, embed_with


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def busy(gate, tiny_bundle) -> Iterator[Coalescer]:
    """A coalescer whose thread is inside a pass, so that what is submitted now waits."""
    with Coalescer(embed_with(gate, tiny_bundle), max_waiting=4) as coalescer:
        first = coalescer.submit(["the"])
        assert gate.reached.wait(30)
        yield coalescer
        gate.open.set()
        assert len(first.result(30)) == 1


def assert_same(left, right) -> None:
    for name in ("token_counts", "truncated", "sparse_ids", "sparse_offsets", "multi_vector_offsets"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    for name in ("dense", "sparse_weights", "multi_vector"):
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), atol=1e-5)


WORDS = st.sampled_from(["the", "vector", "search", "query", "поиск", "数据", "repeat", "?"])
TEXTS = st.lists(st.lists(WORDS, max_size=12).map(" ".join), max_size=3)


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_shared_passes_give_what_separate_calls_give(tiny_bundle, requests):
    session = Gate()
    embed = embed_with(session, tiny_bundle)
    with Coalescer(embed) as coalescer:
        answers = [coalescer.submit(texts) for texts in requests]
        session.open.set()
        for texts, answer in zip(requests, answers, strict=True):
            assert_same(answer.result(30), embed.encode_documents(texts))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_threads_of_a_real_model_get_their_own_vectors(tiny_bundle, tiny_texts, runtime):
    from m3_vdb import M3EmbeddingFunction

    embed = M3EmbeddingFunction(tiny_bundle, runtime=runtime)
    with Coalescer(embed) as coalescer, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: coalescer.encode_queries([text]), tiny_texts * 5))
    atol = 1e-5 if "f32" in embed.session.description else 0.05
    for text, answer in zip(tiny_texts * 5, answers, strict=True):
        np.testing.assert_allclose(answer.dense, embed.encode_queries([text]).dense, atol=atol)


def test_what_waits_shares_the_next_pass(busy, gate):
    answers = [busy.submit([text]) for text in ("the search", "ein Wort", "hello")]
    gate.open.set()
    assert [len(answer.result(30)) for answer in answers] == [1, 1, 1]
    assert [shape[0] for shape in gate.shapes] == [1, 3]


def test_a_pass_takes_no_more_tokens_than_a_batch_has(gate, tiny_bundle):
    embed = embed_with(gate, tiny_bundle, batch_tokens=8)
    with Coalescer(embed) as coalescer:
        answers = [coalescer.submit(["the vector search"])]
        assert gate.reached.wait(30)
        answers += [coalescer.submit(["the vector search"]) for _ in range(2)]
        gate.open.set()
    assert all(answer.done() for answer in answers)
    assert [shape[0] for shape in gate.shapes] == [1, 1, 1]


def test_a_cancelled_request_is_not_encoded_and_waits_for_nothing(busy, gate):
    cancelled = busy.submit(["the"] * 4)
    assert cancelled.cancel()
    kept = busy.submit(["the search"] * 4)  # max_waiting is 4
    gate.open.set()
    assert len(kept.result(30)) == 4
    with pytest.raises(CancelledError):
        cancelled.result()
    assert sum(shape[0] for shape in gate.shapes) == 5


def test_more_texts_than_may_wait_are_refused(busy):
    busy.submit(["the"] * 3)
    with pytest.raises(BusyError, match=r"^3 texts wait to be encoded, and 4 may: try again, or raise max_waiting$"):
        busy.submit(["the", "search"])
    busy.submit(["the"])


def test_errors_reach_only_their_caller(tiny_bundle):
    tokenizer = embed_with(FakeSession(), tiny_bundle).tokenizer
    poison, breaks = (int(tokenizer.encode([word], max_length=9).ids[1]) for word in ("mot", "Wort"))
    session = Gate(poison=poison, breaks=breaks)
    embed = embed_with(session, tiny_bundle, on_truncate="error", max_length=9)
    with Coalescer(embed) as coalescer:
        first = coalescer.submit(["the"])
        assert session.reached.wait(30)
        good, bad, worse = (coalescer.submit(texts) for texts in (["query"], ["search", "mot"], ["Wort"]))
        with pytest.raises(TextError):
            coalescer.submit(["\ud800"])
        with pytest.raises(TruncationError):
            coalescer.submit(["the " * 20])
        session.open.set()
        assert len(first.result(30)) == len(good.result(30)) == 1
        with pytest.raises(ModelOutputError, match="item 1") as caught:
            bad.result(30)
        assert caught.value.index == 1
        with pytest.raises(M3Error, match="the runtime failed"):
            worse.result(30)


def test_close_answers_what_waits_and_refuses_what_comes(gate, tiny_bundle):
    coalescer = Coalescer(embed_with(gate, tiny_bundle))
    answers = [coalescer.submit(["the"]) for _ in range(5)]
    gate.open.set()
    coalescer.close()
    assert all(answer.done() for answer in answers)
    with pytest.raises(M3Error, match="closed"):
        coalescer.submit(["the"])
    coalescer.close()


def test_asyncio_awaits_it(gate, tiny_bundle):
    with Coalescer(embed_with(gate, tiny_bundle)) as coalescer:

        async def ask(text: str) -> int:
            return len(await asyncio.wrap_future(coalescer.submit([text])))

        async def everybody() -> list[int]:
            asked = asyncio.gather(*(ask(f"query {i}") for i in range(20)))
            await asyncio.sleep(0)  # all of them are submitted
            gate.open.set()
            return await asked

        assert asyncio.run(everybody()) == [1] * 20
    assert len(gate.shapes) <= 4, "they shared passes"


def test_it_serves_an_index(tiny_bundle, gate):
    from m3_vdb import HybridIndex, open_store

    gate.open.set()
    with Coalescer(embed_with(gate, tiny_bundle)) as coalescer:
        index = HybridIndex(coalescer, open_store("memory://", identity=coalescer.identity))
        index.add([{"id": "1", "text": "the vector search"}])
        assert index.query("the vector search")[0].document.id == "1"


def test_queries_of_an_asynchronous_index_share_passes(tiny_bundle, gate):
    from m3_vdb import AsyncHybridIndex, HybridIndex, open_store

    async def ask(coalescer: Coalescer) -> list[str]:
        store = open_store("memory://", identity=coalescer.identity)
        async with AsyncHybridIndex(HybridIndex(coalescer, store)) as index:
            store.upsert([{"id": "1", "text": "the"}], coalescer.embed.encode_documents(["the"]))
            gate.shapes.clear()
            asked = asyncio.gather(*(index.query(text) for text in ["the", "query", "search", "index"] * 2))
            return [hits[0].document.id for hits in await asked]

    gate.open.set()
    with Coalescer(embed_with(gate, tiny_bundle)) as coalescer:
        assert asyncio.run(ask(coalescer)) == ["1"] * 8
    assert len(gate.shapes) <= 3


def test_max_waiting_is_checked(gate, tiny_bundle):
    with pytest.raises(ConfigError, match="max_waiting=0"):
        Coalescer(embed_with(gate, tiny_bundle), max_waiting=0)


DOCUMENT = "the vector search of the index"


def test_short_requests_go_first_and_long_ones_have_their_turn(gate, tiny_bundle):
    with Coalescer(embed_with(gate, tiny_bundle), short_tokens=8, turn_tokens=32) as coalescer:
        first = coalescer.submit(["the"])
        assert gate.reached.wait(30)
        order: list[str] = []
        many = coalescer.submit([DOCUMENT] * 9)
        few = coalescer.submit([DOCUMENT] * 2)
        query = coalescer.submit(["query"])
        for name, answer in (("many", many), ("few", few), ("query", query)):
            answer.add_done_callback(lambda _, name=name: order.append(name))
        gate.open.set()
        assert len(many.result(30)) == 9
        assert len(first.result(30)) == len(query.result(30)) == 1
    width = gate.shapes[-1][1]
    assert order == ["query", "few", "many"], "a small request does not wait for a large one"
    assert all(rows * tokens <= max(32, width) for rows, tokens in gate.shapes), "turns are bounded"
    assert sum(rows for rows, _ in gate.shapes) == 13


def test_queries_that_never_end_do_not_starve_a_document(gate, tiny_bundle):
    with Coalescer(embed_with(gate, tiny_bundle), short_tokens=8, turn_tokens=32) as coalescer:
        waiting = [True]

        def again(_) -> None:
            if waiting:
                coalescer.submit(["query"]).add_done_callback(again)  # from the coalescer's own thread

        again(None)
        gate.open.set()
        assert len(coalescer.submit([DOCUMENT] * 9).result(30)) == 9
        waiting.clear()


def test_a_long_request_that_is_cancelled_half_way_stops_there(gate, tiny_bundle):
    embed = embed_with(gate, tiny_bundle)
    with Coalescer(embed, short_tokens=8, turn_tokens=16) as coalescer:
        answer = coalescer.submit([DOCUMENT] * 50)
        assert gate.reached.wait(30)
        assert answer.cancel()
        gate.open.set()
        assert len(coalescer.submit([DOCUMENT] * 2).result(30)) == 2
        assert coalescer.stats.waiting_texts == 0
    assert sum(rows for rows, _ in gate.shapes) < 10


def test_tokens_that_wait_are_bounded_and_the_refusal_says_when_to_return(gate, tiny_bundle):
    with Coalescer(embed_with(gate, tiny_bundle), max_waiting_tokens=20) as coalescer:
        first = coalescer.submit(["the"])
        assert gate.reached.wait(30)
        waits = coalescer.submit([DOCUMENT] * 9)  # alone it may be of any size
        with pytest.raises(BusyError, match=r"^\d+ tokens wait .* raise max_waiting_tokens$") as caught:
            coalescer.submit(["the"])
        assert caught.value.retry_after >= 1
        assert waits.cancel()
        coalescer.submit(["the"])
        gate.open.set()
        first.result(30)


@given(
    st.lists(st.tuples(TEXTS, st.sets(st.sampled_from(["dense", "sparse", "multi_vector"]), min_size=1)), max_size=6)
)
def test_pieces_of_any_size_give_the_parts_that_were_asked_for(tiny_bundle, requests):
    embed = embed_with(FakeSession(), tiny_bundle)
    with Coalescer(embed, short_tokens=4, turn_tokens=6) as coalescer:
        asked = []
        for texts, names in requests:
            parts = {name: name in names for name in ("dense", "sparse", "multi_vector")}
            answer = coalescer.submit_tokens(embed.tokenize(texts), **parts)
            asked.append((answer, embed.encode_documents(texts, **parts)))
        for answer, direct in asked:
            assert answer.result(30) == direct
        assert coalescer.stats.texts == sum(len(texts) for texts, _ in requests)
