"""Models by name: fetched from a hub (a stub of its server; the real client), converted once, opened from the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.errors import BundleError, M3Error, MissingExtraError


class HubStub:
    """Answers the requests of ``snapshot_download`` for models that lie in folders; counts them."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[str, Path]] = {}
        self.requests: list[str] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: object) -> None:
                """Quiet."""

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                stub.requests.append(self.path)
                status, headers, content = stub.find(self.path.partition("?")[0].strip("/").split("/"))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, name: str, folder: Path) -> str:
        commit = hashlib.sha1(f"{folder} {len(self.models)}".encode(), usedforsecurity=False).hexdigest()
        self.models[name] = (commit, folder)
        return commit

    def find(self, parts: list[str]) -> tuple[int, dict[str, str], bytes]:
        is_api = parts[:2] == ["api", "models"]
        org, model, what, revision, *path = parts[2:] if is_api else parts
        if (name := f"{org}/{model}") not in self.models:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit, folder = self.models[name]
        if revision not in {"main", commit}:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if is_api and what == "revision":
            return self.json({"id": name, "sha": commit, "siblings": []})
        files = [file for file in folder.rglob("*") if file.is_file()]
        if is_api:
            names = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
            return self.json(
                [{"type": "file", "path": n, "size": s, "oid": self.tag(commit, n)} for n, s in names.items()]
            )
        file = "/".join(path)
        return 200, {"ETag": f'"{self.tag(commit, file)}"', "X-Repo-Commit": commit}, (folder / file).read_bytes()

    @staticmethod
    def json(content: object) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()

    @staticmethod
    def tag(commit: str, file: str) -> str:
        return hashlib.sha1(f"{commit}/{file}".encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[HubStub]:
    stub = HubStub()
    monkeypatch.setattr(constants, "ENDPOINT", stub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", stub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("M3VDB_CACHE", str(tmp_path / "cache"))
    yield stub
    stub.server.shutdown()
    stub.server.server_close()


def same_vectors(model: str | Path, bundle: Path) -> None:
    """Equal to the bundle that was exported from the same checkpoint."""
    texts = ["the vector search", "数据库", ""]
    ours, theirs = (
        M3EmbeddingFunction(one, runtime="onnxruntime", device="cpu").encode_documents(texts) for one in (model, bundle)
    )
    np.testing.assert_array_equal(ours.dense, theirs.dense)
    np.testing.assert_array_equal(ours.multi_vector, theirs.multi_vector)
    np.testing.assert_array_equal(ours.sparse_weights, theirs.sparse_weights)


@pytest.fixture
def repository(tiny_checkpoint, tmp_path) -> Path:
    """The checkpoint as BAAI/bge-m3 lies on the hub: ``pytorch_model.bin``, and an ONNX copy that is not for us."""
    import torch
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "repository"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"no heads" * 1000)
    return folder


def test_a_checkpoint_on_the_hub_is_fetched_converted_and_then_needs_no_network(hub, repository, tiny_bundle):
    hub.put("org/m3", repository)
    same_vectors("org/m3", tiny_bundle)
    assert not [path for path in hub.requests if "onnx" in path]
    asked = len(hub.requests)
    hub.server.shutdown()
    assert find_bundle("org/m3").name == "org/m3"
    assert len(hub.requests) == asked


def test_a_model_stays_at_its_revision_until_another_is_asked_for(hub, repository, tiny_bundle):
    first = hub.put("org/m3", repository)
    assert find_bundle("org/m3").path.name == first
    second = hub.put("org/m3", tiny_bundle)
    assert find_bundle("org/m3").path.name == first
    assert find_bundle("org/m3@main").path.name == find_bundle(f"org/m3@{second}").path.name == second
    assert find_bundle("org/m3").path.name == first
    with pytest.raises(BundleError, match="org/m3 is not a directory here and could not be fetched from the hub: "):
        find_bundle("org/m3@no-such-branch")


def test_a_bundle_on_the_hub_is_opened_as_it_is(hub, tiny_bundle):
    hub.put("org/bundle", tiny_bundle)
    same_vectors("org/bundle", tiny_bundle)  # through the cache's links, too


def test_a_cache_that_another_tool_filled_is_enough_without_a_network(
    hub, repository, tmp_path, monkeypatch, tiny_bundle
):
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "hf" / "models--org--m3"
    shutil.copytree(repository, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    hub.server.shutdown()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    same_vectors("org/m3", tiny_bundle)
    assert not hub.requests


def test_a_model_that_is_not_there_is_named_in_one_line(hub):
    with pytest.raises(BundleError, match="org/nothing is not a directory here and could not be fetched") as error:
        find_bundle("org/nothing")
    assert "\n" not in str(error.value)


def test_a_model_of_another_kind_says_what_it_is(hub, tmp_path):
    folder = tmp_path / "gpt"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    hub.put("org/gpt", folder)
    with pytest.raises(M3Error, match="is a model of type 'gpt2', not an M3 model") as error:
        find_bundle("org/gpt")
    assert "\n" not in str(error.value)


def test_a_checkpoints_folder_is_converted_once_and_again_when_it_changes(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("M3VDB_CACHE", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "fine-tune"))
    first = find_bundle(folder)
    assert first.name == "fine-tune"
    made = first.path.stat().st_mtime_ns
    assert find_bundle(str(folder)).path.stat().st_mtime_ns == made
    shutil.copy(folder / "colbert_linear.pt", folder / "again")
    (folder / "again").replace(folder / "colbert_linear.pt")  # another file
    second = find_bundle(folder)
    assert second.fingerprint == first.fingerprint
    assert second.path != first.path
    assert not first.path.exists(), "conversions of files that are gone do not pile up"


def test_without_the_packages_that_convert_the_install_command_is_said(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("M3VDB_CACHE", str(tmp_path))
    monkeypatch.setattr("m3_vdb.encoding.hub.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'm3-vdb\[export\]'"):
        find_bundle(tiny_checkpoint)


def test_a_missing_extra_is_said_before_the_weights_are_fetched(hub, repository, monkeypatch):
    hub.put("org/m3", repository)
    monkeypatch.setattr("m3_vdb.encoding.hub.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'm3-vdb\[export\]'"):
        find_bundle("org/m3")
    assert not [path for path in hub.requests if "pytorch_model.bin" in path]
