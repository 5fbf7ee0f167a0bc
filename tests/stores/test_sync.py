"""A collection follows a folder, on every store: what is encoded, and what is there afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.stubs.qdrant_rest_stub import RestStub
from m3_vdb import LongDocuments
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.ingest import Corpus, async_sync, sync
from m3_vdb.passages import whole_documents
from m3_vdb.stores import MemoryStore, open_store
from m3_vdb.types import Document
from tests.ingest._fakes import IDENTITY, HashEmbed
from tests.serving._fakes import FakeSession, embed_with
from tests.stores.conftest import Backend


class Folder:
    """A folder of texts beside a collection."""

    def __init__(self, path: Path, store):
        self.path, self.store, self.embed = path, store, HashEmbed()
        path.mkdir()

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.path / f"{name}.txt").write_text(text, encoding="utf-8")

    def sync(self, source: str = "notes", **options):
        """The plan's counts that are not 0, and what was encoded."""
        self.embed.encoded.clear()
        report = sync(Corpus([self.path], format="auto"), self.embed, self.store, source=source, **options)
        names = ("added", "changed", "moved", "updated", "removed", "kept", "unchanged", "rejected")
        return {name: n for name in names if (n := getattr(report.plan, name))}, sorted(self.embed.encoded)

    def held(self) -> dict[str, str]:
        return {one.id: one.text for some in self.store.documents() for one in some}

    def assert_vectors(self) -> None:
        """Every document has the vectors of its text."""
        for found, embeddings in self.store.scroll():
            fresh = self.embed.encode_documents([one.content for one in found])
            assert abs(embeddings.dense - fresh.dense).max() < 1e-6
            assert abs(embeddings.multi_vector - fresh.multi_vector).max() < 1e-6
            assert embeddings.sparse_ids.tolist() == fresh.sparse_ids.tolist()


@pytest.fixture
def folder(tmp_path: Path, backend: Backend):
    with backend.open(IDENTITY) as store:
        yield Folder(tmp_path / "corpus", store)


@pytest.fixture
def memory(tmp_path: Path):
    with MemoryStore(IDENTITY) as store:
        yield Folder(tmp_path / "corpus", store)


def test_what_is_new_changed_moved_or_gone_and_only_that(folder):
    folder.write(a="one", b="two", c="three", d="four", e="five")
    assert folder.sync() == ({"added": 5}, ["five", "four", "one", "three", "two"])
    assert folder.sync() == ({"unchanged": 5}, [])
    (folder.path / "a.txt").unlink()
    (folder.path / "sub").mkdir()
    (folder.path / "b.txt").rename(folder.path / "sub" / "moved.txt")
    (folder.path / "c.txt").rename(folder.path / "z.txt")  # the names of two move up by one
    (folder.path / "d.txt").rename(folder.path / "c.txt")
    folder.write(e="new five", f="six")
    plan, encoded = folder.sync()
    assert encoded == ["new five", "six"]
    assert plan == {"added": 1, "changed": 2, "moved": 2, "removed": 3}
    assert folder.held() == {
        "sub/moved.txt": "two", "c.txt": "four", "z.txt": "three", "e.txt": "new five", "f.txt": "six"
    }  # fmt: skip
    folder.assert_vectors()


def test_a_payload_alone_is_updated_without_encoding(folder):
    rows = [Document(f"d{i}", f"text {i}", payload={"n": i}) for i in range(300)]
    sync(rows, folder.embed, folder.store, source="table")
    folder.embed.encoded.clear()
    rows[3:7] = [Document(one.id, one.text, payload={"n": -1, "new": [one.id]}) for one in rows[3:7]]
    rows[8] = Document("d8", "text 8", title="Title", payload={"n": 8})
    plan = sync(rows, folder.embed, folder.store, source="table").plan
    assert (plan.updated, plan.changed, plan.unchanged) == (4, 1, 295)
    assert folder.embed.encoded == ["Title\ntext 8"]
    assert folder.store.get([one.id for one in rows]) == rows
    assert folder.store.count({"new": "d3"}) == 1
    folder.assert_vectors()


