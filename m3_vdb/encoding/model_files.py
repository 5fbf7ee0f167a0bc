"""Checks files of a bundle or checkpoint before they are read.

The usual faults (a Git LFS pointer, a web page, half a download) get one clear message, whatever the library that would
read the file says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import BundleError

AGAIN: Final = "copy or download it again"
"""Advice for a damaged file."""
_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_WEB_PAGE: Final = (b"<!doctype", b"<html")


def check_file(path: Path) -> None:
    """Check that a file has content of its own.

    Raises:
        BundleError: it is missing, unreadable or empty, a Git LFS pointer, or a web page.
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
    """The content of a text file.

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
    """The error for a file that a library could not read, with its reason in one short line."""
    return BundleError(f"{path} is damaged ({brief(reason)}): {AGAIN}")


def brief(reason: object) -> str:
    """A library's message as one line of at most 200 characters."""
    line = " ".join(str(reason).split()) or type(reason).__name__
    return line if len(line) <= 200 else f"{line[:199]}…"
