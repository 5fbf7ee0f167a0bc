"""Open stores around fork, pickling, garbage collection, threads and the end of a process."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from m3_vdb.errors import CollectionMismatchError, StoreError
from m3_vdb.index import HybridIndex
from m3_vdb.stores import VectorStore, open_store
from tests.stores._corpus import IDENTITY, make_documents, make_embeddings, make_queries
from tests.stores.conftest import Backend

ROOT = Path(__file__).parents[2]
HANGS = 20
"""Seconds after which a child is said to hang."""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


class FakeEmbedder:
    identity = IDENTITY

    def encode_documents(self, texts: list[str], /):
        return make_embeddings(len(texts))

    encode_queries = encode_documents


TAKE_TURNS = """
import sys
from pathlib import Path
from m3_vdb.stores.folder import locked_file

lock, inside, turns = Path(sys.argv[1]), Path(sys.argv[2]), 0
while turns < 300:
    try:
        with locked_file(lock, lambda process: BlockingIOError()):
            inside.touch(exist_ok=False)
            inside.unlink()
            turns += 1
    except BlockingIOError:
        pass
"""


def test_a_lock_that_leaves_no_file_is_held_by_one_process_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE_TURNS, str(tmp_path / "a.lock"), str(tmp_path / "inside")]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == ["", "", ""]
    assert not any(tmp_path.iterdir())


def said(call: Callable[[], object]) -> str:
    """What a call returned or raised."""
    try:
        return repr(call())
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def in_child(*calls: Callable[[], object]) -> list[str]:
    """What calls return or raise in a forked child, which must not hang."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, "\0".join(said(call) for call in calls).encode())
        finally:
            os._exit(0)
    os.close(write)
    ready = select.select([read], [], [], HANGS)[0]
    answer = os.read(read, 100_000).decode() if ready else ""
    os.close(read)
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert ready, "the child hangs"
    return answer.split("\0")


