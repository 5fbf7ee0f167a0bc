"""JSON lines and other files line by line: corpora, test collections and training rows, plain or packed.

``read_lines`` and ``read_objects`` read a file and end at its first fault, in an error that names file and line.
A corpus whose bad rows are set aside one by one (``m3_vdb.ingest``) reads its own lines with ``read_json_object``.
Lines are numbered from 0 where they are an ``index``, and from 1 in messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.streams import DamagedError, damage, open_stream


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 0, line) of every line that is not blank; gzip, Zstandard and UTF-16 are known by their bytes.

    Raises:
        ConfigError: the file cannot be read, or is damaged.
        MissingExtraError: Zstandard without its package.
    """
    index = -1
    try:
        with open_stream(path) as file:
            for index, line in enumerate(file):
                if line.strip():
                    yield index, line
    except DamagedError as error:
        raise ConfigError(f"{path} {error}") from error
    except damage() as error:
        if isinstance(error, OSError) and error.strerror:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        raise ConfigError(f"{path}, after line {index + 1}: damaged ({error}): download or pack it again") from error


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 0, JSON object) of every line that is not blank.

    Raises:
        ConfigError: the file cannot be read.
        DocumentError: a line is not a JSON object.
    """
    return ((index, parse_object(line, path, index)) for index, line in read_lines(path))


def parse_object(line: bytes | str, path: Path, index: int) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        DocumentError: it is not one; file and line are in the message, ``index`` is the line from 0.
    """
    try:
        return read_json_object(line)
    except UnicodeDecodeError as error:
        raise line_error(path, index, f"not JSON in UTF-8 (not UTF-8 at byte {error.start})") from None
    except (ValueError, TypeError) as error:
        raise line_error(path, index, str(error)) from None


def line_error(path: Path, index: int, message: str) -> DocumentError:
    """The error about a line (from 0) of a file."""
    return DocumentError(f"{path}, line {index + 1}: {message}", index=index)


def read_json_object(line: bytes | str) -> dict[str, Any]:
    """One line of a JSON-lines file.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
        ValueError: it is not JSON.
        TypeError: it is JSON, and not an object.
    """
    text = line if isinstance(line, str) else line.decode()  # json.loads(bytes) guesses UTF-16 and passes surrogates
    try:
        fields: Any = json.loads(text)
    except RecursionError:
        raise ValueError("not JSON in UTF-8 (nested too deeply)") from None
    except ValueError as error:  # also numbers of thousands of digits
        about = getattr(error, "msg", error)  # without JSONDecodeError's own line number, which is always 1
        raise ValueError(f"not JSON in UTF-8 ({about})") from None
    if not isinstance(fields, dict):
        raise TypeError(f"expected a JSON object, got {type(fields).__name__}")
    return fields
