"""``m3-vdb serve``: what clients get is what the library gives, from as many forward passes, and nothing else."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from m3_vdb import CollectionOptions, HybridIndex, Weights, open_store
from m3_vdb.errors import StoreConnectionError
from m3_vdb.scoring import hybrid_score, score
from m3_vdb.serve.service import Limits, Service
from m3_vdb.stores import describe
from tests.integrations._server import Running, fake_embed, serving, token_of
from tests.serving._fakes import FakeSession, Gate

pytestmark = pytest.mark.integration

TEXTS = ["the vector search", "", "ein Wort und die Suche", "<s> is plain text </s>", "数据库的向量检索"]
DOCUMENTS = [
    {"id": "1", "text": "the vector search", "payload": {"lang": "en", "year": 2001}},
    {"id": "a/2", "title": "Suche", "text": "ein Wort und die Suche", "payload": {"lang": "de", "year": 2010}},
    {"id": "3", "text": "la recherche", "payload": {"lang": "fr"}},
]
KEY = {"Authorization": "Bearer one"}


@pytest.fixture
def embed():
    return fake_embed()


@pytest.fixture
def session(embed) -> FakeSession:
    return embed.session


@pytest.fixture
def server(embed) -> Iterator[Running]:
    """With a collection of ``DOCUMENTS``, and writing allowed."""
    store = open_store("memory://", embed)
    HybridIndex(embed, store).add(DOCUMENTS)
    with serving(Service(embed, store, allow_writing=True)) as running:
        yield running


@pytest.fixture
def gated() -> Iterator[tuple[Running, Gate]]:
    """A server whose first pass waits until the gate opens; only few texts may wait."""
    embed = fake_embed(Gate)
    with serving(Service(embed, limits=Limits(waiting=8))) as running:
        try:
            yield running, embed.session
        finally:
            embed.session.open.set()


def post(server: Running, path: str, **body) -> httpx.Response:
    return server.http.post(path, json=body)


@pytest.mark.parametrize("encoding_format", ["float", "base64", None])
def test_the_openai_client_gets_the_vectors(server, embed, session, encoding_format):
    from openai import OpenAI

    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        options = {"encoding_format": encoding_format} if encoding_format else {}
        session.shapes.clear()
        answer = client.embeddings.create(model="any", input=TEXTS, **options)
        passes = len(session.shapes)
        assert [item.id for item in client.models.list()] == [embed.identity.name]
    direct = embed.encode_documents(TEXTS)
    assert passes == direct.stats.forwards
    given = [item.embedding for item in answer.data]
    if encoding_format == "base64":  # asked for by name, the client leaves it as it is
        import base64

        given = [np.frombuffer(base64.b64decode(one), "<f4") for one in given]
    np.testing.assert_array_equal(np.array(given, np.float32), direct.dense)
    assert [item.index for item in answer.data] == list(range(len(TEXTS)))
    assert answer.usage.total_tokens == direct.token_counts.sum()
    assert answer.model == embed.identity.name


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_all_three_parts_come_from_one_pass(server, embed, session, encoding_format):
    import base64

    direct = embed.encode_documents(TEXTS)
    session.shapes.clear()
    body = {"input": TEXTS, "sparse": True, "multi_vector": True, "encoding_format": encoding_format}
    items = post(server, "/v1/embeddings", **body).json()["data"]
    assert len(session.shapes) == direct.stats.forwards
    for item, one in zip(items, direct, strict=True):
        rows = item["multi_vector"]
        if encoding_format == "base64":
            rows = np.frombuffer(base64.b64decode(rows), "<f4").reshape(-1, embed.identity.multi_vector_dim)
        np.testing.assert_array_equal(np.array(rows, np.float32), one.multi_vector)
        np.testing.assert_array_equal(item["sparse"]["indices"], one.sparse.ids)
        np.testing.assert_array_equal(np.array(item["sparse"]["values"], np.float32), one.sparse.weights)


def test_what_is_not_asked_for_is_not_computed(server, session):
    session.asked.clear()
    post(server, "/embed", inputs="the")
    post(server, "/embed_sparse", inputs="the")
    assert session.asked == [("dense_vecs",), ("sparse_vecs",)]


def test_clients_of_tei_get_the_vectors(server, embed):
    from huggingface_hub import InferenceClient

    direct = embed.encode_documents(TEXTS)
    vectors = InferenceClient().feature_extraction(TEXTS[0], model=f"{server.url}/embed", truncate=True, normalize=True)
    np.testing.assert_array_equal(vectors, direct.dense[:1])
    np.testing.assert_array_equal(np.array(post(server, "/embed", inputs=TEXTS).json(), np.float32), direct.dense)
    sparse = post(server, "/embed_sparse", inputs=TEXTS).json()
    read = [{one["index"]: np.float32(one["value"]) for one in text} for text in sparse]
    assert read == direct.sparse_dicts()


@pytest.mark.parametrize(
    "weights", ["default", "long_document", [1, 0, 0], {"dense": 0, "sparse": 1, "multi_vector": 0}]
)
def test_texts_are_ordered_by_their_m3_score(server, embed, session, weights):
    query, *texts = TEXTS
    direct = embed.encode_documents(TEXTS)
    scores = [hybrid_score(score(direct[0], one), Weights.parse(weights)) for one in direct[1:]]
    session.shapes.clear()
    ranks = post(server, "/rerank", query=query, texts=texts, weights=weights, return_text=True).json()
    assert len(session.shapes) == direct.stats.forwards
    assert [rank["score"] for rank in ranks] == sorted(scores, reverse=True)
    for rank in ranks:
        assert rank["score"] == pytest.approx(scores[rank["index"]])
        assert rank["text"] == texts[rank["index"]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"explain": True, "weights": "long_document", "source": "dense"},
        {"limit": 1, "offset": 1},
        {"filter": {"lang": ["de", "fr"]}},
        {"fusion": "rrf", "candidates": 3},
        {"boosts": ["year:0.001", "lang:1"], "explain": True},
    ],
)
def test_a_search_finds_what_the_index_finds(server, embed, session, options):
    direct = asyncio.run(server.service.index.query("the search", **options))
    session.shapes.clear()
    hits = post(server, "/search", query="the search", **options).json()["hits"]
    assert len(session.shapes) == 1
    assert [(hit["id"], hit["score"], hit["payload"]) for hit in hits] == [
        (hit.document.id, hit.score, hit.document.payload) for hit in direct
    ]
    for hit, one in zip(hits, direct, strict=True):
        assert (hit["parts"] is not None) == bool(options.get("explain"))
        if one.parts:
            assert hit["parts"]["multi_vector"] == one.parts.multi_vector
            assert hit["parts"].get("boost") == one.parts.boost


def test_filters_are_written_as_json_or_as_on_the_command_line(server):
    for given in ({"year": {"$gte": 2005}}, "year>=2005", ["lang=de", "year>2000"]):
        hits = post(server, "/search", query="Suche", filter=given).json()["hits"]
        assert [hit["id"] for hit in hits] == ["a/2"]


def test_documents_are_added_read_changed_and_deleted(server, session):
    http = server.http
    session.shapes.clear()
    added = post(server, "/documents", documents=[{"id": "new", "text": "hello world", "payload": {"n": 1}}])
    assert added.json() == {"documents": 1, "passages": 1, "long_documents": 0, "truncated": 0, "tokens": 5}
    assert len(session.shapes) == 1
    assert http.get("/documents/new").json() == {"id": "new", "title": "", "text": "hello world", "payload": {"n": 1}}
    assert http.patch("/documents/new", json={"payload": {"m": 2}}).json()["payload"] == {"m": 2}
    assert http.get("/documents/a%2F2").json()["title"] == "Suche"
    info = http.get("/info").json()
    assert info["documents"] == info["collection"]["documents"] == post(server, "/count").json()["count"] == 4
    assert post(server, "/count", filter="lang=de").json() == {"count": 1}
    assert http.delete("/documents/new").status_code == http.delete("/documents/new").status_code == 204
    assert (
        http.get("/documents/new").status_code == http.patch("/documents/new", json={"payload": {}}).status_code == 404
    )
    for removal in ({"ids": ["1"]}, {"filter": "lang=de"}):
        assert http.request("DELETE", "/documents", json=removal).status_code == 204
    assert [hit["id"] for hit in post(server, "/search", query="the").json()["hits"]] == ["3"]
    assert len(session.shapes) == 2, "only the document and the query were encoded"


def test_without_writing_a_collection_is_read_and_without_one_texts_are_encoded(embed):
    with serving(Service(embed, open_store("memory://", embed))) as server:
        assert post(server, "/search", query="the").json() == {"hits": []}
        for refused in (
            post(server, "/documents", documents=[]),
            server.http.patch("/documents/1", json={"payload": {}}),
            server.http.delete("/documents/1"),
            server.http.request("DELETE", "/documents", json={"ids": ["1"]}),
        ):
            assert (refused.status_code, refused.json()["error_type"]) == (403, "forbidden")
    with serving(Service(embed)) as server:
        assert post(server, "/search", query="the").status_code == 404
        info = server.http.get("/info").json()
        assert info["documents"] is info["collection"] is None
        assert len(post(server, "/embed", inputs=["the", "a"]).json()) == 2


def test_info_tells_what_the_collection_holds_without_paths(embed, tmp_path):
    options = CollectionOptions(indexes={"year": "integer"}, full_text=True)
    with open_store(tmp_path / "notes.qdrant", embed, options=options) as store:
        store.upsert(DOCUMENTS, embed.encode_documents([one["text"] for one in DOCUMENTS]))
        store.note_run({"command": "sync", "source": str(tmp_path), "documents": 3})
        expected = describe(store).as_dict()
        with serving(Service(embed, store)) as server:
            answer = server.http.get("/info")
            told = answer.json()["collection"]
    assert str(tmp_path) not in answer.text
    for name in ("documents", "passages", "languages", "options", "index", "bytes_are"):
        assert told[name] == expected[name]
    assert told["languages"] == {"de": 1, "en": 1, "fr": 1}
    assert told["options"]["full_text"] is True
    assert told["engine"]["name"] == "qdrant-edge"
    assert told["last_run"] == {"command": "sync", "documents": 3}


def test_queries_at_the_same_time_share_passes(gated):
    server, gate = gated
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, server, "/embed", inputs="the")
        assert gate.reached.wait(30)
        others = [pool.submit(post, server, "/embed", inputs="search") for _ in range(7)]
        until(lambda: server.service.coalescer.stats.waiting_texts == 7)
        gate.open.set()
        assert {one.result().status_code for one in (first, *others)} == {200}
    assert [rows for rows, _ in gate.shapes] == [1, 7]
    assert server.metric("m3vdb_passes_total") == 2
    assert server.metric("m3vdb_texts_total") == 8


def until(happened, seconds: float = 20) -> None:
    for _ in range(int(seconds / 0.02)):
        if happened():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not happen")


def test_what_a_caller_who_left_asked_for_is_not_encoded(gated):
    server, gate = gated
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server, "/embed", inputs="the")
        assert gate.reached.wait(30)
        stats = server.service.coalescer.stats
        with httpx.Client(base_url=server.url) as leaving, pytest.raises(httpx.ReadTimeout):
            leaving.post("/embed", json={"inputs": ["search"] * 5}, timeout=1)
        until(lambda: server.service.coalescer.stats.waiting_texts == 0)
        gate.open.set()
        assert first.result().status_code == 200
    assert [rows for rows, _ in gate.shapes] == [1]
    assert stats.passes == 0
    until(lambda: 'status="499"' in server.http.get("/metrics").text)


def test_what_has_no_room_is_told_when_to_return(gated):
    server, gate = gated
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(post, server, "/embed", inputs="the")
        assert gate.reached.wait(30)
        waiting = pool.submit(post, server, "/embed", inputs=["search"] * 8)
        until(lambda: server.service.coalescer.stats.waiting_texts == 8)
        for path, body in (("/embed", {"inputs": "a"}), ("/v1/embeddings", {"input": "a"})):
            refused = post(server, path, **body)
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert "8 texts wait" in str(refused.json()["error"])
        gate.open.set()
        assert first.result().status_code == waiting.result().status_code == 200


def test_requests_at_the_same_time_are_limited():
    embed = fake_embed(Gate)
    gate, service = embed.session, Service(embed, limits=Limits(requests=3))
    with serving(service) as server, ThreadPoolExecutor(3) as pool:
        running = [pool.submit(post, server, "/embed", inputs="the")]
        assert gate.reached.wait(30)
        running += [pool.submit(post, server, "/embed", inputs="the") for _ in range(2)]
        until(lambda: service.coalescer.stats.waiting_texts == 2)
        refused = post(server, "/embed", inputs="the")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert server.http.get("/health").status_code == 200
        gate.open.set()
        assert {one.result().status_code for one in running} == {200}


TOO_LONG = " ".join(["the"] * 200)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"inputs": ["a"] * 5}, "5 texts, at most 4 are allowed"),
        ({"inputs": ["a", TOO_LONG]}, "item 1 has more than 64 tokens"),
        ({"inputs": [TOO_LONG] * 4, "truncate": True}, "the request has 256 tokens, at most 200"),
        ({"inputs": "a" * 5000}, "the body has more than 4096 bytes"),
        ({"inputs": "a" * 100_000}, "the body has more than 4096 bytes"),
    ],
)
def test_what_is_too_large_is_refused(embed, session, body, reason):
    with serving(Service(embed, limits=Limits(body=4096, texts=4, tokens=200))) as server:
        refused = post(server, "/embed", **body)
        assert (refused.status_code, refused.json()["error_type"]) == (413, "validation")
        assert reason in refused.json()["error"]
        assert not session.shapes
        assert np.array(post(server, "/embed", inputs=TOO_LONG, truncate=True).json()).shape == (1, 384)


def test_keys(embed):
    with serving(Service(embed), keys=["one", "two"], cors_origins=["https://a.example"]) as server:
        for headers in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer on"},
            {"Authorization": "Basic one"},
        ):
            for path in ("/v1/embeddings", "/metrics", "/info", "/openapi.json", "/docs", "/nothing"):
                refused = server.http.request("POST", path, headers=headers, content=b"{")
                assert refused.status_code == 401, path
                assert refused.headers["WWW-Authenticate"] == "Bearer"
                assert "one" not in refused.text
        for key in ("one", "two"):
            answer = server.http.post("/embed", json={"inputs": "a"}, headers={"Authorization": f"bearer {key}"})
            assert answer.status_code == 200
        assert server.http.get("/health").json() == {"status": "ok"}
        document = server.http.get("/openapi.json", headers=KEY).json()
        assert document["paths"]["/embed"]["post"]["security"] == [{"key": []}]
        preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        allowed = server.http.options("/embed", headers=preflight)
        assert allowed.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert (
            "Access-Control-Allow-Origin"
            not in server.http.options("/embed", headers=preflight | {"Origin": "x"}).headers
        )


def test_no_other_origin_is_allowed_by_default(server):
    answer = server.http.post("/embed", json={"inputs": "a"}, headers={"Origin": "https://a.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


MALFORMED = [
    ("/embed", b"", 422),
    ("/embed", b"{", 422),
    ("/embed", b"[" * 100_000, 422),
    ("/embed", b'"\xff"', 422),
    ("/embed", b'{"inputs": 1}', 422),
    ("/embed", b'{"inputs": [[1, 2]]}', 422),
    ("/embed", b'{"inputs": ["a", "\\ud800"]}', 422),
    ("/embed", b'{"inputs": "a", "normalize": false}', 422),
    ("/embed", b'{"inputs": "a", "truncation_direction": "left"}', 422),
    ("/embed", b'{"inputs": "a", "dimensions": 3}', 422),
    ("/v1/embeddings", b'{"input": [1, 2]}', 400),
    ("/v1/embeddings", b'{"input": [[1], [2]]}', 400),
    ("/v1/embeddings", b'{"input": "a", "dimensions": 3}', 400),
    ("/v1/embeddings", b'{"input": "a", "encoding_format": "x"}', 400),
    ("/v1/embeddings", b'{"input": {"\\ud800": 1}}', 400),
    ("/rerank", b'{"query": "a", "texts": ["b"], "weights": [0, 0, 0]}', 422),
    ("/rerank", b'{"query": "a", "texts": ["b"], "weights": [NaN, 1, 1]}', 422),
    ("/search", b'{"query": "a", "limit": 0}', 422),
    ("/search", b'{"query": "a", "limits": 1}', 422),
    ("/search", b'{"query": "a", "filter": {"$or": 1}}', 422),
    ("/search", b'{"query": "a", "filter": "lang"}', 422),
    ("/search", b'{"query": "a", "boosts": ["year"]}', 422),
    ("/search", b'{"query": "a", "weights": "none"}', 422),
    ("/documents", b'{"documents": [{"id": "x", "payload": {"a": NaN}}]}', 422),
    ("/documents", b'{"documents": [{"id": "x", "text": "a"}, {"id": "x", "text": "b"}]}', 422),
    ("/documents", b'{"documents": [{"id": "x", "text": "a", "lang": "de"}]}', 422),
    ("/nothing", b"", 404),
    ("/health", b"", 405),
]


@pytest.mark.parametrize(("path", "body", "status"), MALFORMED, ids=lambda value: str(value)[:50])
def test_what_is_malformed_is_one_line(server, session, path, body, status):
    session.shapes.clear()
    refused = server.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == status, refused.text
    error = refused.json()["error"]
    message = error["message"] if path.startswith("/v1/") else error
    assert message
    assert "\n" not in message
    assert len(message) < 400
    assert "Traceback" not in refused.text
    assert ".py" not in refused.text
    assert not session.shapes


def test_an_error_inside_says_nothing_about_the_inside(embed, session, caplog):
    def fails(*_):
        raise RuntimeError("/home/secret: token=abc")

    def unreachable(*_, **__):
        raise StoreConnectionError("https://secret:6333 did not answer", retry_after=3)

    store = open_store("memory://", embed)
    with serving(Service(embed, store)) as server:
        store.query = unreachable
        gone = post(server, "/search", query="the")
        assert (gone.status_code, gone.headers["Retry-After"]) == (503, "3")
        session.run = fails
        broken = post(server, "/embed", inputs="a")
        assert (broken.status_code, broken.json()["error_type"]) == (500, "internal")
        assert post(server, "/v1/embeddings", input="a").json()["error"]["type"] == "server_error"
    for answer in (gone, broken):
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
    assert "token=abc" in caplog.text, "the log says what happened"


def test_a_text_that_the_model_fails_on_costs_its_request_alone():
    embed = fake_embed(Gate, poison=token_of("mot"))
    gate = embed.session
    with serving(Service(embed)) as server, ThreadPoolExecutor(3) as pool:
        first = pool.submit(post, server, "/embed", inputs="the")
        assert gate.reached.wait(30)
        asked = [pool.submit(post, server, "/embed", inputs=text) for text in (["a", "mot"], "search")]
        until(lambda: server.service.coalescer.stats.waiting_texts == 3)
        gate.open.set()
        bad, good = (one.result() for one in asked)
        assert first.result().status_code == good.status_code == 200
        assert bad.status_code == 422
        assert "item 1" in bad.json()["error"]


def test_the_end_waits_for_what_runs_and_refuses_what_comes():
    embed = fake_embed(Gate)
    gate = embed.session
    with serving(Service(embed)) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, server, "/embed", inputs="the")
        assert gate.reached.wait(30)
        second = pool.submit(post, server, "/embed", inputs=["search"])
        until(lambda: server.service.coalescer.stats.waiting_texts == 1)
        server.server.should_exit = True
        until(lambda: refuses(server))
        gate.open.set()
        assert first.result().status_code == second.result().status_code == 200


def refuses(server: Running) -> bool:
    try:
        httpx.get(f"{server.url}/health")
    except httpx.TransportError:
        return True
    return False


def test_numbers_are_read_back_as_they_were(server, embed):
    """Vectors are float32: as JSON they have as many digits as that needs."""
    vector = post(server, "/v1/embeddings", input="the").json()["data"][0]["embedding"]
    assert json.loads(json.dumps(vector)) == vector
    np.testing.assert_array_equal(np.array(vector, np.float32), embed.encode_queries(["the"]).dense[0])
