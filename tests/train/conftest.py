"""What several files of tests use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from train.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def train(monkeypatch, capsys):
    """Runs a command in this process and returns (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run
