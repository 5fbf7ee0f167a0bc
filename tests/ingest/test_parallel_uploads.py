"""Several batches are stored at the same time: faster, and what a run leaves is what one writer would have left."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from m3_vdb import Document
from m3_vdb.errors import ConfigError, DocumentError, StoreConnectionError, StoreRequestError
from m3_vdb.ingest import IngestReport, Progress, Retry, ingest
from m3_vdb.ingest.batch import Batch, Stored
from m3_vdb.ingest.commit import DeadLetters, OrderedCommitter
from m3_vdb.ingest.ledger import Ledger
from m3_vdb.stores import MemoryStore
from tests.ingest._fakes import Faulty, HashEmbed, documents, rows
from tests.ingest.test_faults import AT_ONCE, IDS, MANY, expected, letters


def run(store: MemoryStore, folder: Path, workers: int = 4, **options: object) -> IngestReport:
    files = {"checkpoint": folder / "checkpoint", "rejected": folder / "rejected.jsonl"}
    options = {"batch_documents": 4, "retry": AT_ONCE, "resume": True, **files, **options}
    return ingest(MANY, HashEmbed(), store, upload_workers=workers, **options)


class Served(Faulty):
    is_server = True


@pytest.mark.parametrize(
    ("options", "is_server", "together"),
    [({"upload_workers": 1}, True, 1), ({"upload_workers": 5}, True, 5), ({}, True, 2), ({}, False, 1)],
)
def test_as_many_requests_travel_together_as_asked_for(options, is_server, together) -> None:
    meeting, lock, inside, most = threading.Barrier(together, timeout=30), threading.Lock(), 0, 0

    class Meeting(Faulty):
        def upsert(self, documents, embeddings):
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            meeting.wait()  # for the others
            with lock:
                inside -= 1
            super().upsert(documents, embeddings)

    Meeting.is_server = is_server
    report = ingest(documents(80), HashEmbed(), Meeting(), batch_documents=4, **options)  # 20 requests
    assert (report.documents, most) == (80, together)


def test_the_number_of_workers_is_checked() -> None:
    with pytest.raises(ConfigError, match="upload_workers=0: expected a whole number, at least 1"):
        ingest(documents(1), HashEmbed(), Served(), upload_workers=0)


@pytest.mark.parametrize("seed", range(12))
def test_in_whatever_order_batches_are_stored_the_checkpoint_speaks_of_a_beginning(tmp_path: Path, seed: int) -> None:
    """The connection is lost at a random request; what was settled is stored, and resuming leaves what it should."""
    rng = random.Random(seed)
    last = rng.randrange(1, 16)

    def fault(name: str, call: int) -> None:
        if name == "upsert":
            time.sleep(rng.random() * 0.01)
            if call >= last:
                raise StoreConnectionError("no answer")

    told: list[Progress] = []
    store = Served(fault)
    with pytest.raises(StoreConnectionError):
        run(store, tmp_path, progress=told.append, retry=Retry(attempts=1))
    assert [state.rows for state in told] == sorted(state.rows for state in told)
    done = told[-1].rows if told else 0
    held = {one.id for one in MANY[:done] if isinstance(one, Document) and one.id in IDS}
    assert held <= set(rows(store, IDS))
    store.fault = lambda name, call: time.sleep(rng.random() * 0.005)
    report = run(store, tmp_path)
    assert report.resumed == done
    assert rows(store, IDS) == expected()
    assert letters(tmp_path) == ["not JSON", "model output", "duplicate id", "not storable"]


@pytest.mark.parametrize("seed", range(6))
def test_lost_acknowledgements_and_refusals_cost_no_document_and_no_row_twice(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    faults = [StoreConnectionError("x"), StoreRequestError("x", status=429, retry_after=0.001)]

    def maybe(name: str, call: int) -> None:
        if name == "upsert" and rng.random() < 0.3:
            raise rng.choice(faults)

    store = Served(maybe, maybe)
    report = run(store, tmp_path, retry=Retry(attempts=60, first=0, longest=0))
    assert report.documents == 60
    assert report.retries > 0
    assert rows(store, IDS) == expected()
    assert letters(tmp_path) == ["not JSON", "model output", "duplicate id", "not storable"]


def test_versions_of_one_document_never_meet(tmp_path: Path) -> None:
    """The first row of an id is stored, whatever is slow; a later one would otherwise win by being faster."""

    class SlowFirst(Served):
        def upsert(self, documents, embeddings):
            if any(one.text == "first" for one in documents):
                time.sleep(0.1)
            super().upsert(documents, embeddings)

    items = [Document("a", "first"), *documents(20), Document("a", "second"), *[Document("b", "x")] * 3]
    store = SlowFirst()
    report = ingest(items, HashEmbed(), store, batch_documents=1, upload_workers=4)
    assert store.get(["a"]) == [Document("a", "first")]
    assert report.rejections == {"duplicate id": 3}


def test_a_strict_run_ends_at_the_first_bad_row_of_the_corpus(tmp_path: Path) -> None:
    class LateFirst(Served):
        def upsert(self, documents, embeddings):
            if documents[0].id == "d4":
                time.sleep(0.1)
            if documents[0].id in ("d4", "d8"):
                raise DocumentError("document 0: bad", index=0)
            super().upsert(documents, embeddings)

    with pytest.raises(DocumentError, match="d4: bad") as caught:
        ingest(documents(40), HashEmbed(), LateFirst(), batch_documents=4, upload_workers=4, strict=True)
    assert caught.value.index == 4


def test_a_batch_that_hangs_holds_the_others_up_before_memory_fills(tmp_path: Path) -> None:
    go = threading.Event()
    stored: list[str] = []

    class Hanging(Served):
        def upsert(self, documents, embeddings):
            if documents[0].id == "d0":
                go.wait(10)
            stored.append(documents[0].id)
            super().upsert(documents, embeddings)

    store = Hanging()
    thread = threading.Thread(
        target=lambda: ingest(documents(200), HashEmbed(), store, batch_documents=1, upload_workers=3)
    )
    thread.start()
    while len(stored) < 4:  # or the test's own time is up
        time.sleep(0.01)
    time.sleep(0.3)
    assert len(stored) <= 8
    go.set()
    thread.join(20)
    assert MemoryStore.count(store) == 200


def test_nothing_is_committed_behind_a_failure_and_nothing_twice(tmp_path: Path) -> None:
    def committer(ahead: int = 9) -> tuple[OrderedCommitter, list[int]]:
        ledger = Ledger(tmp_path / "c", run_key={}, resume=False)
        made = OrderedCommitter(ledger, DeadLetters(None), IngestReport(), strict=False, ahead=ahead)
        order: list[int] = []
        return made, order

    made, order = committer()
    for number in (2, 0, 3, 1):
        made.commit(Batch(stop=10 * number, number=number), Stored(), lambda state: order.append(state.rows))
    assert order == [0, 10, 20, 30]
    assert made.committed == 4
    made._ledger.close()
    made, order = committer()

    def failing(*_: object) -> None:
        raise OSError("disk full")

    made._ledger.commit = failing
    made.commit(Batch(stop=2, number=1), Stored(), lambda state: order.append(state.rows))
    with pytest.raises(OSError, match="disk full"):
        made.commit(Batch(stop=1, number=0), Stored(), lambda state: order.append(state.rows))
    del made._ledger.commit
    made.commit(Batch(stop=1, number=0), Stored(), lambda state: order.append(state.rows))
    made.commit(Batch(stop=3, number=2), Stored(), lambda state: order.append(state.rows))
    assert (order, made.committed) == ([], 0)


def test_two_runs_with_several_writers_each(tmp_path: Path) -> None:
    store = Served(lambda name, call: time.sleep(0.001))

    def write(folder: Path) -> None:
        folder.mkdir()
        run(store, folder, workers=3)

    threads = [threading.Thread(target=write, args=(tmp_path / str(i),)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(store, IDS) == expected()
