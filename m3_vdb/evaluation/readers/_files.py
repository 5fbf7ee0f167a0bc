"""Files line by line, plain or gzip, with errors that name file and line: for collections and training rows alike."""

from __future__ import annotations

import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from m3_vdb.errors import ConfigError, DocumentError, TextError
from m3_vdb.inputs import read_texts


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 0, line) of every line that is not blank, of a file that is gzip if it is called ``.gz``.

    A byte order mark at the beginning is left out. A file is read as a stream.

    Raises:
        ConfigError: the file cannot be read, or its gzip is damaged.
    """
    index = -1
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for index, line in enumerate(file):
                text = line.removeprefix(BOM_UTF8) if index == 0 else line
                if text.strip():
                    yield index, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}, after line {index + 1}: damaged gzip ({error})") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def read_text(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 0, line without its end) of every line that is not blank.

    Raises:
        ConfigError: the file cannot be read.
        DocumentError: a line is not UTF-8.
    """
    for index, line in read_lines(path):
        try:
            yield index, line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DocumentError(f"{path}, line {index + 1}: not UTF-8 at byte {error.start}", index=index) from None


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 0, JSON object) of every line that is not blank.

    Raises:
        ConfigError: the file cannot be read.
        DocumentError: a line is no JSON object.
    """
    for index, line in read_lines(path):
        yield index, parse_object(line, path, index)


def parse_object(line: bytes | str, path: Path, index: int) -> dict[str, Any]:
    """One line as a JSON object.

    Raises:
        DocumentError: it is none; file and line are in the message, ``index`` is the line from 0.
    """
    where = f"{path}, line {index + 1}"
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8, and numbers of thousands of digits
        about = getattr(error, "msg", error)  # without JSONDecodeError's own line number, which is always 1
        raise DocumentError(f"{where}: not JSON in UTF-8 ({about})", index=index) from None
    if not isinstance(fields, dict):
        raise DocumentError(f"{where}: expected a JSON object, got {type(fields).__name__}", index=index)
    return fields


def strings(fields: Mapping[str, Any], key: str, where: str, index: int) -> tuple[str, ...]:
    """A field that is a list of strings, () if it is missing or null; ``DocumentError`` otherwise."""
    texts = fields.get(key)
    if texts is None:
        return ()
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DocumentError(f"{where}: {key!r} must be a list of strings", index=index)
    return tuple(texts)


def check_strings(texts: list[str], where: str, index: int) -> None:
    """Refuse lone surrogates where file and line are still known; ``DocumentError`` names them."""
    try:
        read_texts(texts)
    except TextError as error:
        raise DocumentError(f"{where}: {error}", index=index) from None


def identifier(value: object) -> str:
    """An id as a string: numbers become their digits; "" for what is no id."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def has_file(folder: Path, name: str) -> bool:
    """Whether ``folder/name`` exists, or the same with ``.gz``."""
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def find_file(folder: Path, name: str, *, expected: str) -> Path:
    """``folder/name``, or the same with ``.gz`` if only that exists.

    Args:
        folder: where it should be.
        name: of the file, without ``.gz``.
        expected: what the message says about it.

    Raises:
        ConfigError: neither exists; the message names the neighbours, which are often another split.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    there = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    found = f"it holds {', '.join(there[:8])}{', …' * (len(there) > 8)}" if there else "there is nothing"
    raise ConfigError(f"{folder} has no {name} or {name}.gz ({found}): expected {expected}")
