"""``RayEngine`` on a cluster of two machines (raylets): what it leaves is what a run without it leaves."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
from typer.testing import CliRunner

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb import Document
from m3_vdb.cli.main import app
from m3_vdb.errors import BundleError, ConfigError, EngineError, StoreConnectionError, StoreRequestError
from m3_vdb.ingest import Corpus, Progress, Retry, ingest, ray_engine
from m3_vdb.ingest.batch import Batch, Waiting
from m3_vdb.ingest.ray_cluster import check_resources, connected
from m3_vdb.ingest.ray_engine import RayEngine
from m3_vdb.ingest.ray_workers import Done, EncodeWorker, StoreWorker
from m3_vdb.stores import MemoryStore, VectorStore, open_store
from m3_vdb.stores.qdrant.embedded import QdrantEdgeStore
from m3_vdb.types import Passage
from tests.ingest._fakes import IDENTITY, Faulty, HashEmbed, documents
from tests.ingest._ray_fakes import PLAN, Encoding, run

COUNT = 120
REJECTIONS = {"not JSON": 1, "duplicate id": 1, "model output": 1, "not storable": 1, "no id": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster of several workers; this process is connected to it."""
    import ray

    with connected(None, cpus=4):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture
def server() -> Iterator[RestStub]:
    stub = RestStub()
    yield stub
    stub.close()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = [json.dumps({"id": f"d{i}", "text": f"text {i}" + " die" * (i == 30), "n": i}) for i in range(COUNT)]
    for at, bad in ((5, "not json"), (47, '{"id": "d3", "text": "again"}'), (48, '{"id": "p", "text": "poison"}')):
        lines.insert(at, bad)
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join([*lines, '{"id": "q", "text": "nan"}', '{"text": "no id"}']) + "\n")
    return path


def content(store: VectorStore) -> dict[str, object]:
    found = {}
    for some, embeddings in store.scroll():
        for document, one in zip(some, embeddings, strict=True):
            vectors = one.dense.tolist(), one.sparse.as_dict(), one.multi_vector.tolist()
            assert document.id not in found
            found[document.id] = document, vectors
    return found


def undisturbed(corpus: Path, folder: Path) -> tuple[dict[str, object], list[str]]:
    """What a run without Ray leaves."""
    folder.mkdir()
    stub = RestStub()
    with open_store(f"qdrant://{stub.address}/one", identity=IDENTITY) as store:
        rejected = folder / "rejected.jsonl"
        ingest(Corpus([corpus]), HashEmbed(), store, batch_documents=6, rejected=rejected, long_documents=PLAN)
        left = content(store), (folder / "rejected.jsonl").read_text().splitlines()
    stub.close()
    return left


def left(url: str, folder: Path) -> tuple[dict[str, object], list[str]]:
    with open_store(url, identity=IDENTITY) as store:
        return content(store), (folder / "rejected.jsonl").read_text().splitlines()


