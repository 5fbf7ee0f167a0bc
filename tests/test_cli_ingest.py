"""``m3-vdb ingest`` for its user: output, exit codes, and resuming after Ctrl-C and kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from m3_vdb import M3EmbeddingFunction, open_store
from m3_vdb.cli.main import app
from tests._soak import soak

MANY = 600


def ingest(*arguments: object, text: str | None = None) -> Result:
    command = ["ingest", *(str(argument) for argument in arguments)]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200"}, input=text)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def held(store: Path) -> int:
    with open_store(str(store), identity=None) as opened:
        return opened.count()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "c.jsonl", [{"id": i, "text": f"vector {i}", "lang": "en"} for i in range(9)])


def test_the_last_line_is_the_summary_and_the_slow_side_is_named(
    corpus: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    store = tmp_path / "x.qdrant"
    done = ingest(corpus, "--store", store, "--model", tiny_bundle, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["documents"], summary["held"], summary["rejected"], summary["resumed"]) == (9, 9, 0, 0)
    assert summary["bottleneck"] in ("encoder", "input", "store")
    assert "encoder busy" in done.stderr
    assert "is the bottleneck" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "x.qdrant"], "no files are left behind"

    again = ingest(corpus, "--store", store, "--model", tiny_bundle, "--json")
    summary = json.loads(again.stdout.splitlines()[-1])
    assert (summary["documents"], summary["unchanged"]) == (0, 9)
    assert "9 unchanged" in again.stderr
    more = ingest(corpus, "--store", store, "--model", tiny_bundle, "--json", "--again")
    assert json.loads(more.stdout.splitlines()[-1])["documents"] == 9


def test_several_formats_fields_and_standard_input(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "a.csv").write_text("key,head,body,more\n1,T,text,x\n2,,other,y\n")
    (tmp_path / "beir").mkdir()
    write(tmp_path / "beir" / "corpus.jsonl", [{"_id": "b", "title": "T", "text": "t", "metadata": {}}])
    store = tmp_path / "x.qdrant"
    options = ["--store", store, "--model", tiny_bundle]
    fields = ["--id-field", "key", "--text-field", "body", "--text-field", "more", "--title-field", "head"]
    assert ingest(tmp_path / "a.csv", *options, *fields).exit_code == 0
    assert ingest(tmp_path / "beir", *options).exit_code == 0
    assert ingest("-", *options, text='{"id": "s", "text": "from the pipe"}\n').exit_code == 0
    assert ingest("-", *options, "--format", "tsv", "--columns", "id,text", text="t1\tone\n").exit_code == 0
    with open_store(str(store), identity=None) as opened:
        assert opened.count() == 5
        first, _, piped, tabbed = opened.get(["1", "b", "s", "t1"])
    assert (first.title, first.text, dict(first.payload)) == ("T", "text\nx", {})
    assert (piped.text, tabbed.text) == ("from the pipe", "one")


def test_bad_rows_are_counted_by_kind_and_kept(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    with corpus.open("a") as file:
        file.write('no\n{"id": 3, "text": "again"}\n{"id": "x"}\nno\n')
    options = ["--store", tmp_path / "x.qdrant", "--model", tiny_bundle]
    done = ingest(corpus, *options)
    assert done.exit_code == 3
    assert "line 10: not JSON" in done.stderr
    letters = tmp_path / "x.qdrant.ingest.rejected.jsonl"
    assert f"4 rows not stored (1 duplicate id, 1 no text, 2 not JSON): {letters}" in done.stderr
    rows = [json.loads(line) for line in letters.read_text().splitlines()]
    assert [(row["file"], row["line"], row["id"], row["row"]) for row in rows] == [
        (str(corpus), 10, None, "no"),
        (str(corpus), 11, "3", '{"id": 3, "text": "again"}'),
        (str(corpus), 12, "x", '{"id": "x"}'),
        (str(corpus), 13, None, "no"),
    ]
    assert ingest(corpus, *options, "--rejected", tmp_path / "mine.jsonl").exit_code == 3
    assert (tmp_path / "mine.jsonl").read_text() == letters.read_text()
    strict = ingest(corpus, *options, "--strict")
    assert strict.exit_code == 1
    assert "line 10: not JSON" in str(strict.exception)


def test_without_a_terminal_there_is_a_line_every_so_often(
    corpus: Path, tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3_vdb.cli.run.LINE_SECONDS", 0.0)
    done = ingest(corpus, "--store", tmp_path / "x.qdrant", "--model", tiny_bundle, "--batch-documents", 3)
    lines = [line for line in done.stderr.splitlines() if "rows, " in line]
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)
    assert {"3", "6", "9"} <= {line.split()[0] for line in lines}
    assert lines[-1].startswith("9 of 9 rows, 0:00:00 left, ")


@pytest.mark.parametrize("option", ["--rejected", "--checkpoint"])
def test_the_corpus_is_never_written_over(corpus: Path, tmp_path: Path, tiny_bundle: Path, option: str) -> None:
    done = ingest(corpus, "--store", tmp_path / "x.qdrant", "--model", tiny_bundle, option, corpus)
    assert done.exit_code == 1
    assert "is the corpus" in str(done.exception)
    assert len(corpus.read_text().splitlines()) == 9


@pytest.mark.parametrize(
    ("plan", "documents", "held", "code", "said"),
    [
        ("error", 1, 1, 3, "its multi_vector has"),
        ("truncate", 3, 3, 0, "2 long documents: the first rows of their multi-vectors were kept"),
        ("pool", 3, 3, 0, "2 long documents: the rows of their multi-vectors were pooled"),
        ("split", 13, 13, 0, "2 long documents: each is stored in passages"),
    ],
)
def test_long_documents(
    tmp_path: Path, tiny_bundle: Path, plan: str, documents: int, held: int, code: int, said: str
) -> None:
    texts = ["a vector", "vector search " * 50, "the index " * 52]
    corpus = write(tmp_path / "c.jsonl", [{"id": i, "text": text} for i, text in enumerate(texts)])
    store = tmp_path / "x.qdrant"
    options = ["--long-documents", plan, "--max-rows", 22, *(["--overlap", 2] if plan == "split" else [])]
    done = ingest(corpus, "--store", store, "--model", tiny_bundle, "--json", *options)
    assert done.exit_code == code, done.output
    assert said in done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["documents"], summary["held"]) == (documents, held)
    assert summary["long_documents"] == (0 if plan == "error" else 2)
    command = ["search", "the index", "--store", f"{store}", "--model", f"{tiny_bundle}", "--limit", "9", "--json"]
    hits = [json.loads(line) for line in CliRunner().invoke(app, command).stdout.splitlines()]
    assert sorted(hit["id"] for hit in hits) == (["0"] if plan == "error" else ["0", "1", "2"])
    assert [hit["passage"] is not None for hit in sorted(hits, key=lambda hit: hit["id"])][1:] == (
        [plan == "split"] * (len(hits) - 1)
    )


def test_an_unknown_plan_is_one_line(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    done = ingest(corpus, "--store", tmp_path / "x.qdrant", "--model", tiny_bundle, "--long-documents", "shrink")
    assert done.exit_code == 1
    assert "expected one of error, truncate, pool, split" in str(done.exception)
    assert not (tmp_path / "x.qdrant").exists()


@pytest.fixture
def long_corpus(tmp_path: Path) -> Path:
    rows: list[dict[str, object]] = [{"id": i, "text": f"vector number {i} " * (1 + i % 9)} for i in range(MANY)]
    rows.insert(40, {"id": "bad"})  # its dead letter shows from outside that batches are being settled
    return write(tmp_path / "long.jsonl", rows)


def started(corpus: Path, tmp_path: Path, bundle: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, once it has stored something."""
    process = subprocess.Popen(
        command(corpus, tmp_path, bundle), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(1200):
        if (tmp_path / "x.qdrant.ingest.rejected.jsonl").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    return process


def command(corpus: Path, tmp_path: Path, bundle: Path, *more: str) -> list[str]:
    code = "from m3_vdb.cli.main import main; main()"
    options = ["--store", f"{tmp_path}/x.qdrant", "--model", f"{bundle}", "--batch-documents", "8", "--json"]
    return [sys.executable, "-c", code, "ingest", f"{corpus}", *options, *more]


def resumed(corpus: Path, tmp_path: Path, bundle: Path) -> dict[str, int]:
    done = subprocess.run(
        command(corpus, tmp_path, bundle, "--resume"), capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 3, done.stderr
    assert held(tmp_path / "x.qdrant") == MANY
    assert len((tmp_path / "x.qdrant.ingest.rejected.jsonl").read_text().splitlines()) == 1
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, *soak([signal.SIGTERM])])
def test_ctrl_c_stops_cleanly_and_the_run_goes_on(
    long_corpus: Path, tmp_path: Path, tiny_bundle: Path, number: signal.Signals
) -> None:
    process = started(long_corpus, tmp_path, tiny_bundle)
    process.send_signal(number)
    shown, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "--resume" in said
    assert "Traceback" not in said
    first = json.loads(shown.splitlines()[-1])
    assert first["interrupted"]
    assert 40 <= first["documents"] == held(tmp_path / "x.qdrant") < MANY
    last = resumed(long_corpus, tmp_path, tiny_bundle)
    assert last["resumed"] == first["documents"] + 1
    assert last["documents"] == MANY - first["documents"], "nothing was encoded twice"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kill_9_and_going_on(long_corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    process = started(long_corpus, tmp_path, tiny_bundle)
    process.kill()
    process.communicate(timeout=60)
    before = held(tmp_path / "x.qdrant")
    assert 40 <= before < MANY
    last = resumed(long_corpus, tmp_path, tiny_bundle)
    assert last["resumed"] > 0
    assert last["documents"] == MANY - before, "what was stored and not yet in the checkpoint is asked of the store"


def test_a_second_writer_of_a_folder_is_told_so_in_one_line(corpus: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    identity = M3EmbeddingFunction(tiny_bundle).identity
    with open_store(f"{tmp_path}/x.qdrant", identity=identity):
        done = subprocess.run(command(corpus, tmp_path, tiny_bundle), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is open already" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
