"""Imports without side effects: no usage data, and the program's log handlers stay open.

onnxruntime, OpenVINO and Ray write usage data into the home folder and send it, unless a switch is set while they
start. The switches are set for that long only; afterwards the program's environment and modules are as before. A
variable that the user has set stands. pymilvus configures logging, which closes every handler of the process.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

_OPENVINO: Final = "openvino_telemetry"
_importing = threading.RLock()


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Environment variables for a while; those that are set already stay as they are.

    Args:
        values: name → value.
    """
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def no_usage_data() -> Iterator[None]:
    """Around the import of onnxruntime, of OpenVINO, or of what imports them (fastembed, by way of qdrant-client).

    OpenVINO takes its own stand-in, which does nothing, where ``openvino_telemetry`` cannot be imported.
    """
    modules: dict[str, Any] = sys.modules
    with _importing, variables(ORT_DISABLE_TELEMETRY="1"):  # a second thread would undo what the first one set
        before = {_OPENVINO: modules[_OPENVINO]} if _OPENVINO in modules else {}
        modules[_OPENVINO] = None  # importing it raises ModuleNotFoundError
        try:
            yield
        finally:
            del modules[_OPENVINO]
            modules.update(before)


@contextmanager
def log_handlers_kept() -> Iterator[None]:
    """Around the import of pymilvus: ``logging.config.dictConfig``, which it calls, closes what these lists hold."""
    names, handlers = logging._handlers, logging._handlerList  # type: ignore[attr-defined]  # no public way
    named, known = dict(names), list(handlers)
    names.clear()
    handlers.clear()
    try:
        yield
    finally:
        names.update(named)
        handlers[:0] = known
