"""The documentation is true: its code runs, its imports, options and files exist, and public names are documented."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import shlex
from pathlib import Path

import pytest
import typer.main

import m3_vdb
from m3_vdb.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands


def blocks(page: Path, language: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(ROOT / "README.md", "python"):
        exec(compile(code, "README.md", "exec"), names)
    answers = capsys.readouterr().out.splitlines()
    for word, answer in zip(("Rechenleiste", "macro", "PDF"), answers, strict=True):
        assert word in answer.partition("→")[2]
    assert "sparse=0.0" in answers[0], "no word is shared"
    assert (tmp_path / "notes.qdrant").is_dir()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_imports_is_there(page: Path):
    imports = re.findall(r"^from (m3_vdb[\w.]*) import ([\w, ]+)$", "\n".join(blocks(page)), flags=re.M)
    for module, names in imports:
        if module.startswith("m3_vdb.integrations."):
            continue  # needs a framework: tests/integrations runs the code of that page
        for name in names.split(","):
            assert hasattr(importlib.import_module(module), name.strip()), f"{page.name}: {module} has no {name}"


def test_every_file_of_the_tree_in_the_readme_is_there():
    tree = next(block for block in blocks(ROOT / "README.md") if block.startswith("m3_vdb/"))
    folders = ("m3_vdb", "train", "runs", "onnx_export", "benchmarks", "examples", "docs")
    there = {path.name for folder in folders for path in (ROOT / folder).rglob("*")}
    assert set(re.findall(r"[\w.-]+\.(?:py|md|sh)\b", tree)) <= there


def options_of(words: list[str]) -> tuple[str, set[str]]:
    """The command of a line, and the options of it that do not exist."""
    command = COMMANDS[words[1]]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return words[1], {word.partition("=")[0] for word in words if word.startswith("--")} - known - {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_options_of_a_page_are_there(page: Path):
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    for line in lines:
        if not line.startswith("m3-vdb ") or (words := shlex.split(line, comments=True))[1] not in COMMANDS:
            continue
        assert options_of(words)[1] == set(), f"{page.name}: {line}"


MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "m3_vdb").rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str):
    tried = doctest.testmod(importlib.import_module(module))
    assert tried.attempted > tried.failed == 0


def test_all_public_names_are_explained():
    for name in m3_vdb.__all__:
        value = getattr(m3_vdb, name)
        if not inspect.isclass(value) and not callable(value):
            continue
        assert value.__doc__, name
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            if attribute[0] != "_" and inspect.isfunction(member):
                assert inspect.getdoc(member), f"{name}.{attribute}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_filters_that_a_shell_would_read_otherwise_are_in_quotes(page: Path):
    commands = "".join(blocks(page))
    assert re.findall(r"--filter [^'\"\s]*[<>$&;(].*", commands) == []
