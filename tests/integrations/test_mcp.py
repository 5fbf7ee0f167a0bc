"""``m3-vdb mcp`` by MCP's official client, over stdio, HTTP and within the process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

from mcp import Client, StdioServerParameters  # noqa: E402

from m3_vdb import AsyncHybridIndex, CollectionOptions, HybridIndex, LongDocuments  # noqa: E402
from m3_vdb.integrations.mcp import make_server  # noqa: E402

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests/fixtures/multilingual.jsonl"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
QUESTIONS = {
    "hide the formula bar": "lo/en/scalc/01/03090000",
    "Wie blende ich die Formelleiste aus?": "lo/de/scalc/01/03090000",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """English and German texts of the fixture, encoded by the model in the package."""
    rows = [json.loads(line) for line in CORPUS.open(encoding="utf-8")]
    path = tmp_path_factory.mktemp("mcp") / "notes.qdrant"
    with HybridIndex.open(path) as index:
        index.add(row for row in rows if row["lang"] in ("en", "de") and row["source"] == "libreoffice")
    return path


def command(*options: object) -> list[str]:
    return ["-m", "m3_vdb", "mcp", *map(str, options)]


@asynccontextmanager
async def over_stdio(*options: object):
    async with Client(StdioServerParameters(command=sys.executable, args=command(*options), env=ENVIRONMENT)) as client:
        yield client


@asynccontextmanager
async def over_http(*options: object):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = subprocess.Popen(
        [sys.executable, *command(*options, "--http", port)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    try:
        url = re.search(r"http://\S+", served.stderr.readline())[0]
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                assert served.poll() is None
        async with Client(url) as client:
            yield client
    finally:
        served.terminate()
        served.wait(timeout=30)


async def call(client: Client, tool: str, **arguments: object):
    done = await client.call_tool(tool, arguments)
    assert not done.is_error, done.content
    return done.structured_content["result"]


@pytest.mark.asyncio
@pytest.mark.parametrize("connect", [over_stdio, over_http])
async def test_find_answers_over_each_transport(connect, folder: Path):
    async with connect("--store", folder, "--about", "help pages of LibreOffice") as client:
        (tool,) = (await client.list_tools()).tools
        assert tool.name == "find"
        assert "It holds: help pages of LibreOffice." in tool.description
        assert tool.annotations.read_only_hint
        assert set(tool.input_schema["properties"]) == {"query", "limit", "filter", "boosts"}
        for question, id in QUESTIONS.items():
            assert (await call(client, "find", query=question))[0]["id"] == id
        (german,) = await call(client, "find", query="Rechenleiste hide", limit=1, filter={"lang": "de"})
        assert (german["id"], german["title"], german["payload"]["lang"]) == (
            "lo/de/scalc/01/03090000",
            "Rechenleiste",
            "de",
        )
        assert "Rechenleiste" in german["text"]


@pytest.mark.asyncio
async def test_store_where_it_is_allowed(tmp_path: Path):
    store = tmp_path / "new.qdrant"
    async with over_stdio("--store", store, "--allow-writing") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["find", "store"]
        made = await call(client, "store", text="The key is under the mat.", payload={"by": "Ann"})
        assert await call(client, "store", text="The key is under the mat.", payload={"by": "Ann"}) == made
        assert await call(client, "store", text="Bread, milk", title="Shopping", id="list") == "list"
        found = await call(client, "find", query="Where is the key?")
        assert [hit["id"] for hit in found] == [made, "list"]
        assert found[0]["payload"] == {"by": "Ann"}
    with HybridIndex.open(store, create=False) as index:
        assert index.count() == 2


@pytest.mark.asyncio
async def test_mistakes_are_one_line_for_the_assistant(embed):
    with HybridIndex.open("memory://", model=embed) as index:
        async with Client(make_server(AsyncHybridIndex(index), allow_writing=True)) as client:
            for tool, arguments, message in (
                ("find", {"query": "a", "filter": {"year": {"$about": 2000}}}, "unknown operator '\\$about'"),
                ("find", {"query": "a", "boosts": ["year"]}, "boost 'year': "),
                ("find", {"query": "a", "limit": 1000}, "less than or equal to 50"),
                ("find", {}, "Field required"),
                ("store", {"text": "a", "id": "x¶2"}, "¶"),
            ):
                done = await client.call_tool(tool, arguments)
                assert done.is_error
                said = done.content[0].text
                assert re.search(message, said)
                assert "Traceback" not in said
        async with Client(make_server(AsyncHybridIndex(index))) as client:
            refused = await client.call_tool("store", {"text": "a"})
            assert refused.is_error
        assert index.count() == 0


@pytest.mark.asyncio
async def test_boosts_and_weights(embed):
    rows = [{"id": "plain", "text": "the error"}, {"id": "official", "text": "error E1047", "official": True}]
    with HybridIndex.open("memory://", model=embed, options=CollectionOptions(bm25=True)) as index:
        index.add(rows)
        async with Client(make_server(AsyncHybridIndex(index), weights=(0, 0, 0, 1))) as client:
            (hit, other) = await call(client, "find", query="E1047")
            assert (hit["id"], other["score"]) == ("official", 0)
            (hit, _) = await call(client, "find", query="the", boosts=["official:5"])
            assert (hit["id"], hit["score"]) == ("official", 5)


@pytest.mark.asyncio
async def test_one_pass_per_call_and_long_texts_are_found_by_a_passage(embed, passes):
    split = LongDocuments(plan="split", max_rows=40)
    with HybridIndex.open("memory://", model=embed, long_documents=split) as index:
        async with Client(make_server(AsyncHybridIndex(index), allow_writing=True)) as client:
            with passes() as texts:
                await call(client, "store", text="short")
                await call(client, "find", query="short")
            assert texts == [1, 1]
            await call(client, "store", id="long", text=" ".join(f"word{i}" for i in range(200)))
            found = await call(client, "find", query="word199 word198")
    assert [hit["id"] for hit in found].count("long") == 1


def test_a_missing_package_names_its_extra(tmp_path: Path):
    code = "import sys; sys.modules['mcp'] = None; from m3_vdb.cli.main import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "mcp", "--store", str(tmp_path / "n.qdrant")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr == "error: m3-vdb mcp needs packages that are not installed: pip install 'm3-vdb[mcp]'\n"
