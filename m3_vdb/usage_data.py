"""No usage data: what onnxruntime, OpenVINO and Ray would write into the home folder and send.

Each of them looks for its switch while it starts and never again. So the switches are set for that long, and the
environment and the modules of the program are as before afterwards. A variable that the user has set stands.
"""

from __future__ import annotations

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