def test_each_source_removes_its_own_alone(folder, tmp_path):
    folder.write(a="one", b="two")
    folder.store.upsert([Document("by hand", "stays")], folder.embed.encode_documents(["stays"]))
    other = Folder(tmp_path / "other", folder.store)
    other.write(c="three")
    assert other.sync("other") == ({"added": 1}, ["three"])
    assert folder.sync()[0] == {"added": 2}
    (folder.path / "a.txt").unlink()
    assert folder.sync()[0] == {"removed": 1, "unchanged": 1}
    assert other.sync("other")[0] == {"unchanged": 1}
    assert set(folder.held()) == {"b.txt", "c.txt", "by hand"}
    other.write(b="mine")
    with pytest.raises(ConfigError, match=r"1 ids of this corpus belong to the source 'notes'.*--source 'notes'"):
        other.sync("other")
    assert folder.held()["b.txt"] == "two"


def test_what_was_ingested_before_is_taken_over_without_encoding(memory):
    memory.write(a="one", b="two")
    memory.store.upsert([Document("a.txt", "one")], memory.embed.encode_documents(["one"]))
    assert memory.sync() == ({"added": 1, "updated": 1}, ["two"])
    (memory.path / "a.txt").unlink()
    assert memory.sync()[0] == {"removed": 1, "unchanged": 1}


def test_too_many_that_vanish_are_not_removed_until_that_is_said(memory):
    memory.write(**{f"n{i}": f"text {i}" for i in range(60)})
    memory.sync()
    for i in range(13):
        (memory.path / f"n{i}.txt").unlink()
    with pytest.raises(ConfigError, match=r"13 of 60 documents of 'notes' would be removed \(22%\).*--max-removed 13"):
        memory.sync()
    assert len(memory.held()) == 60
    assert memory.sync(dry_run=True)[0] == {"removed": 13, "unchanged": 47}
    for refused in (12, "21%", "0%", 0):
        with pytest.raises(ConfigError, match="max_removed"):
            memory.sync(max_removed=refused)
    assert memory.sync(max_removed="22%")[0] == {"removed": 13, "unchanged": 47}
    for i in range(13, 23):  # ten are never too many for a share
        (memory.path / f"n{i}.txt").unlink()
    assert memory.sync(max_removed="1%")[0]["removed"] == 10
    (memory.path / "new").mkdir()
    for path in list(memory.path.glob("*.txt")):  # nothing is lost by a move
        path.rename(memory.path / "new" / path.name)
    assert memory.sync(max_removed=0) == ({"moved": 37, "removed": 37}, [])
    for wrong in ("a fifth", "120%", -1, True):
        with pytest.raises(ConfigError, match="expected a share such as 20%"):
            memory.sync(max_removed=wrong)


def test_what_cannot_be_read_is_not_gone(memory):
    (memory.path / "rows.jsonl").write_text("".join(json.dumps({"id": i, "text": f"t {i}"}) + "\n" for i in range(3)))
    memory.write(a="one", b="two")
    memory.sync()
    (memory.path / "a.txt").write_bytes(b"\xfa broken")
    assert memory.sync()[0] == {"rejected": 1, "unchanged": 4}
    assert memory.held()["a.txt"] == "one", "its last good version stays"
    memory.write(a="one")
    (memory.path / "b.txt").unlink()
    (memory.path / "rows.jsonl").write_bytes(b"\x1f\x8b\x08 not really packed")
    plan, _ = memory.sync()
    assert (plan["kept"], "removed" in plan, len(memory.held())) == (4, False, 5)
    with pytest.raises(DocumentError, match=r"rows\.jsonl"):
        memory.sync(strict=True)


