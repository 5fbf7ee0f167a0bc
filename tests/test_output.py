"""Output of the command line: machine-readable in every environment, safe and legible on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.cells import cell_len

from m3_vdb.cli.main import main
from tests._soak import soak

PROGRAM = "from m3_vdb.cli.main import main; main()"
EVIL = "\x1b]0;title\x07 \x1b[31mred \r over \u202eright to left\u202c [red]markup[/] [/]"
ROWS = [
    {"id": "evil\x1b[2J", "title": "[bold]", "text": f"vector {EVIL}", "lang": "de"},
    {"id": "zh", "text": "数据库的向量检索" * 12, "lang": "zh"},
    {"id": "ta", "text": "தரவுத்தளத்தில் தேடல் " * 6, "lang": "ta"},
]
TERMINALS: dict[str, dict[str, str]] = {
    "plain": {},
    "forced colour": {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TTY_COMPATIBLE": "1", "COLORTERM": "truecolor"},
    "narrow": {"COLUMNS": "20"},
    "dumb": {"TERM": "dumb", "NO_COLOR": "1"},
    "ascii": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "windows": {"PYTHONIOENCODING": "cp1252"},
}


def m3_vdb(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=os.environ | environment, timeout=120, check=False)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> list[object]:
    """The options that name a store with these rows, and the model."""
    folder = tmp_path_factory.mktemp("output")
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    options: list[object] = ["--store", folder / "n.qdrant", "--model", tiny_bundle, "--runtime", "onnxruntime"]
    done = m3_vdb("ingest", folder / "c.jsonl", *options)
    assert done.returncode == 0, done.stderr
    return options


@pytest.fixture(scope="module")
def plain(filled: list[object]) -> bytes:
    """The hits as JSON, written to no terminal of note."""
    return m3_vdb("search", "vector", *filled, "--json").stdout


SOME = [name if name in ("plain", "forced colour", "ascii") else soak([name])[0] for name in TERMINALS]


@pytest.mark.parametrize("terminal", SOME)
def test_json_is_the_same_bytes_in_every_terminal(filled: list[object], plain: bytes, terminal: str) -> None:
    done = m3_vdb("search", "vector", *filled, "--json", **TERMINALS[terminal])
    assert done.returncode == 0, done.stderr
    hits = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    assert {hit["id"]: hit["text"] for hit in hits} == {row["id"]: row["text"] for row in ROWS}
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", done.stdout), "nothing steers a terminal"
    assert done.stdout == plain


@pytest.mark.parametrize("terminal", SOME)
def test_a_table_is_safe_and_whole(filled: list[object], terminal: str) -> None:
    environment = {"COLUMNS": "80"} | TERMINALS[terminal]
    done = m3_vdb("search", "vector", *filled, "--explain", **environment)
    assert done.returncode == 0, done.stderr
    encoding = TERMINALS[terminal].get("PYTHONIOENCODING", "utf-8")
    text = done.stdout.decode(encoding)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)  # rich's own colours, where they are asked for
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", plain)
    assert "\x1b]0" not in text
    if terminal == "plain":
        assert "[red]markup[/] [/]" in re.sub(r"[│\s]+", " ", plain).replace("[/ ]", "[/]")
        assert plain.count("数据库") > 3, "a script without blanks is wrapped, not cut to a line"
        assert max(map(cell_len, plain.splitlines())) <= 80


def test_no_hits_write_nothing_for_programs(filled: list[object]) -> None:
    done = m3_vdb("search", "vector", *filled, "--json", "--filter", "lang=fr")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.decode().count("\n") == 1


def test_a_pipe_that_closes_is_no_traceback(filled: list[object]) -> None:
    command = [sys.executable, "-c", PROGRAM, "search", "vector", *map(str, filled), "--json", "--limit", "3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as after "| head -1"
    said = process.stderr.read()
    process.wait(timeout=120)
    assert b"Traceback" not in said


def test_info_shows_paths_whole(filled: list[object]) -> None:
    done = m3_vdb("info", *filled, COLUMNS="40")
    assert str(filled[3]) in done.stdout.decode()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("ingest missing.jsonl --store x.qdrant", 1, "missing.jsonl is not a file"),
        ("search x --store nowhere.qdrant", 1, "nowhere.qdrant"),
        ("search x --store ftp://x/y", 1, "unrecognised store URL"),
        ("search x --store x.qdrant --weights 1,2", 1, "expected three numbers"),
        ("info --model no-such-model", 1, "no model 'no-such-model'"),
        ("search", 2, "Missing argument"),
        ("search x --nonsense", 2, "--nonsense"),
    ],
)
def test_errors_are_one_line_with_the_code_that_is_documented(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["m3-vdb", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capfd.readouterr()
    assert (ended.value.code, shown.out) == (code, "")
    assert message in shown.err
    if code == 1:
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ")


def test_ctrl_c_is_130_and_one_line(tmp_path: Path, tiny_bundle: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", PROGRAM, "ingest", str(pipe), "--store", str(tmp_path / "n.qdrant")]
    process = subprocess.Popen([*command, "--model", str(tiny_bundle)], stderr=subprocess.PIPE, text=True)
    with pipe.open("w") as writer:  # opens when the ingest reads
        writer.write('{"id": "1", "text": "vector"}\n')
        writer.flush()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
