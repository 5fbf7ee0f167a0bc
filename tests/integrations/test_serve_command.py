"""``m3-vdb serve`` as a process with the shipped model: its start, its end, and many clients for a while."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from m3_vdb import HybridIndex, M3EmbeddingFunction, Weights, open_store
from m3_vdb.cli.main import app
from m3_vdb.cli.serve import listen
from m3_vdb.scoring import hybrid_score, score
from tests._soak import soak

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
ROWS = [json.loads(line) for line in (ROOT / "tests/fixtures/multilingual.jsonl").read_text("utf-8").splitlines()[::9]]
CLIENTS = 32
ROUNDING = 0.02
"""How far a vector may be from that of a pass of other texts, in bfloat16."""


@contextmanager
def command(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """``m3-vdb serve`` on a free port: the process, its address, and the lines that it printed first."""
    words = [sys.executable, "-m", "m3_vdb", "serve", "--port", "0", *options]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}
    )
    lines = []
    try:
        while "serves" not in (line := process.stderr.readline()):
            assert line, lines
            lines.append(line)
        yield process, line.split()[0], [*lines, line]
    finally:
        process.kill()
        process.communicate()


def test_the_command_serves_until_it_is_told_to_end():
    with command("--store", "memory://", "--allow-writing", M3VDB_API_KEY="one two") as (process, url, lines):
        assert "memory://, read and write" in lines[-1]
        with httpx.Client(base_url=url, headers={"Authorization": "Bearer two"}) as http:
            assert httpx.get(f"{url}/info").status_code == 401
            assert http.get("/info").json()["model_id"] == "m3-small"
            added = http.post("/documents", json={"documents": [{"id": "1", "text": "Hide the formula bar"}]})
            assert added.status_code == 200
            hit = http.post("/search", json={"query": "Rechenleiste ausblenden", "explain": True}).json()["hits"][0]
            assert hit["id"] == "1"
            assert hit["score"] == pytest.approx(hybrid_score_of(hit["parts"]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()


def hybrid_score_of(parts: dict[str, float]) -> float:
    weights = Weights()
    return sum(getattr(weights, name) * value for name, value in parts.items())


def test_an_address_that_others_reach_without_a_key_is_a_warning(monkeypatch):
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    run = CliRunner().invoke
    result = run(app, ["serve", "--host", "0.0.0.0", "--port", "0"])
    assert result.output.splitlines()[0].startswith("warning: anybody who reaches this address")
    for options in (["--host", "0.0.0.0", "--api-key", "one"], ["--host", "127.0.0.1"]):
        result = run(app, ["serve", "--port", "0", *options])
        assert "warning" not in result.output
        assert "one" not in result.output.split()
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        result = run(app, ["serve", "--port", port])
        assert f"--port {port}: Address already in use" in str(result.exception)
    assert "expected" not in run(app, ["serve", "--port", "0", "--api-key", ""]).output


def test_without_its_packages_the_command_says_how_to_install_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(app, ["serve"])
    assert str(result.exception).endswith("pip install 'm3-vdb[serve]'")


@pytest.fixture(scope="module")
def embed() -> M3EmbeddingFunction:
    return M3EmbeddingFunction(on_truncate="ignore")


class Expected:
    """What the library gives for a pool of texts."""

    def __init__(self, embed: M3EmbeddingFunction) -> None:
        self.documents = [row["text"] for row in ROWS]
        self.queries = [row["title"] or row["text"][:40] for row in ROWS]
        self.texts = self.documents + self.queries
        self.vectors = embed.encode_documents(self.texts)
        self.index = HybridIndex(embed, open_store("memory://", embed))
        self.index.add({"id": str(i), "text": text} for i, text in enumerate(self.documents))


class Client:
    """Sends requests of all kinds, and checks every answer."""

    def __init__(self, http: httpx.AsyncClient, expected: Expected, seed: int, seen: Counter[str]) -> None:
        self.http, self.expected, self.seen = http, expected, seen
        self.random = random.Random(seed)

    async def run(self, until: float) -> None:
        kinds = [self.embed, self.openai, self.sparse, self.rerank, self.search, self.leave, self.malformed, self.large]
        while time.monotonic() < until:
            kind = self.random.choices(kinds, weights=[6, 4, 3, 2, 6, 3, 2, 1])[0]
            await kind()
            self.seen[kind.__name__] += 1

    async def post(self, path: str, body: object, **options) -> object:
        """The answer; None if there was no room."""
        answer = await self.http.post(path, json=body, **options)
        assert answer.status_code in (200, 429), (path, answer.status_code, answer.text[:200])
        self.seen[str(answer.status_code)] += 1
        return answer.json() if answer.status_code == 200 else None

    def some(self) -> list[int]:
        many = self.random.choice([1, 1, 1, 2, 5, 12])
        return [self.random.randrange(len(self.expected.texts)) for _ in range(many)]

    def near(self, given: object, picked: list[int]) -> None:
        wanted = self.expected.vectors.dense[picked]
        np.testing.assert_allclose(np.array(given, np.float32), wanted, atol=ROUNDING)

    async def embed(self) -> None:
        picked = self.some()
        given = await self.post("/embed", {"inputs": [self.expected.texts[i] for i in picked]})
        if given is not None:
            self.near(given, picked)

    async def openai(self) -> None:
        picked = self.some()
        body = {"input": [self.expected.texts[i] for i in picked], "encoding_format": "base64", "multi_vector": True}
        given = await self.post("/v1/embeddings", body)
        if given is None:
            return
        items = given["data"]
        self.near([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in items], picked)
        for item, i in zip(items, picked, strict=True):
            rows = np.frombuffer(base64.b64decode(item["multi_vector"]), "<f4")
            wanted = self.expected.vectors[i].multi_vector
            assert (rows.reshape(wanted.shape) * wanted).sum(axis=1).min() > 1 - 5 * ROUNDING

    async def sparse(self) -> None:
        picked = self.some()
        given = await self.post("/embed_sparse", {"inputs": [self.expected.texts[i] for i in picked]})
        for text, i in zip(given or [], picked, strict=given is not None):
            wanted = self.expected.vectors[i].sparse.as_dict()
            found = {one["index"]: one["value"] for one in text}
            for token in wanted.keys() | found.keys():
                assert abs(wanted.get(token, 0) - found.get(token, 0)) < ROUNDING

    async def rerank(self) -> None:
        query, *picked = self.some() + self.some()
        texts = self.expected.texts
        ranks = await self.post("/rerank", {"query": texts[query], "texts": [texts[i] for i in picked]})
        for rank in ranks or []:
            parts = score(self.expected.vectors[query], self.expected.vectors[picked[rank["index"]]])
            assert abs(rank["score"] - hybrid_score(parts, Weights())) < 3 * ROUNDING

    async def search(self) -> None:
        query = self.random.choice(self.expected.queries)
        given = await self.post("/search", {"query": query, "limit": 5})
        if given is None:
            return
        wanted = {hit.document.id: hit.score for hit in self.expected.index.query(query, limit=10)}
        for hit in given["hits"]:
            assert abs(hit["score"] - wanted[hit["id"]]) < 3 * ROUNDING

    async def leave(self) -> None:
        body = {"inputs": self.random.choices(self.expected.documents, k=self.random.choice([1, 20, 100]))}
        with suppress(httpx.TimeoutException):
            await self.http.post("/embed", json=body, timeout=httpx.Timeout(30, read=self.random.uniform(0.001, 0.02)))

    async def malformed(self) -> None:
        body = self.random.randbytes(self.random.randrange(2000))
        path = self.random.choice(["/embed", "/rerank", "/v1/embeddings", "/search", "/documents"])
        answer = await self.http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text

    async def large(self) -> None:
        size = self.random.choice([2, 20])
        answer = await self.http.post("/embed", content=b"x" * (size * 1024 * 1024))
        assert answer.status_code == 413, answer.text


@pytest.mark.parametrize("seconds", [10, *soak([120])])
def test_many_clients_get_right_answers_and_memory_stays_flat(embed, seconds):
    expected = Expected(embed)
    seen: Counter[str] = Counter()
    documents = [{"id": str(i), "text": text} for i, text in enumerate(expected.documents)]

    async def everybody(url: str) -> list[float]:
        memory: list[float] = []
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=CLIENTS)) as http:
            assert (await http.post("/documents", json={"documents": documents})).status_code == 200
            until = time.monotonic() + seconds
            clients = [asyncio.create_task(Client(http, expected, seed, seen).run(until)) for seed in range(CLIENTS)]
            while time.monotonic() < until:
                await asyncio.sleep(seconds / 10)
                memory.append(metrics((await http.get("/metrics")).text)["process_resident_memory_bytes"])
            await asyncio.gather(*clients)
            last = metrics((await http.get("/metrics")).text)
            assert last["m3vdb_waiting_texts"] == 0
            assert last["m3vdb_running_requests"] == 1
            assert last["m3vdb_passes_total"] < last["m3vdb_texts_total"]
            assert not [name for name in last if 'status="5' in name]
        return memory

    with command("--store", "memory://", "--allow-writing", "--max-body", "1") as (process, url, _):
        memory = asyncio.run(everybody(url))
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert "Traceback" not in process.stderr.read()
    assert set(seen) >= {"embed", "openai", "sparse", "rerank", "search", "leave", "malformed", "large", "200"}
    assert max(memory[len(memory) // 2 :]) < 1.15 * max(memory[: len(memory) // 2]), [one / 2**20 for one in memory]


def metrics(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples of docs/serve.md need curl")
def test_the_curl_commands_of_the_page_work():
    page = (ROOT / "docs/serve.md").read_text("utf-8").replace("\\\n", " ")
    examples = [line for line in page.splitlines() if line.startswith("curl ") and "/health" not in line]
    assert len(examples) == 12
    with command("--store", "memory://", "--allow-writing") as (_, url, _):
        for example in examples:
            asked = shlex.split(example.replace("http://localhost:8000", url))
            done = subprocess.run([*asked, "--silent", "--fail-with-body"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (example, done.stdout)
