"""Import libraries without their side effects.

onnxruntime, OpenVINO, Ray and Haystack collect usage data and send it unless a switch is set while they start. The
switches are set only during the import; afterwards environment and modules are as before. A variable that the user has
set is kept. pymilvus configures logging on import, which closes every log handler of the process; here they stay open.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

_OPENVINO: Final = "openvino_telemetry"
_CONVERTER: Final = "openvino.tools.ovc"
_importing = threading.RLock()


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Set environment variables inside the ``with`` block; variables that are set already keep their values.

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
    """Switch usage data off while importing onnxruntime, OpenVINO, Haystack, or what may import one of them.

    OpenVINO replaces ``openvino_telemetry`` by a stub if it cannot be imported.
    """
    modules: dict[str, Any] = sys.modules
    with (
        _importing,
        variables(ORT_DISABLE_TELEMETRY="1", HAYSTACK_TELEMETRY_ENABLED="false"),
    ):  # a second thread would undo what the first one set
        before = {_OPENVINO: modules[_OPENVINO]} if _OPENVINO in modules else {}
        modules[_OPENVINO] = None  # importing it raises ModuleNotFoundError
        try:
            yield
        finally:
            del modules[_OPENVINO]
            modules.update(before)


def import_openvino() -> Any:  # noqa: ANN401 - the module openvino, optional
    """OpenVINO without its converter of models, which takes longer to import than all the rest.

    ``openvino.convert_model`` is imported when somebody asks for it.
    """
    modules: dict[str, Any] = sys.modules
    with no_usage_data():
        early = "openvino" not in modules
        if early:
            modules[_CONVERTER] = None  # openvino takes it for not installed
        try:
            import openvino  # noqa: PLC0415 - optional
        finally:
            if early:
                del modules[_CONVERTER]

    def convert_model(name: str) -> Any:  # noqa: ANN401
        if name != "convert_model":
            raise AttributeError(f"module 'openvino' has no attribute {name!r}")
        with no_usage_data():
            return import_module(_CONVERTER).convert_model

    if early:
        openvino.__getattr__ = convert_model
    return openvino


@contextmanager
def log_handlers_kept() -> Iterator[None]:
    """Keep log handlers open while importing pymilvus, whose call of ``logging.config.dictConfig`` closes them."""
    names, handlers = logging._handlers, logging._handlerList  # type: ignore[attr-defined]  # no public way
    named, known = dict(names), list(handlers)
    names.clear()
    handlers.clear()
    try:
        yield
    finally:
        names.update(named)
        handlers[:0] = known
