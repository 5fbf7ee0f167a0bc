"""Stores, disks and networks that fail: nothing is lost, nothing is done twice, and a resumed run ends as it should."""

from __future__ import annotations

import errno
import json
import random
import threading
from pathlib import Path

import pytest

from m3_vdb import Document
from m3_vdb.errors import ConfigError, StoreConnectionError, StoreError, StoreRequestError
from m3_vdb.ingest import IngestReport, Rejected, Retry, ingest
from m3_vdb.ingest.commit import DeadLetters
from m3_vdb.ingest.ledger import Checkpoint, Ledger
from m3_vdb.retry import Retrier, is_transient, retry_after
from m3_vdb.stores import MemoryStore
from tests._soak import soak
from tests.ingest._fakes import IDENTITY, Faulty, HashEmbed, documents, rows

AT_ONCE = Retry(attempts=4, first=0, longest=0)
MANY = [
    *documents(40),
    Rejected("file, line 41", "not JSON", "not JSON", row="{"),
    Document("p", "poison"),
    Document("d3", "again"),
    *documents(60)[40:],
    Document("n", "nan"),
]
IDS = [f"d{i}" for i in range(60)]


def expected() -> dict[str, tuple[object, ...]]:
    with MemoryStore(IDENTITY) as store:
        good = documents(60)
        store.upsert(good, HashEmbed().encode_documents([one.content for one in good]))
        return rows(store, IDS)


def run(store: MemoryStore, folder: Path | None = None, **options: object) -> IngestReport:
    files = {} if folder is None else {"checkpoint": folder / "checkpoint", "rejected": folder / "rejected.jsonl"}
    return ingest(
        MANY, HashEmbed(), store, **{"batch_documents": 7, "retry": AT_ONCE, "resume": True, **files, **options}
    )


def letters(folder: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in (folder / "rejected.jsonl").read_text().splitlines()]