def test_a_dry_run_names_samples_and_changes_nothing(memory):
    memory.write(**{f"n{i}": f"text {i}" for i in range(9)})
    seen = []
    assert memory.sync(dry_run=True, planned=seen.append) == ({"added": 9}, [])
    assert seen[0].samples == {"added": [f"n{i}.txt" for i in range(5)]}
    assert str(seen[0]) == "9 added, 0 unchanged"
    assert memory.held() == {}


def test_a_second_sync_of_a_source_is_told_who_is_at_it(memory, tmp_path):
    memory.write(a="one")
    other = Folder(tmp_path / "other", memory.store)
    other.write(b="two")

    def meanwhile(_):
        with pytest.raises(ConfigError, match=rf"'notes' of .* is being synced by process {os.getpid()}"):
            memory.sync()
        other.sync("other")

    assert memory.sync(planned=meanwhile)[0] == {"added": 1}
    assert memory.held() == {"a.txt": "one", "b.txt": "two"}


HOLDER = """
import sys
from m3_vdb.ingest import sync
from m3_vdb.stores import open_store
from m3_vdb.types import Document
from tests.ingest._fakes import IDENTITY, HashEmbed

def wait(plan):
    print("planned", flush=True)
    sys.stdin.readline()

with open_store(sys.argv[1], identity=IDENTITY) as store:
    sync([Document("a", "one")], HashEmbed(), store, source="notes", planned=wait)
"""


def test_of_two_processes_that_sync_a_source_of_a_server_the_second_is_refused():
    with closing(RestStub()) as server, open_store(f"qdrant://{server.address}/notes", identity=IDENTITY) as store:
        command = [sys.executable, "-c", HOLDER, f"qdrant://{server.address}/notes"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
            assert first.stdout.readline() == "planned\n"
            with pytest.raises(ConfigError, match=rf"'notes' of .* is being synced by process {first.pid}: wait"):
                sync([Document("b", "two")], HashEmbed(), store, source="notes")
            sync([Document("c", "three")], HashEmbed(), store, source="other")
            first.communicate("go on\n", timeout=60)
        assert first.returncode == 0
        assert sync([Document("b", "two")], HashEmbed(), store, source="notes").plan.removed == 1
        assert sorted(one.id for one in store.get(["a", "b", "c"])) == ["b", "c"]


def test_it_runs_beside_an_event_loop(memory):
    memory.write(a="one")
    report = asyncio.run(async_sync(Corpus([memory.path]), memory.embed, memory.store, source="notes"))
    assert (report.plan.added, report.ingest.documents, memory.held()) == (1, 1, {"a.txt": "one"})


def test_documents_that_are_split_stay_whole_and_only_new_passages_are_encoded(tiny_bundle):
    embed = embed_with(FakeSession(), tiny_bundle, max_length=32)
    plan = LongDocuments(plan="split")
    words = [f"{word} " * 25 for word in ("the", "search", "vector", "index", "query", "model")]
    with MemoryStore(embed.identity) as store:

        def synced(*texts: str):
            rows = [Document(f"d{i}", text, payload={"n": i}) for i, text in enumerate(texts)]
            report = sync(rows, embed, store, source="s", long_documents=plan)
            assert whole_documents(store, [one.id for one in rows]) == rows
            others = {one.passage.document for some in store.documents() for one in some if one.passage}
            assert others <= {one.id for one in rows}
            return report

        first = synced("".join(words), "".join(words[:3]))
        passages = store.count()
        assert first.plan.added == 2 < first.plan.to_encode == passages
        assert first.ingest.long_documents == 2
        assert synced("".join(words), "".join(words[:3])).plan.unchanged == 2
        longer = synced("".join([*words, "repeat "]), "".join(words[:3]))
        assert (longer.plan.changed, longer.plan.unchanged) == (1, 1)
        assert longer.plan.to_encode <= 2 < passages, "passages that are the same keep their vectors"
        shorter = synced("".join(words[:2]))
        assert (shorter.plan.changed, shorter.plan.removed) == (1, 1)
        assert store.count() < passages // 2
        assert synced("short").plan.to_encode == store.count() == 1
