"""What several files of tests use."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train._runs import UNIFIED, config, run
from train.__main__ import main
from train.config import Schedule
from train.engine.run import StepReport

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def trained(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StepReport], list]:
    """A run of eight steps with a frozen lower layer: folder, reports, warnings. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    phases = Schedule(unified=replace(UNIFIED, freeze_layers=1))
    _, reports, warnings = run(config(tiny_checkpoint, folder, phases=phases, save_every=5))
    return folder, reports, warnings


@pytest.fixture
def train(monkeypatch, capsys):
    """Runs a command in this process and returns (exit code, standard output, standard error)."""

    def run_here(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run_here
