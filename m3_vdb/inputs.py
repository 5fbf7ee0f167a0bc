"""What comes in: texts, ids, documents, numbers and paths, read here for the Python API, stores and the command line.

- **Many** texts, ids, documents or paths are any iterable: list, tuple, set, generator, open file, column of a table, …
  It is taken once, in its own order, so n texts give n embeddings. One string where many are expected would be read
  letter by letter; it is refused, like a mapping or a whole table, of which nobody could say what the items are.
- **One item** that is unusable raises an ``InputError`` whose ``index`` names it.
- **Numbers** are whole ones of any kind (``numpy.int64`` too), or real ones; never text, and never True.
- **Paths** are strings or ``os.PathLike``.

Weights, a preset's name or three numbers are read by ``Weights.parse``, filters by ``filter_parser.parse_filter``.
"""

from __future__ import annotations

import datetime
import math
import numbers
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from m3_vdb.errors import ConfigError, DocumentError, TextError
from m3_vdb.types import Document

DocumentLike: TypeAlias = Document | Mapping[str, Any]
"""A document, or a dict with its fields (``read_document``)."""
_SHOWN: Final = 60
"""Characters of a value that a message repeats."""
_MARKS: Final = frozenset(field.name for field in fields(Document)) - {"id", "text", "title", "payload"}
"""Fields that m3-vdb sets when it reads a store."""
_DOCUMENT: Final = "Document, or a dict with id and text (title and payload may be missing)"


def read_texts(texts: Iterable[str]) -> list[str]:
    """Texts as a list, in the order in which they come.

    Raises:
        TextError: ``texts`` is one string, or nothing that holds texts; or an item is not a string, or holds a lone
            surrogate, which no tokenizer and no store can read.
    """
    return [read_text(text, index) for index, text in enumerate(many_texts(texts))]


def many_texts(texts: Iterable[str]) -> Iterator[Any]:
    """The items of what should hold texts, whatever they are.

    Raises:
        TextError: ``texts`` is one string, or nothing that holds texts.
    """
    try:
        return _many(texts, "texts", one="text", column="a column such as df['text']")
    except ConfigError as error:
        raise TextError(str(error), index=0) from None


def read_text(text: str, index: int = 0) -> str:
    """One text.

    Args:
        text: a string.
        index: its position among others.

    Raises:
        TextError: it is not a string, or holds a lone surrogate.
    """
    if not isinstance(text, str):
        raise TextError(f"item {index} is {type(text).__name__}, expected str{_hint(text)}", index=index)
    at = surrogate(text)
    if at is not None:
        raise TextError(
            f"item {index} holds a lone surrogate at character {at}, which is not valid Unicode: decode the source "
            f"with the right encoding, or clean it with text.encode('utf-8', 'replace').decode()",
            index=index,
        )
    return str.__str__(text)  # of a subclass such as numpy.str_ the plain string


def read_query(text: str) -> str:
    """The one text of a query.

    Raises:
        TextError: it is anything else, such as a list of texts.
    """
    if not isinstance(text, str):
        raise TextError(f"query: expected one text (a str), got {_shown(text)}: query once per text", index=0)
    return read_text(text)


def read_ids(ids: Iterable[str]) -> list[str]:
    """Ids of documents as a list, in the order in which they come.

    Raises:
        ConfigError: ``ids`` is one string, or nothing that holds ids.
        DocumentError: an id is not a string.
    """
    items = _many(ids, "ids", column="a column such as df['id']")
    return [_id(item, index) for index, item in enumerate(items)]


def _id(item: object, index: int) -> str:
    if not isinstance(item, str):
        raise DocumentError(f"item {index}: an id must be a str, got {_shown(item)}{_as_str(item)}", index=index)
    if surrogate(item) is not None:
        raise DocumentError(f"item {index}: the id {item!r} has lone surrogates, which UTF-8 cannot hold", index=index)
    return str.__str__(item)


def read_documents(documents: Iterable[DocumentLike]) -> Iterator[Document]:
    """Documents one by one, in the order in which they come.

    Args:
        documents: documents, or mappings as ``read_document`` takes them.

    Raises:
        ConfigError: at once; ``documents`` is one document, or nothing that holds documents.
        DocumentError: while reading; an item is not a document.
    """
    items = many_documents(documents)
    return (read_document(item, index) for index, item in enumerate(items))


def many_documents(documents: Iterable[Any]) -> Iterator[Any]:
    """The items of what should hold documents, whatever they are.

    Raises:
        ConfigError: ``documents`` is one document, or nothing that holds documents.
    """
    return _many(documents, "documents", one="document", column="df.to_dict('records')")


def read_document(item: DocumentLike, index: int = 0) -> Document:
    """A document. Its id, texts and payload are checked where it is stored (``check_documents``).

    Args:
        item: a document, or a mapping with id, text and title (which may be missing or null, and so may the text where
            there is a title). ``payload`` is the document's; without one, all other fields are its payload.
        index: its position among others.

    Raises:
        DocumentError: it is neither.
    """
    if isinstance(item, Document):
        return item
    if not isinstance(item, Mapping):
        raise DocumentError(f"document {index}: expected a {_DOCUMENT}, got {_shown(item)}", index=index)
    rest = dict(item)
    name, text, title, payload = (rest.pop(field, None) for field in ("id", "text", "title", "payload"))
    if payload is not None:  # a document's own form, asdict(document), has marks too
        rest = {field: value for field, value in rest.items() if field not in _MARKS or value}
    if name is None or (text is None and not title):
        given = f"got one with {', '.join(map(repr, item)) or 'nothing in it'}"
        raise DocumentError(f"document {index}: expected a {_DOCUMENT}, {given}", index=index)
    if payload is not None and rest:
        raise DocumentError(
            f"document {index}: besides its payload it has {', '.join(map(repr, rest))}: put them into the payload",
            index=index,
        )
    return Document(
        id=name,
        text="" if text is None else text,
        title="" if title is None else title,
        payload=rest if payload is None else payload,
    )


