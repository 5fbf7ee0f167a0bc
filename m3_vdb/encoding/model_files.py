"""Files of a model on disk, of a bundle or a checkpoint: are they what their names say? Asked before they are read.

What is found instead of a model file is nearly always one of a few things (a Git LFS pointer, a web page, the first
half of a download), and the libraries underneath report each of them in their own words.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import BundleError

AGAIN: Final = "copy or download it again"
"""What helps where a file is not whole."""
_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE: Final = (b"<!doctype", b"<html")


def check_file(path: Path) -> None:
    """Refuse what is not the file itself.

    Raises:
        BundleError: the file is missing, unreadable or empty, a Git LFS pointer, or a web page.
    """
    try:
        with path.open("rb") as file:
            start = file.read(256)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror})") from error
    if not start:
        raise BundleError(f"{path} is damaged or incomplete (empty): {AGAIN}")
    if start.startswith(_POINTER):
        raise BundleError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull, or download it again")
    if start.lstrip().lower().startswith(_WEB_PAGE):
        raise BundleError(f"{path} is a web page, not the file itself: download it again, from a link to the raw file")


def read_text_file(path: Path) -> str:
    """The content of a file of text.

    Raises:
        BundleError: as ``check_file``, or the file is not UTF-8.
    """
    check_file(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read as text ({brief(error)}): {AGAIN}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        BundleError: as ``read_text_file``, or the file is not a JSON object.
    """
    try:
        content = json.loads(read_text_file(path))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise damaged(path, "expected a JSON object")
    return content


def damaged(path: Path, reason: object) -> BundleError:
    """The error for a file that a library could not read; of its reason one short line is kept."""
    return BundleError(f"{path} is damaged ({brief(reason)}): {AGAIN}")


def brief(reason: object) -> str:
    """What a library says, as one line of at most 200 characters."""
    line = " ".join(str(reason).split()) or type(reason).__name__
    return line if len(line) <= 200 else f"{line[:199]}…"
