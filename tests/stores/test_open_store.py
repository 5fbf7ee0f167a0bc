"""URLs of stores, what is imported for them, and how their servers are reached."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import pytest

import m3_vdb.stores
from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb.errors import (
    CollectionNotFoundError,
    MissingExtraError,
    StoreConnectionError,
    StoreRequestError,
    StoreUrlError,
)
from m3_vdb.stores import MemoryStore, open_store
from m3_vdb.stores.names import Folder, Server, read_key, read_name
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings

ROOT = Path(__file__).parents[2]


def test_importing_the_package_loads_no_client():
    code = "import sys, m3_vdb.stores, m3_vdb.index; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name.split(".")[0] for name in loaded.split()}
    assert "m3_vdb" in names
    assert not names & {"qdrant_client", "qdrant_edge", "pymilvus", "grpc", "pydantic", "torch", "transformers"}


def test_memory():
    assert isinstance(open_store("memory://", identity=IDENTITY), MemoryStore)
    for args in ({"identity": None}, {"identity": IDENTITY, "create": False}):
        with pytest.raises(CollectionNotFoundError):
            open_store("memory://", **args)


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("notes.qdrant", "notes.qdrant"),
        ("./a b/notes.qdrant", "a b/notes.qdrant"),
        ("/tmp/notes.qdrant", "/tmp/notes.qdrant"),
        ("file:notes", "notes"),
        ("file:./notes.qdrant", "notes.qdrant"),
        ("file:///tmp/my%20notes", "/tmp/my notes"),
        (r"C:\notes.qdrant", r"C:\notes.qdrant"),
        ("notes.milvus.db", "notes.milvus.db"),
        ("./notes.milvus.db", "notes.milvus.db"),
        ("file:notes.milvus.db", "notes.milvus.db"),
    ],
)
def test_folders(url, folder):
    assert read_name(url) == Folder(Path(folder), "milvus" if "milvus" in url else "qdrant")


def test_an_existing_collection_may_have_any_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store("file:notes", identity=IDENTITY) as store:
        store.upsert(make_documents(2), make_embeddings(2))
    with open_store("notes", identity=None) as store:
        assert store.count() == 2
    with pytest.raises(StoreUrlError):
        open_store("other", identity=IDENTITY)


@pytest.mark.parametrize("name", ["notes.qdrant", "notes.milvus.db"])
def test_a_folder_stays_the_same_when_the_program_goes_elsewhere(tmp_path, monkeypatch, name):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_store(f"./{name}", identity=IDENTITY) as store:
        store.upsert(make_documents(2), make_embeddings(2))
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.upsert(make_documents(4), make_embeddings(4))
        assert store.disk_bytes() > 0
    with open_store(tmp_path / name, identity=IDENTITY) as store:
        assert store.count() == 4
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("url", "server", "collection"),
    [
        ("qdrant://localhost:6333/notes", "http://localhost:6333", "notes"),
        ("qdrant://localhost/notes", "http://localhost:6333", "notes"),
        ("qdrant+https://example.org/notes", "https://example.org:6333", "notes"),
        ("https://example.org:443/notes", "https://example.org:443", "notes"),
        ("qdrant+grpc://localhost/notes", "http://localhost:6334", "notes"),
        ("qdrant+grpcs://example.org:443/notes", "https://example.org:443", "notes"),
        ("http://h:1/behind/a/proxy/notes", "http://h:1/behind/a/proxy", "notes"),
        ("qdrant://[::1]:7000/my%20notes", "http://[::1]:7000", "my notes"),
        ("milvus://localhost:19530/notes", "http://localhost:19530", "notes"),
        ("milvus://localhost/notes", "http://localhost:19530", "notes"),
        ("milvus+https://example.org:443/notes", "https://example.org:443", "notes"),
        ("milvus://h:1/library/notes", "http://h:1", "notes"),
        ("milvus://[::1]:7000/my%5Fnotes", "http://[::1]:7000", "my_notes"),
    ],
)
def test_servers(url, server, collection):
    engine, database = ("milvus" if "milvus" in url else "qdrant"), ("library" if "library" in url else "")
    assert read_name(url) == Server(engine, server, database, collection, grpc="+grpc" in url)


@pytest.mark.parametrize(
    "url",
    [
        "", "notes", "redis://x/y", "qdrant://", "qdrant://host:6333", "qdrant://host:6333/", "qdrant://host:port/c",
        "memory://x", "memory:", "file:", "file://elsewhere/c",
        "qdrant:/h/c", "qdrant+grpc://h:6334/prefix/c", "grpc://h:6334/c",
        "milvus://", "milvus://host:19530", "milvus://host:19530/", "milvus://host:port/c",
        "milvus://host/a/b/c", "milvus://host//c", "milvus:/h/c", "milvus+http://h/c",
    ],
)  # fmt: skip
def test_urls_that_name_no_store(url):
    with pytest.raises(StoreUrlError, match=r"expected|what can be opened"):
        open_store(url, identity=IDENTITY)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("notes.qdrant", "qdrant_edge", "qdrant"),
        ("qdrant://localhost/notes", "qdrant_client", "qdrant"),
        ("qdrant://localhost/notes", "orjson", "qdrant"),
        ("notes.milvus.db", "milvus_lite", "milvus"),
        ("notes.milvus.db", "pymilvus", "milvus"),
        ("milvus://localhost/notes", "pymilvus", "milvus"),
    ],
)
def test_a_missing_package_names_its_install_command(url, package, extra, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # what Python keeps for a module that cannot be imported
    if package == "milvus_lite":
        monkeypatch.setitem(sys.modules, "milvus_lite.adapter.grpc.server", None)
    for ours in [name for name in sys.modules if name.startswith(f"m3_vdb.stores.{extra}")]:
        monkeypatch.delitem(sys.modules, ours)
    if loaded := getattr(m3_vdb.stores, extra, None):  # the import below replaces it
        monkeypatch.setattr(m3_vdb.stores, extra, loaded)
    with pytest.raises(MissingExtraError, match=rf"pip install 'm3-vdb\[{extra}\]'"):
        open_store(url, identity=IDENTITY)


def test_a_milvus_server_needs_no_milvus_lite():
    code = "import sys, m3_vdb.stores.milvus.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name.split(".")[0] for name in loaded.split()}
    assert "pymilvus" in names
    assert not names & {"milvus_lite", "faiss", "qdrant_client"}


@pytest.mark.parametrize("engine", ["qdrant", "qdrant+grpc", "milvus"])
def test_a_closed_port_is_a_connection_error(engine):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"{engine}://127.0.0.1:{taken.getsockname()[1]}/notes"
        with pytest.raises(StoreConnectionError, match="is the server running"):
            open_store(url, identity=IDENTITY, timeout=2)


@pytest.mark.parametrize("given", [None, "from-argument"])
def test_the_api_key_travels_in_the_header(given, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", "from-environment")
    stub, seen = RestStub(), []
    answer = stub.server.RequestHandlerClass._serve

    def spy(self):
        seen.append(self.headers["api-key"])
        answer(self)

    for verb in ("do_GET", "do_PUT"):
        monkeypatch.setattr(stub.server.RequestHandlerClass, verb, spy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # qdrant-client would warn of a key over plain http, on loopback too
        open_store(f"qdrant://{stub.address}/notes", identity=IDENTITY, api_key=given).close()
    assert set(seen) == {given or "from-environment"}
    stub.close()


@pytest.mark.parametrize(
    ("key", "words"),
    [(None, "Must provide an API key or an Authorization bearer token"), ("wrong", "Invalid API key or JWT")],
)
def test_without_the_key_its_variable_is_named(key, words):
    stub = RestStub()
    stub.keys = {"secret": True}
    advice = "; give the server's key as api_key= or in QDRANT_API_KEY"
    with pytest.raises(StoreRequestError, match=f": the server refused: 401 {words}{advice}$"):
        open_store(f"qdrant://{stub.address}/notes", identity=IDENTITY, api_key=key)
    stub.close()


@pytest.mark.parametrize(
    ("scheme", "hint"),
    [
        ("qdrant", r"illegal request line.*does the URL begin with qdrant\+https://\?"),
        ("qdrant+grpc", r"if it speaks TLS, does the store URL say so\?"),
    ],
)
def test_a_port_of_tls_without_tls(scheme, hint):
    """What a TLS server answers to anything else: an alert, and it hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            while True:
                try:
                    accepted, _ = server.accept()
                except OSError:
                    return
                with accepted:
                    accepted.recv(65536)
                    accepted.sendall(b"\x15\x03\x03\x00\x02\x02\x46")

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with pytest.raises(StoreConnectionError, match=hint):
            open_store(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/notes", identity=IDENTITY, timeout=2)


def test_a_key_in_the_clear_is_told_once_and_never_on_this_machine(caplog):
    def told(*urls):
        caplog.clear()
        for url in urls:
            assert read_key("secret", read_name(url)) == "secret"
        return caplog.messages

    assert (
        told("http://localhost/c", "qdrant://127.0.0.1/c", "qdrant+grpc://[::1]/c", "qdrant+https://db.local/c") == []
    )
    (said,) = told("http://db.local/c", "qdrant://db.local/d")
    assert said == (
        "the key travels unencrypted to db.local:6333: if the server has TLS, write qdrant+https://db.local:6333/…"
    )
    assert "write qdrant+grpcs://db.local:6334/…" in told("qdrant+grpc://db.local/c")[0]
    assert "write milvus+https://db.local:19530/…" in told("milvus://db.local/c")[0]


@pytest.mark.parametrize("name", ["notes.qdrant", "notes.milvus.db"])
def test_the_programs_log_goes_on_after_a_store_was_opened(tmp_path: Path, name: str):
    code = """
        import logging, sys
        logging.basicConfig(filename=sys.argv[1], filemode="w", level="INFO")
        logging.info("before")
        from m3_vdb.stores import open_store
        from tests.stores._corpus import IDENTITY
        open_store(sys.argv[2], identity=IDENTITY).close()
        logging.info("after")
    """
    log = tmp_path / "program.log"
    command = [sys.executable, "-c", textwrap.dedent(code), str(log), str(tmp_path / name)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    own = [line for line in log.read_text().splitlines() if line.startswith("INFO:root:")]  # faiss logs there, too
    assert own == ["INFO:root:before", "INFO:root:after"]
