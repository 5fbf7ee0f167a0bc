"""URLs of Milvus stores, and what is imported for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from m3_vdb.errors import MissingExtraError, StoreUrlError
from m3_vdb.stores import open_store
from m3_vdb.stores.names import Folder, Server, read_name
from tests.stores._corpus import IDENTITY

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("milvus://localhost:19530/notes", ("http://localhost:19530", "", "notes")),
        ("milvus://localhost/notes", ("http://localhost:19530", "", "notes")),
        ("milvus+https://example.org:443/notes", ("https://example.org:443", "", "notes")),
        ("milvus://h:1/library/notes", ("http://h:1", "library", "notes")),
        ("milvus://[::1]:7000/my%5Fnotes", ("http://[::1]:7000", "", "my_notes")),
    ],
)
def test_servers(url, expected):
    assert read_name(url) == Server("milvus", *expected)


@pytest.mark.parametrize(
    "url",
    [
        "milvus://", "milvus://host:19530", "milvus://host:19530/", "milvus://host:port/c",
        "milvus://host/a/b/c", "milvus://host//c", "milvus:/h/c", "milvus+http://h/c",
    ],
)  # fmt: skip
def test_urls_that_name_no_store(url):
    with pytest.raises(StoreUrlError, match="expected"):
        open_store(url, identity=IDENTITY)


@pytest.mark.parametrize("url", ["notes.milvus.db", "./notes.milvus.db", "file:notes.milvus.db"])
def test_files(url):
    assert read_name(url) == Folder(Path("notes.milvus.db"), "milvus")


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("notes.milvus.db", "milvus_lite"),
        ("notes.milvus.db", "pymilvus"),
        ("milvus://localhost/notes", "pymilvus"),
    ],
)
def test_a_missing_package_is_answered_with_the_command_that_installs_it(url, package, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # what Python keeps for a module that cannot be imported
    if package == "milvus_lite":
        monkeypatch.setitem(sys.modules, "milvus_lite.adapter.grpc.server", None)
    for ours in [name for name in sys.modules if name.startswith("m3_vdb.stores.milvus")]:
        monkeypatch.delitem(sys.modules, ours)
    with pytest.raises(MissingExtraError, match=r"pip install 'm3-vdb\[milvus\]'"):
        open_store(url, identity=IDENTITY)


def test_a_server_needs_no_milvus_lite():
    code = "import sys, m3_vdb.stores.milvus.client; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {name.split(".")[0] for name in loaded.split()}
    assert "pymilvus" in names
    assert not names & {"milvus_lite", "faiss", "qdrant_client"}
