"""What the tests of all frameworks use: an embedding function whose forward passes are counted, coroutines as tests."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from m3_vdb import M3EmbeddingFunction, find_bundle
from tests.serving._fakes import FakeSession, embed_with

ROOT = Path(__file__).parents[2]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests of frameworks are not imported where they are not asked for: the frameworks may be missing."""
    if collection_path.name.startswith("test_") and "not integration" in config.option.markexpr:
        return "pytestmark = pytest.mark.integration" in collection_path.read_text(encoding="utf-8") or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(name: str, obj: object) -> None:
    """Tests that are coroutines run in an event loop, those of a framework's suite too."""
    if name.startswith("test_") and inspect.iscoroutinefunction(obj):
        pytest.mark.asyncio(obj)


@pytest.fixture(scope="session")
def session() -> FakeSession:
    identity = find_bundle(None).identity
    return FakeSession(dense_dim=identity.dense_dim, multi_vector_dim=identity.multi_vector_dim)


@pytest.fixture(scope="session")
def embed(session: FakeSession) -> M3EmbeddingFunction:
    """The shipped model's tokenizer, and vectors that are formulas of the tokens."""
    return embed_with(session)


class Passes:
    """Counts forward passes inside a ``with`` block."""

    def __init__(self, session: FakeSession):
        self._session = session
        self.texts: list[int] = []

    def __enter__(self) -> list[int]:
        self._before = len(self._session.shapes)
        return self.texts

    def __exit__(self, *_: object) -> None:
        self.texts += [rows for rows, _ in self._session.shapes[self._before :]]


@pytest.fixture
def passes(session: FakeSession):
    """``with passes() as texts``: afterwards the number of texts of each forward pass."""
    return lambda: Passes(session)


@pytest.fixture
def run_example():
    """Runs a file of examples/ and returns what it prints."""

    def run(name: str) -> str:
        command = [sys.executable, str(ROOT / "examples" / name)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    return run