def plain_value(value: object) -> object:
    """A single value of a payload or filter as JSON has it, where that is beyond doubt; anything else as it is.

    Numpy's integers, booleans and double floats are Python's; dates and times are ISO 8601 text. Not so the narrower
    floats: ``numpy.float32(0.1)`` is 0.10000000149011612, which is hardly what was meant.
    """
    if isinstance(value, (np.integer, np.bool_, np.float64, np.str_)):
        return value.item()
    if isinstance(value, (datetime.date, datetime.time)) and value == value:  # noqa: PLR0124 - pandas' NaT is no date
        return value.isoformat()
    return value


def whole_number(name: str, value: object, *, least: int, most: int | None = None, expected: str | None = None) -> int:
    """A whole number of any integer type.

    Args:
        name: the argument, for the message.
        value: what was given.
        least: the smallest that is allowed.
        most: the largest that is allowed.
        expected: what is allowed in words, where bounds do not say it all.

    Raises:
        ConfigError: it is out of range, or not a whole number.
    """
    try:
        number = None if isinstance(value, (bool, np.bool_)) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        raise ConfigError(f"{name}={_value(value)}: {expected or f'expected a whole number, at least {least}'}")
    return number


def real_number(name: str, value: object) -> float:
    """A finite number of any real type.

    Raises:
        ConfigError: it is not finite or not a number; the message names the argument.
    """
    number = as_real(value)
    if not math.isfinite(number):
        raise ConfigError(f"{name}={_value(value)}: expected a finite number")
    return number


def as_real(value: object) -> float:
    """A number of any real type as Python's; NaN for anything else, text and True included."""
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan


def read_path(name: str, path: str | os.PathLike[str]) -> Path:
    """A path, ``~`` at its beginning expanded.

    Args:
        name: the argument, for the message.
        path: a string or path.

    Raises:
        ConfigError: it is neither.
    """
    return Path(_path_text(name, path))


def _path_text(name: str, path: object) -> str:
    text: object = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{name}={_value(path)}: expected a path, as str or os.PathLike")
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


def read_paths(name: str, paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Paths as text, in the order in which they come.

    Raises:
        ConfigError: ``paths`` is one path, or nothing that holds paths; or an item is not a path.
    """
    return [_path_text(name, path) for path in _many(paths, name)]


def read_names(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Names of fields, in the order in which they come.

    Raises:
        ConfigError: ``names`` is one name, or nothing that holds names; or an item is not a string.
    """
    read = tuple(_many(names, name))
    if not all(isinstance(one, str) for one in read):
        raise ConfigError(f"{name}={_value(names)}: expected names of fields, such as ('id', 'key')")
    return read


def surrogate(text: str) -> int | None:
    """Where a text holds a lone surrogate, which UTF-8 cannot; None if it has none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def _many(values: object, name: str, *, one: str | None = None, column: str = "one column") -> Iterator[Any]:
    """The items of what should hold many.

    Args:
        values: what was given.
        name: what the items are, for messages.
        one: how one item is written there; None writes it out.
        column: what to pass instead of a table.

    Raises:
        ConfigError: it is one item, a mapping, a table, or cannot be iterated.
    """
    if isinstance(values, (str, bytes, bytearray, os.PathLike, Document)):
        given = "one string" if isinstance(values, str) else _shown(values)
        raise ConfigError(f"{name}: expected a list or another iterable, got {given}: pass [{one or _value(values)}]")
    if isinstance(values, Mapping):
        instead = f"its values() or keys(), or [{one}]" if one else "its values() or keys()"
        raise ConfigError(f"{name}: expected a list, got {_shown(values)}: pass {instead}")
    if hasattr(values, "columns") or hasattr(values, "column_names"):  # of pandas, polars, pyarrow or datasets
        raise ConfigError(f"{name}: expected a list, got a table ({type(values).__name__}): pass {column}")
    try:
        return iter(values)  # type: ignore[call-overload,no-any-return]
    except TypeError:
        raise ConfigError(f"{name}: expected a list or another iterable, got {_shown(values)}") from None


def _shown(value: object) -> str:
    """What was given, with its type: ``int 12``."""
    if value is None:
        return "None"
    return f"{type(value).__name__} {_value(value)}"


def _value(value: object) -> str:
    shown = repr(value.item() if isinstance(value, np.generic) else value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _hint(item: object) -> str:
    """What to do about an item that is no text."""
    if isinstance(item, (bytes, bytearray)):
        return ": decode it"
    if _is_missing(item):
        return ": leave missing texts out, or pass ''"
    return ""


def _as_str(item: object) -> str:
    """What to do about an id that is no string."""
    if _is_missing(item):
        return ": leave missing ids out"
    return ": decode it" if isinstance(item, bytes) else f": pass str({_value(item)})"


def _is_missing(item: object) -> bool:
    """None, or what pandas puts where nothing is: NaN, NaT, NA."""
    return item is None or type(item).__name__ == "NAType" or (isinstance(item, float) and math.isnan(item))
