from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from m3_vdb.stores import MemoryStore, ModelIdentity, VectorStore, open_store
from tests.stores._corpus import IDENTITY


@dataclass(frozen=True)
class Backend:
    """One way to keep a collection; ``open`` may be called again for the same collection."""

    name: str
    open: Callable[[ModelIdentity | None], VectorStore]
    keeps: bool = True  # the collection outlives close()
    strict_types: bool = True  # filters tell True from 1; qdrant-client's local mode compares with ==


@pytest.fixture(params=["memory", "local", "rest", "edge"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param == "memory":
        yield Backend("memory", lambda identity: MemoryStore(identity or IDENTITY), keeps=False)
    elif request.param == "edge":
        yield Backend("edge", lambda identity: open_store(str(tmp_path / "c.qdrant"), identity=identity))
    elif request.param == "rest":
        from tests.stores._rest_stub import RestStub

        stub = RestStub()
        url = f"qdrant://{stub.address}/notes"
        yield Backend("rest", lambda identity: open_store(url, identity=identity), strict_types=False)
        stub.close()
    else:
        from qdrant_client import QdrantClient

        from m3_vdb.stores.qdrant import QdrantStore

        client = QdrantClient(":memory:")
        close = client.close
        client.close = lambda *_args, **_kwargs: None  # a closed local client forgets everything
        yield Backend("local", lambda identity: QdrantStore(client, "notes", identity=identity), strict_types=False)
        close()


@pytest.fixture
def store(backend: Backend) -> Iterator[VectorStore]:
    with backend.open(IDENTITY) as opened:
        yield opened