@pytest.mark.integration
def test_encoder_driver_and_writer_are_killed_one_after_the_other(
    cluster: str, server: RestStub, corpus: Path, tmp_path: Path
) -> None:
    """kill -9 of an encoder in the first run, then of the driver; in the resumed run of a writer."""
    folder, url = tmp_path / "run", f"qdrant://{server.address}/notes"
    folder.mkdir()
    command = [sys.executable, "-m", "tests.ingest._ray_fakes", str(corpus), str(folder), url, cluster, "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (folder / "encoder-died").exists()
    assert not (folder / "writer-died").exists()
    assert len(list(folder.glob("encoder-[0-9]*"))) >= 3  # two, and one more instead of the dead
    report = run(corpus, folder, url)
    assert (folder / "writer-died").exists()
    assert len(list(folder.glob("writer-[0-9]*"))) >= 3
    assert report.resumed >= 60
    assert report.long_documents == report.documents
    assert 0 < report.documents <= COUNT - 57
    assert report.rejections == REJECTIONS
    assert left(url, folder) == undisturbed(corpus, tmp_path / "other")
    assert not (folder / "checkpoint").exists()


def descendants(title: str) -> list[int]:
    """Processes of this name that this process began."""
    found, parents = [], {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            pid, name = int(path.name), (path / "cmdline").read_bytes().decode(errors="replace")
            parents[pid] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if name.startswith(title):
            found.append(pid)

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return [pid for pid in found if ours(pid)]


@pytest.mark.integration
def test_a_folder_is_written_by_the_driver_alone_through_a_stop_and_the_loss_of_encoders(
    cluster: str, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "encoder-died").touch()
    files = {"checkpoint": tmp_path / "checkpoint", "rejected": tmp_path / "rejected.jsonl"}
    stop = threading.Event()
    lost = []

    def stopping(state: Progress) -> None:
        if state.rows > 20:
            stop.set()

    def losing(state: Progress) -> None:
        if state.rows > 60 and not lost:
            lost.extend(descendants("ray::EncodeWorker"))
            for pid in lost:
                os.kill(pid, signal.SIGKILL)

    with (
        QdrantEdgeStore(tmp_path / "x.qdrant", identity=IDENTITY) as store,
        RayEngine(partial(Encoding, tmp_path, seconds=0.03), encoders=2) as engine,
    ):
        options = {"engine": engine, "batch_documents": 3, "long_documents": PLAN, **files}
        assert ingest(Corpus([corpus]), HashEmbed(), store, stop=stop, progress=stopping, **options).interrupted
        begun = store.count()
        assert 15 < begun < COUNT
        report = ingest(Corpus([corpus]), HashEmbed(), store, resume=True, progress=losing, **options)
        assert lost
        assert report.resumed > 15
        assert report.documents == COUNT - begun  # unchanged: stored before the stop, and before an earlier batch was
        done = report.resumed + report.documents + report.unchanged + len(report.rejected)
        assert done == COUNT + len(REJECTIONS)
        assert report.rejections == REJECTIONS
        assert content(store) == undisturbed(corpus, tmp_path / "other")[0]


def no_model() -> HashEmbed:
    raise BundleError("no bundle at /models/m3")


@pytest.mark.integration
def test_failures_are_told_as_they_are_without_ray(cluster: str) -> None:
    away = partial(open_store, "qdrant://127.0.0.1:1/notes", identity=IDENTITY)
    items = documents(20)

    class Served(MemoryStore):
        is_server = True

    def attempt(engine: RayEngine) -> None:
        with engine:
            ingest(
                items, HashEmbed(), Served(IDENTITY), engine=engine, retry=Retry(attempts=2, first=0), batch_documents=5
            )

    with pytest.raises(StoreConnectionError):
        attempt(RayEngine(HashEmbed, open_store=away, encoders=1))
    with pytest.raises(ConfigError, match="need 51 CPUs, and the cluster has 4"):
        attempt(RayEngine(HashEmbed, open_store=away, encoders=50))
    with pytest.raises(ConfigError, match="need 1 GPUs, and the cluster has 0"):
        attempt(RayEngine(HashEmbed, encoders=1, gpus=1))
    held = Served(IDENTITY)
    held.upsert(items, HashEmbed().encode_documents([one.content for one in items]))
    with RayEngine(no_model, open_store=away, encoders=1) as engine:  # nothing to encode, and no worker is begun
        assert ingest(items, HashEmbed(), held, engine=engine).unchanged == 20
    with pytest.raises(EngineError, match="not connected"):
        ingest(items, HashEmbed(), MemoryStore(IDENTITY), engine=RayEngine(HashEmbed, encoders=1))
    with pytest.raises(ConfigError, match="expected one encoder or more"):
        RayEngine(HashEmbed, encoders=0)


@pytest.mark.integration
def test_the_program_keeps_its_own_handler_of_sigterm() -> None:
    """Ray replaces it when it connects, and takes it away when it leaves."""
    code = """
        import os, signal
        from m3_vdb.ingest.ray_cluster import connected
        came = []
        signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
        with connected(None, cpus=1):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        print(len(came))
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_what_fits() -> None:
    check_resources({"CPU": 4.0}, encoders=3, cpus=1, gpus=0, writer_cpus=1)
    with pytest.raises(ConfigError, match="add machines first"):
        check_resources({"CPU": 4.0}, encoders=3, cpus=1, gpus=0, writer_cpus=1.5)


@pytest.mark.integration
def test_the_command_line(cluster: str, server: RestStub, tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": f"search {i} der vector"}) + "\n" for i in range(9)))
    results = {}
    for engine in ("threads", "ray"):
        url = f"qdrant://{server.address}/{engine}"
        words = ["ingest", str(path), "--store", url, "--model", str(tiny_bundle), "--batch-documents", "2", "--json"]
        words += ["--checkpoint", str(tmp_path / engine), "--runtime", "onnxruntime", "--upload-workers", "1"]
        words += ["--engine", "ray", "--encoders", "1"] if engine == "ray" else []
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout.splitlines()[-1])["documents"] == 9
        with open_store(url, identity=None) as store:
            results[engine] = {
                one.id: (one, dense) for some, e in store.scroll() for one, dense in zip(some, e.dense, strict=True)
            }
    assert "Ray" in result.stderr
    for id, (document, dense) in results["threads"].items():
        assert results["ray"][id][0] == document
        assert results["ray"][id][1] == pytest.approx(dense, abs=1e-5)


class Broken(HashEmbed):
    def encode_documents(self, texts):
        return 1 / 0


class Deadly(HashEmbed):
    def encode_documents(self, texts):
        if any("text 7" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_documents(texts)


@pytest.mark.integration
def test_a_batch_that_workers_die_of_ends_the_run_and_is_named(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_engine.MAX_WORKER_DEATHS == 5
    monkeypatch.setattr(ray_engine, "MAX_WORKER_DEATHS", 2)  # each costs seconds
    items = [Document(f"d{i}", f"text {i}") for i in range(10)]
    with (
        MemoryStore(IDENTITY) as store,
        RayEngine(Deadly, encoders=2) as engine,
        pytest.raises(EngineError, match="2 workers died while they encoded a batch that begins with document 'd6'"),
    ):
        ingest(items, HashEmbed(), store, engine=engine, batch_documents=2)


def test_what_a_worker_says_of_a_fault_is_what_it_was() -> None:
    def batch() -> Batch:
        documents = [Document("a", "text"), Document("b", "poison")]
        waiting = [Waiting(place, one, one) for place, one in enumerate(documents)]
        return Batch(stop=2, waiting=waiting, outdated={"a": ["a¶2"]})

    encoded = EncodeWorker(HashEmbed, IDENTITY).work(batch())[1]
    assert [row.place for row in encoded.waiting] == [0]
    assert [(place, one.kind) for place, one in encoded.rejected] == [(1, "model output")]
    other = replace(IDENTITY, fingerprint="other")
    for make, identity, words in (
        (no_model, IDENTITY, "a worker cannot open the model: no bundle at /models/m3"),
        (HashEmbed, other, "a worker cannot open the model: the driver's model"),
        (Broken, IDENTITY, "a worker cannot encode a batch: ZeroDivisionError"),
    ):
        failure = pickle.loads(pickle.dumps(EncodeWorker(make, identity).work(batch())[0].failure))
        with pytest.raises(EngineError, match=words):
            raise failure

    def copied() -> Batch:
        return pickle.loads(pickle.dumps(encoded))

    def stored(fault: Exception) -> tuple[Done, Batch]:
        def upsert(name: str, call: int) -> None:
            if name == "upsert":
                raise fault

        worker = StoreWorker(lambda: Faulty(upsert), Retry(attempts=1), PLAN)
        return pickle.loads(pickle.dumps(worker.work(copied())))

    held = MemoryStore(IDENTITY)
    passages = [
        Document("a¶2", "older", passage=Passage("a", 2, 2, 0, 5)),
        Document("b¶2", "another's", passage=Passage("b", 2, 2, 0, 9)),
    ]
    held.upsert(passages, HashEmbed().encode_documents([one.content for one in passages]))
    assert StoreWorker(lambda: held, Retry(attempts=1), PLAN).work(copied())[1].stored.ids == ("a",)
    assert [one.id for one in held.get(["a", "a¶2", "b¶2"])] == ["a", "b¶2"]

    refusal = stored(StoreRequestError("no", status=403, retry_after=3))[0].failure
    assert isinstance(refusal, StoreRequestError)
    assert (refusal.status, refusal.retry_after) == (403, 3)
    assert isinstance(stored(StoreConnectionError("away"))[0].failure, StoreConnectionError)
    _, refused = stored(StoreRequestError("no", status=413))
    assert [one.kind for _, one in refused.rejected] == ["model output", "too large"]
