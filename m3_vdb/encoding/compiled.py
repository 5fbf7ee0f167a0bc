"""Keeps what OpenVINO has compiled from a small model, so that later processes open it sooner.

Compiling m3-small takes .6 s, reading what was compiled .1 s, and processes that read it share its memory (docs/log.md,
2026-11-30). The files lie in ``~/.cache/m3-vdb/compiled`` (or below ``M3VDB_CACHE``); what is deleted there, damaged,
or of another processor or OpenVINO is made again. Where nothing can be written, the model is compiled each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.bundle import CHECKSUMS, HASH_LIMIT
from m3_vdb.encoding.hub import cache_folder

_LEAST: Final = 8 * 2**20
"""Smaller models compile in a moment. Larger ones than ``HASH_LIMIT`` are not kept: BGE-M3's size would take gigabytes,
and its checksums are not compared when it is opened."""
_KEPT: Final = 3
"""Files to keep, the newest; 108 MB each for m3-small."""
_SUM: Final = 4
"""Bytes of the checksum at a file's end: OpenVINO does not see when weights are damaged."""


def compiled_model(core: Any, model: Path, config: Mapping[str, Any], compiled: Callable[[], Any]) -> tuple[Any, Any]:  # noqa: ANN401 - openvino.Core, optional import
    """A compiled model: what an earlier process has kept, or a new one, which is kept.

    Args:
        core: OpenVINO's.
        model: path of the ONNX file.
        config: what it is compiled with.
        compiled: compiles it.

    Returns:
        The compiled model, and the file's content in memory that it reads from; keep both alike.
    """
    place = _place(model, config)
    if place is not None and (found := _read(core, place, config)) is not None:
        return found
    made = compiled()
    if place is not None:
        _keep(made, place)
    return made, None


def _place(model: Path, config: Mapping[str, Any]) -> Path | None:
    """The file for a model, compiled in this way by this OpenVINO; None if it is not to be kept."""
    import openvino  # noqa: PLC0415 - optional

    sums = model.with_name(CHECKSUMS)
    if not sums.is_file() or not _LEAST <= model.stat().st_size <= HASH_LIMIT:
        return None
    digest = hashlib.sha256(sums.read_bytes())
    digest.update(json.dumps([openvino.__version__, *sorted(config.items())]).encode())
    try:
        return cache_folder() / "compiled" / f"{digest.hexdigest()[:16]}.blob"
    except RuntimeError:  # the user has no home folder
        return None


def _read(core: Any, place: Path, config: Mapping[str, Any]) -> tuple[Any, NDArray[np.uint8]] | None:  # noqa: ANN401
    from openvino import Tensor  # noqa: PLC0415 - optional

    try:
        content = np.memmap(place, np.uint8, "c")  # OpenVINO wants memory that could be written
        if zlib.crc32(content[:-_SUM].data) != int.from_bytes(content[-_SUM:].tobytes(), "little"):
            return None
        return core.import_model(Tensor(content[:-_SUM], shared_memory=True), "CPU", config), content
    except (OSError, ValueError, RuntimeError):
        return None


def _keep(made: Any, place: Path) -> None:  # noqa: ANN401 - openvino.CompiledModel
    """Write a file under another name first: no process reads half a file, or one that changes."""
    unfinished = place.with_suffix(f".{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            content = made.export_model().getbuffer()
            file.write(content)
            file.write(zlib.crc32(content).to_bytes(_SUM, "little"))
        unfinished.replace(place)
        for old in sorted(place.parent.iterdir(), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
            old.unlink()
    except (OSError, RuntimeError):
        with suppress(OSError):  # on a full disk, half a file
            unfinished.unlink(missing_ok=True)
