"""Corpus files → documents. A row that is no document becomes a ``Rejected`` with its line and reason, never a stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from m3_vdb.types import Document

ID_FIELDS: Final = ("id", "_id")
"""``_id`` is BEIR's name for it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that was not stored.

    Attributes:
        where: file and line, or the document's id.
        reason: what is wrong and what was expected.
    """

    where: str
    reason: str


def read_jsonl(path: Path) -> Iterator[Document | Rejected]:
    """Read one JSON object a line: ``id`` (or BEIR's ``_id``), ``text``, optional ``title``, any further payload.

    Args:
        path: a UTF-8 file; lines that are not UTF-8 are rejected like other bad lines.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _document(line, where=f"{path}, line {number}")


def _document(line: bytes, *, where: str) -> Document | Rejected:
    try:
        return _parse(line)
    except UnicodeDecodeError as error:
        return Rejected(where, f"not UTF-8 at byte {error.start}")
    except (json.JSONDecodeError, RecursionError) as error:
        return Rejected(where, f"not JSON: {error}")
    except ValueError as error:
        return Rejected(where, str(error))


def _parse(line: bytes) -> Document:
    fields: Any = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError(f"expected a JSON object, got {type(fields).__name__}")
    id_field = next((name for name in ID_FIELDS if name in fields), None)
    if id_field is None:
        raise ValueError("no id: expected a field 'id' or '_id'")
    document_id, text, title = fields.pop(id_field), fields.pop("text", None), fields.pop("title", None) or ""
    if isinstance(document_id, int) and not isinstance(document_id, bool):
        document_id = str(document_id)
    if not isinstance(document_id, str) or not document_id:
        raise ValueError(f"{id_field!r} must be a non-empty string or a whole number, got {document_id!r}")
    if not isinstance(text, str) or not isinstance(title, str):
        raise ValueError("'text' (and 'title', if given) must be strings")
    if not (text.strip() or title.strip()):
        raise ValueError("nothing to encode: 'text' is empty")
    return Document(document_id, text, title, fields)
