"""A server in a thread, on a free port, with a model that needs no time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from m3_vdb.cli.serve import listen
from m3_vdb.serve.app import make_app
from m3_vdb.serve.service import Service


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
