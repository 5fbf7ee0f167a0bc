"""Real processes for tests: they fork from one server that has imported torch, so that each starts at once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import train.commands
import train.contrastive.stages
import train.engine.card  # noqa: F401 - what the server imports
from train.__main__ import main

ROOT = Path(__file__).parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def start(function: Callable[..., None], *arguments: object, log: Path, **environment: str) -> ForkServerProcess:
    """A process that runs the function; what it says goes to ``log``."""
    process = CONTEXT.Process(target=_run, args=(function, arguments, log, environment), daemon=True)
    process.start()
    return process


def _run(function: Callable[..., None], arguments: tuple[object, ...], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    os.chdir(ROOT)
    function(*arguments)


def command(*arguments: object) -> None:
    """``python -m train`` with these arguments."""
    sys.argv = ["train", *map(str, arguments)]
    main()


def together(count: int, function: Callable[..., None], *arguments: object, folder: Path) -> None:
    """Run the function in several processes that form a group (gloo), as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    logs = [folder / f"process-{i}.log" for i in range(count)]
    processes = [
        start(function, *arguments, log=log, **group, MASTER_PORT=str(port), RANK=str(i), LOCAL_RANK=str(i))
        for i, log in enumerate(logs)
    ]
    for process, log in zip(processes, logs, strict=True):
        process.join(280)
        assert process.exitcode == 0, log.read_text()[-3000:]