def run_script(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    header = """
        import gc, os, sys, threading, time
        from m3_vdb.stores import open_store
        from tests.stores._corpus import IDENTITY, make_documents, make_embeddings, make_queries
    """
    command = [sys.executable, "-c", textwrap.dedent(header) + textwrap.dedent(code), *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@forks
def test_a_forked_child_is_told_to_open_its_own(backend: Backend):
    if not backend.over_grpc:
        tells_its_children(backend.open(IDENTITY))
        return
    # gRPC promises nothing to a child that is forked while another thread is in a call or serves: such a child may hang
    # inside os.fork(). So the process that forks has no server in it, and nothing is under way.
    ran = run_script(
        """
        import json
        from tests.stores.test_processes import tells_its_children
        tells_its_children(open_store(sys.argv[1], identity=IDENTITY, **json.loads(sys.argv[2])), while_busy=False)
        """,
        backend.over_grpc,
        json.dumps(backend.options),
    )
    assert ran.returncode == 0, ran.stderr


def tells_its_children(store: VectorStore, *, while_busy: bool = True) -> None:
    store.upsert(make_documents(5), make_embeddings(5))
    query = make_queries(1)[0]
    half_read = store.scroll(batch=1)
    next(half_read)
    index = HybridIndex(FakeEmbedder(), store)
    done = threading.Event()

    def busy() -> None:  # so that mutexes are held now and then while the process forks
        while not done.is_set():
            store.query(query)

    thread = threading.Thread(target=busy)
    if while_busy:
        thread.start()
    calls = [
        store.count,
        lambda: store.get(["d1"]),
        lambda: store.delete(["d1"]),
        lambda: store.upsert(make_documents(1, start=7), make_embeddings(1)),
        lambda: store.query(query),
        lambda: store.rank(query),
        store.optimize,
        store.disk_bytes,
        lambda: next(store.scroll()),
        lambda: next(half_read),
        lambda: index.query("x"),
        lambda: index.add(make_documents(1)),
        lambda: index.get(["d1"]),
        index.count,
    ]
    try:
        for _ in range(2):
            for answer in in_child(*calls):
                assert answer.startswith("StoreError: ")
                assert f"opened in process {os.getpid()}: open it in the worker" in answer
            assert in_child(store.close, index.close, lambda: store.__exit__(None, None, None)) == ["None"] * 3
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()
    assert store.count() == 5
    assert len(store.query(query)) == 5
    store.upsert(make_documents(1, start=7), make_embeddings(1))
    assert store.count() == 6
    store.close()


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_open_store_is_not_pickled_or_copied(store: VectorStore, copied):
    for one in (store, HybridIndex(FakeEmbedder(), store)) if copied is not copy.copy else (store,):
        with pytest.raises(StoreError, match="open it in the worker") as raised:
            copied(one)
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.fixture(params=["n.qdrant", "n.milvus.db"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store in a folder, of either engine, with 5 documents."""
    url = str(tmp_path / request.param)
    with open_store(url, identity=IDENTITY) as store:
        store.upsert(make_documents(5), make_embeddings(5))
    return url


def files_of(folder: str) -> dict[str, tuple[int, int]]:
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


@forks
def test_children_that_end_leave_the_parents_stores_alone(tmp_path: Path, milvus_stub: str):
    from benchmarks.stubs.qdrant_grpc_stub import GrpcStub
    from benchmarks.stubs.qdrant_rest_stub import RestStub

    rest, over_grpc = RestStub(), GrpcStub()
    stores = [
        (str(tmp_path / "n.qdrant"), {}),
        (str(tmp_path / "n.milvus.db"), {}),
        (f"qdrant://{rest.address}/notes", {}),
        ("qdrant://127.0.0.1:1/notes", {"prefer_grpc": True, "grpc_port": over_grpc.port}),
        (f"{milvus_stub}/left_alone", {}),
    ]
    ran = run_script(
        """
        import json, signal
        from tests.stores.test_processes import files_of
        folder, stores = sys.argv[1], json.loads(sys.argv[2])
        opened = [open_store(url, identity=IDENTITY, **options) for url, options in stores]
        for store in opened:
            store.upsert(make_documents(8), make_embeddings(8))
        before = files_of(folder)
        for end in ("sys.exit()", "del store, opened; gc.collect()", "[store.close() for store in opened]"):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # ends it if it hangs
                exec(end)
                sys.exit()  # with all that Python does at the end, unlike a child of multiprocessing
            assert os.waitpid(child, 0)[1] == 0, end
            assert files_of(folder) == before, end
            for store in opened:
                assert (store.count(), len(store.query(make_queries(1)[0]))) == (8, 8), end
        for store in opened:
            store.close()
        print("all are well")
        """,
        str(tmp_path),
        json.dumps(stores),
    )
    assert ran.stdout == "all are well\n", ran.stderr
    rest.close()
    over_grpc.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child keeps the files open that it inherits")
@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_child_that_lives_on_does_not_hold_the_folder(folder: str, end: str):
    ran = run_script(
        """
        folder, end = sys.argv[1:]
        store = open_store(folder, identity=IDENTITY)
        child = os.fork()
        if child == 0:
            os.close(1), os.close(2)
            time.sleep(20)
            os._exit(0)
        print(child, flush=True)
        if end == "kill":
            os.kill(os.getpid(), 9)
        store.close()
        store = open_store(folder, identity=IDENTITY)
        print(store.count())
        """,
        folder,
        end,
    )
    child, *count = ran.stdout.split()
    try:
        assert count == (["5"] if end == "close" else []), ran.stderr
        with open_store(folder, identity=None) as store:
            assert store.count() == 5
    finally:
        os.kill(int(child), signal.SIGKILL)


@forks
def test_a_child_may_open_a_folder_that_the_parent_closed(folder: str):
    store = open_store(folder, identity=IDENTITY)

    def open_here() -> int:
        with open_store(folder, identity=None) as mine:
            return mine.count()

    refusal = in_child(open_here)[0]
    assert refusal.startswith("StoreError: ")
    assert "is open already in" in refusal
    assert "this process" not in refusal
    store.close()
    if folder.endswith(".qdrant"):
        assert in_child(open_here) == ["5"]
    else:  # gRPC, by which milvus-lite is spoken to, does not survive a fork of a process that has used it
        code = "with open_store(sys.argv[1], identity=None) as mine: print(mine.count())"
        assert run_script(code, folder).stdout.split() == ["5"]


def test_a_folder_that_is_open_already_says_where(folder: str):
    with open_store(folder, identity=IDENTITY) as store:
        with pytest.raises(StoreError, match="open already in this process: close that store, or `del`") as raised:
            open_store(folder, identity=IDENTITY)
        assert folder in str(raised.value)
        other = "import sys; from m3_vdb.stores import open_store; open_store(sys.argv[1], identity=None)"
        ran = run_script(other, folder)
        assert "open already in" in ran.stderr.splitlines()[-1]
        if sys.platform == "linux":
            assert f"in process {os.getpid()}: close it there" in ran.stderr.splitlines()[-1]
        assert store.count() == 5


@pytest.mark.parametrize("name", ["n.qdrant", "n.milvus.db"])
def test_what_was_acknowledged_survives_a_killed_process(tmp_path: Path, name: str):
    ran = run_script(
        """
        import signal
        store = open_store(sys.argv[1], identity=IDENTITY)
        for batch in range(3):
            store.upsert(make_documents(40, start=40 * batch), make_embeddings(40, seed=batch))
        store.delete(["d0", "d1"])
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        str(tmp_path / name),
    )
    assert ran.returncode == -signal.SIGKILL
    with open_store(tmp_path / name, identity=None) as store:
        assert store.count() == 118
        assert store.get(["d0", "d2", "d119"]) == [make_documents(3)[2], make_documents(1, start=119)[0]]
        hits = store.query(make_embeddings(40, seed=2)[39], explain=True)
        assert hits[0].document.id == "d119"
        assert hits[0].parts.multi_vector == pytest.approx(1.0, rel=1e-5)


def test_a_store_is_freed_with_its_object(folder: str):
    for _ in range(3):
        index = HybridIndex(FakeEmbedder(), open_store(folder, identity=IDENTITY))
        assert index.count() == 5
        del index
    with open_store(folder, identity=IDENTITY) as store:
        assert store.count() == 5


def test_a_store_in_the_frames_of_an_exception_is_freed(folder: str):
    def cell() -> None:
        store = open_store(folder, identity=IDENTITY)
        cycle = [store]
        cycle.append(cycle)
        raise ValueError("a typo between opening and closing")

    gc.disable()
    try:
        with pytest.raises(ValueError, match="typo") as raised:
            cell()
        del raised
        with open_store(folder, identity=IDENTITY) as store:
            assert store.count() == 5
    finally:
        gc.enable()


def test_a_refused_open_frees_the_folder(folder: str):
    other = dataclasses.replace(IDENTITY, fingerprint="other")
    with pytest.raises(CollectionMismatchError) as kept:  # with its traceback and all its frames
        open_store(folder, identity=other)
    with open_store(folder, identity=IDENTITY) as store:
        assert store.count() == 5
    del kept


def test_another_thread_may_close(folder: str):
    store = open_store(folder, identity=IDENTITY)
    thread = threading.Thread(target=store.close)
    thread.start()
    thread.join()
    with pytest.raises(StoreError, match="is closed; open it again"):
        store.count()
    open_store(folder, identity=IDENTITY).close()


def test_a_store_that_is_left_open_ends_with_the_process(folder: str, tmp_path: Path):
    started = time.monotonic()
    ran = run_script(
        """
        import tempfile
        tempfile.tempdir = sys.argv[2]
        store = open_store(sys.argv[1], identity=IDENTITY)
        store.upsert(make_documents(3, start=5), make_embeddings(3))
        keeps = [store]
        keeps.append(keeps)
        """,
        folder,
        str(tmp_path),
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert time.monotonic() - started < HANGS
    assert [path.name for path in tmp_path.iterdir()] == [Path(folder).name]  # milvus-lite's socket is gone
    with open_store(folder, identity=None) as store:
        assert store.count() == 8