FAULTS = {
    "no answer": StoreConnectionError("no answer"),
    "429": StoreRequestError("slow down", status=429, retry_after=0.0),
    "500": StoreRequestError("internal", status=500),
    "503": StoreRequestError("restarting", status=503),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", FAULTS)
def test_what_passes_is_asked_again(name: str, when: str) -> None:
    def fault(_: str, call: int) -> None:
        if call % 3:  # two failures, then one success
            raise FAULTS[name]

    store = Faulty(**{"fault" if when == "before" else "after": fault})
    report = run(store)
    assert rows(store, IDS) == expected()
    assert report.documents == 60
    assert report.retries > 10


def test_a_store_that_stays_away_ends_the_run_and_resuming_finishes_it(tmp_path: Path) -> None:
    away = True

    def fault(name: str, call: int) -> None:
        if name == "upsert" and call > 4 and away:
            raise FAULTS["no answer"]

    store = Faulty(fault)
    with pytest.raises(StoreConnectionError):
        run(store, tmp_path)
    assert 0 < MemoryStore.count(store) < 60
    away = False
    report = run(store, tmp_path)
    assert report.resumed > 0
    assert rows(store, IDS) == expected()
    assert letters(tmp_path) == ["not JSON", "model output", "duplicate id", "not storable"]


@pytest.mark.parametrize("status", [401, 403, 404, None])
def test_a_refusal_that_is_not_about_a_document_ends_the_run(tmp_path: Path, status: int | None) -> None:
    def fault(name: str, call: int) -> None:
        if name == "upsert":
            raise StoreRequestError("refused", status=status)

    store = Faulty(fault)
    with pytest.raises(StoreRequestError):
        run(store, tmp_path)
    assert store.calls["upsert"] == 1
    assert not (tmp_path / "rejected.jsonl").exists()


def test_a_document_that_the_store_refuses_costs_itself(tmp_path: Path) -> None:
    class Picky(Faulty):
        def upsert(self, documents, embeddings):
            if any(one.id in ("d5", "d33") for one in documents):
                raise StoreRequestError("payload too large", status=413)
            super().upsert(documents, embeddings)

    store = Picky()
    report = run(store, tmp_path)
    assert report.documents == 58
    assert report.rejections["too large"] == 2
    assert letters(tmp_path).count("too large") == 2


def test_a_pause_grows_has_an_end_and_is_never_shorter_than_the_store_asks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry = Retry(first=1, longest=10)
    pauses = [[retry.pause(n, StoreConnectionError("x")) for _ in range(200)] for n in (1, 2, 9)]
    assert [max(some) <= limit for some, limit in zip(pauses, (2, 4, 10), strict=True)] == [True] * 3
    assert max(pauses[2]) > 5
    assert retry.pause(1, StoreRequestError("x", status=429, retry_after=7)) >= 7
    with monkeypatch.context() as patched:
        patched.setattr("m3_vdb.retry._TOLD_FROM", 0.001)
        assert Retrier(Retry(first=0)).again(StoreRequestError("slow down", status=429, retry_after=0.002), 1)
    assert caplog.messages == ["slow down; attempt 2 of 10 follows in 0 s"]
    assert not Retrier(retry).again(StoreRequestError("x", status=429, retry_after=86_400), 1)


def test_what_passes_and_how_long_it_takes_stands_in_the_error() -> None:
    codes = (None, 400, 403, 404, 413, 429, 500, 503)
    assert [is_transient(StoreRequestError("x", status=code)) for code in codes] == [False] * 5 + [True] * 3
    assert is_transient(StoreConnectionError("x"))
    assert not is_transient(StoreError("closed"))
    known = StoreRequestError("x", retry_after=3.0), StoreConnectionError("x", retry_after=2.0), StoreError("closed")
    assert [retry_after(error) for error in (*known, StoreRequestError("x"))] == [3, 2, 0, 0]


def test_stopping_does_not_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    stop = threading.Event()

    def fault(name: str, call: int) -> None:
        if name == "upsert" and call > 2:
            stop.set()
            raise FAULTS["no answer"]

    store = Faulty(fault)
    report = run(store, tmp_path, stop=stop, retry=Retry(attempts=99, first=1000, longest=1000))
    assert report.interrupted
    store.fault = lambda name, call: None
    assert not run(store, tmp_path).interrupted
    assert rows(store, IDS) == expected()


class _BrokenError(Exception):
    pass


@pytest.mark.parametrize("seed", [*range(6), *soak(range(6, 30))])
def test_failures_at_random_points_and_resuming_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    left = 0

    def maybe(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise rng.choice([_BrokenError(), OSError(errno.ENOSPC, "No space left on device"), FAULTS["500"]])

    class Fragile(HashEmbed):
        def encode_documents(self, texts):
            maybe()
            return super().encode_documents(texts)

    for owner, name in ((Ledger, "commit"), (Ledger, "claim"), (DeadLetters, "write")):
        work = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, work=work: (maybe(), work(*args), maybe())[1])
    store = Faulty(maybe, maybe)
    for _ in range(60):
        left = rng.randrange(1, 90)
        files = {"checkpoint": tmp_path / "checkpoint", "rejected": tmp_path / "rejected.jsonl"}
        try:
            options = {"batch_documents": 7, "retry": Retry(attempts=1), "upload_workers": 1 + seed % 3}
            ingest(MANY, Fragile(), store, resume=True, **options, **files)
            break
        except (_BrokenError, OSError, StoreError):
            pass
    assert rows(store, IDS) == expected()
    assert letters(tmp_path) == ["not JSON", "model output", "duplicate id", "not storable"]
    assert not (tmp_path / "checkpoint").exists()


def test_a_checkpoint_on_a_full_disk_ends_the_run_in_one_line_and_resuming_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Faulty()
    prepare = Ledger._prepare

    def full(self: Ledger) -> None:
        prepare(self)
        self._db.execute("PRAGMA max_page_count = 4")

    many = documents(3000)
    files = {"checkpoint": tmp_path / "checkpoint", "batch_documents": 50}
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_prepare", full)
        with pytest.raises(OSError, match="full") as caught:
            ingest(many, HashEmbed(), store, **files)
    assert "\n" not in str(caught.value)
    assert MemoryStore.count(store) < 3000
    ingest([*many, Document("d7", "again")], HashEmbed(), store, resume=True, **files)
    assert MemoryStore.count(store) == 3000
    assert store.get(["d7"]) == [many[7]]


@pytest.mark.parametrize("lost", [IDS, ["d19"], []])
def test_a_store_that_lost_what_it_acknowledged_is_filled_again(tmp_path: Path, lost: list[str]) -> None:
    stop = threading.Event()
    store = Faulty()
    run(store, tmp_path, stop=stop, progress=lambda state: state.rows > 20 and stop.set())
    if not lost:  # fewer were lost than somebody else has added
        held = [one for one in IDS if MemoryStore.get(store, [one])]
        extra = [Document(f"x{i}", "other") for i in range(30)]
        store.upsert(extra, HashEmbed().encode_documents([one.content for one in extra]))
        lost = held[-8:]
    store.delete(lost)
    report = run(store, tmp_path)
    assert report.restarted
    assert report.resumed == 0
    assert rows(store, IDS) == expected()
    assert letters(tmp_path) == ["not JSON", "model output", "duplicate id", "not storable"]


def test_a_checkpoint_belongs_to_its_corpus_model_and_run_key(tmp_path: Path) -> None:
    stop = threading.Event()
    store = Faulty()
    told = {"progress": lambda state: stop.set(), "stop": stop, "checkpoint": tmp_path / "c", "batch_documents": 5}
    assert ingest(documents(200), HashEmbed(), store, run_key={"store": "x"}, **told).interrupted
    again = {"checkpoint": tmp_path / "c", "resume": True, "batch_documents": 5}
    with pytest.raises(ConfigError, match="its store is 'x', this one's 'y'"):
        ingest(documents(200), HashEmbed(), store, run_key={"store": "y"}, **again)
    with pytest.raises(ConfigError, match="encoding"):
        ingest(documents(200), HashEmbed(), store, run_key={"store": "x"}, encoding="other", **again)
    with pytest.raises(ConfigError, match="these rows have changed"):
        ingest(documents(200, seed=1), HashEmbed(), store, run_key={"store": "x"}, **again)
    with pytest.raises(ConfigError, match="only 3 rows"):
        ingest(documents(3), HashEmbed(), store, run_key={"store": "x"}, **again)
    report = ingest(documents(210), HashEmbed(), store, run_key={"store": "x"}, **again)
    assert report.resumed >= 5
    assert MemoryStore.count(store) == 210


def test_a_checkpoint_in_use_and_a_file_that_is_none_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("not a database at all, and long enough to be read as one" * 99)
    holder = Ledger(tmp_path / "c", run_key={}, resume=False)
    for resume in (False, True):
        with pytest.raises(ConfigError, match="in use by another run"):
            Ledger(tmp_path / "c", run_key={}, resume=resume)
        with pytest.raises(ConfigError, match="not a checkpoint of m3-vdb"):
            Ledger(tmp_path / "mine.txt", run_key={}, resume=resume)
    holder.commit(Checkpoint(rows=3))
    holder.close()
    assert Ledger(tmp_path / "c", run_key={}, resume=True).checkpoint.rows == 3
    assert (tmp_path / "mine.txt").read_text().startswith("not a database")


def test_two_writers_at_once_leave_what_one_would_have_left(tmp_path: Path) -> None:
    store = Faulty()
    reports: list[IngestReport] = []

    def write(part: slice, folder: Path) -> None:
        folder.mkdir()
        options = {"checkpoint": folder / "checkpoint", "batch_documents": 5}
        reports.append(ingest(documents(60)[part], HashEmbed(seconds=0.002), store, **options))

    parts = [slice(0, 60), slice(0, 60), slice(0, 40), slice(20, 60)]
    threads = [threading.Thread(target=write, args=(part, tmp_path / str(i))) for i, part in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 4
    assert rows(store, IDS) == expected()
