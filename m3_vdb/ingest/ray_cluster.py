"""A Ray cluster for the time of an ingest: joined, or begun on this machine, without dashboard and usage statistics."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from types import FrameType
from typing import Final

from m3_vdb.errors import ConfigError, EngineError, MissingExtraError
from m3_vdb.imports import variables

ADDRESS_VARIABLE: Final = "RAY_ADDRESS"


@contextmanager
def connected(address: str | None, *, cpus: int | None = None) -> Iterator[dict[str, float]]:
    """Ray, connected; the resources of the cluster. A connection that was there before is used, and left.

    Args:
        address: of a cluster ("auto", "HOST:6379"); None: what ``RAY_ADDRESS`` names, else one is begun here.
        cpus: of a cluster that is begun here; None: as many as the machine has.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: there is no cluster at the address, or none can be begun.
    """
    try:
        import ray  # noqa: PLC0415 - seconds to import, and optional
    except ModuleNotFoundError as error:
        raise MissingExtraError("engine ray", extra="ray") from error
    with variables(RAY_BACKEND_LOG_LEVEL="fatal", RAY_USAGE_STATS_ENABLED="0"):
        if ray.is_initialized():
            yield ray.cluster_resources()
            return
        where = address or os.environ.get(ADDRESS_VARIABLE)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            _connect(where, cpus)
            if on_sigterm is not signal.SIG_DFL:
                _handle_sigterm(on_sigterm)  # Ray has put its own in the place of the program's
            yield ray.cluster_resources()
        finally:
            ray.shutdown()
            _handle_sigterm(on_sigterm)  # Ray takes handlers away, unseen by Python


def _connect(address: str | None, cpus: int | None) -> None:
    """Join the cluster at the address, or begin one here.

    Raises:
        EngineError: there is none, or none can be begun.
    """
    import ray  # noqa: PLC0415 - as above

    try:
        if address is None:
            # No token is written into the home folder. It stays: Ray keeps the one that it saw first.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            with closing(socket.create_server(("127.0.0.1", 0))) as taken:
                # Without the dashboard, its process would still start, for usage data alone, and look for a cloud to
                # report even where these are off. On a port that is taken it does not start, and Ray logs an error.
                port = taken.getsockname()[1]
                options = {"include_dashboard": False, "dashboard_host": "127.0.0.1", "dashboard_port": port}
                ray.init("local", num_cpus=cpus, log_to_driver=False, logging_level=logging.CRITICAL, **options)
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # also what Ray raises as such: "The current node timed out during startup"
        raise EngineError(f"no Ray cluster at {address or 'this machine'}: {first_line(error)}") from error


def _handle_sigterm(handler: Callable[[int, FrameType | None], object] | int | None) -> None:
    """Install a handler again. Ray touches them in the main thread alone, where alone Python allows it."""
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGTERM, handler)


def first_line(error: BaseException) -> str:
    """What an error of Ray says, which may be pages of traces: the kind, and the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def check_resources(there: Mapping[str, float], *, encoders: int, cpus: float, gpus: float, writer_cpus: float) -> None:
    """Check that a job can begin: Ray would wait for ever.

    Args:
        there: the cluster's resources.
        encoders: how many.
        cpus: of each.
        gpus: of each.
        writer_cpus: of all writers.

    Raises:
        ConfigError: the cluster is too small.
    """
    for name, needed in (("CPU", encoders * cpus + writer_cpus), ("GPU", encoders * gpus)):
        if needed > there.get(name, 0.0):
            raise ConfigError(
                f"{encoders} encoders of {cpus:g} CPUs and {gpus:g} GPUs, and writers of {writer_cpus:g} CPUs, need "
                f"{needed:g} {name}s, and the cluster has {there.get(name, 0.0):g}: ask for fewer or smaller encoders, "
                f"or add machines first"
            )
