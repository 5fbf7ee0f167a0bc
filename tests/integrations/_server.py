"""A server in a thread, on a free port, and a model that needs no time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import httpx
import uvicorn

from m3_vdb import M3EmbeddingFunction, find_bundle
from m3_vdb.cli.serve import listen
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.serve.app import make_app
from m3_vdb.serve.service import Service
from tests.serving._fakes import FakeSession

MAX_LENGTH = 64


@cache
def _model() -> tuple[ModelIdentity, Tokenizer]:
    bundle = find_bundle(None)
    return bundle.identity, bundle.read_tokenizer()


def fake_embed(session_type: type[FakeSession] = FakeSession, **options) -> M3EmbeddingFunction:
    """The shipped model's tokenizer, and a session whose vectors are formulas of the tokens."""
    identity, tokenizer = _model()
    return M3EmbeddingFunction.from_parts(
        tokenizer,
        session_type(dense_dim=identity.dense_dim, multi_vector_dim=identity.multi_vector_dim, **options),
        identity=identity,
        model_max_length=MAX_LENGTH,
        on_truncate="ignore",
    )


def token_of(word: str) -> int:
    """The id of a word's first token."""
    return int(_model()[1].encode([word], max_length=9).ids[1])


class Running:
    """A running server; ``http`` asks it."""

    def __init__(self, service: Service, **options) -> None:
        self.service = service
        self._socket = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        app = make_app(service, **options)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=20))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@contextmanager
def serving(service: Service, **options) -> Iterator[Running]:
    running = Running(service, **options)
    running.thread.start()
    try:
        yield running
    finally:
        running.http.close()
        running.server.should_exit = True
        running.thread.join(30)
        assert not running.thread.is_alive(), "the server did not end"
