"""Notes that m3-vdb keeps with a stored document: which passage of a document it is, how it was encoded, its source.

A ``Document`` has them in ``passage``, ``encoding`` and ``source``. Stores and exported files keep them as one JSON
object (``to_json``) beside the payload, so they cannot clash with the user's fields, and filters do not see them.
Version 0.1.0 kept them in the payload, as ``m3_passage`` and ``m3_encoding``. Those fields are still read, but only
where their values have the form that 0.1.0 wrote; otherwise they are the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from m3_vdb.types import Document, Passage, Payload

MARKS_FIELD: Final = "m3"
"""Where a store keeps the object."""
PASSAGE_FIELD: Final = "m3_passage"
ENCODING_FIELD: Final = "m3_encoding"
_RESERVED: Final = re.compile(r"¶[0-9]+\Z")
_OLD_PASSAGE_KEYS: Final = ("document", "number", "of", "start", "stop")
"""Fields of a passage as 0.1.0 wrote them."""
_OLD_ENCODING: Final = re.compile(r"((^|,)(max_length|pool_factor|truncate|pool)=[0-9.e+]+)+")


def passage_id(document_id: str, number: int) -> str:
    """The id under which a passage is stored, numbered from 1."""
    return document_id if number == 1 else f"{document_id}¶{number}"


def document_id(stored_id: str) -> str:
    """The id of the document that a stored passage belongs to, in a collection that only m3-vdb has written."""
    return _RESERVED.sub("", stored_id)


def id_fault(document: Document) -> str | None:
    """Why a document may not have its id, None if it may; ids that end in ¶ and a number are reserved for passages."""
    passage: object = document.passage
    if passage is None:
        if not _RESERVED.search(document.id):
            return None
        return (
            f"the id {document.id!r} ends like that of a passage (¶ and a number), which m3-vdb keeps for the parts of "
            f"long documents: use another id"
        )
    if isinstance(passage, Passage) and _is_passage_of(passage, document.id):
        return None
    return f"passage={passage!r} does not belong to the id {document.id!r}; m3-vdb sets it itself: leave it out"


def to_json(document: Document) -> dict[str, Any]:
    """The marks of a document as a store keeps them, {} for none; the document's id follows from the passage's id."""
    passage = document.passage
    marks: dict[str, Any] = {}
    if passage is not None:
        marks["passage"] = [passage.number, passage.count, passage.start, passage.stop]
    if document.encoding:
        marks["encoding"] = document.encoding
    if document.source:
        marks["source"] = document.source
    return marks


def read_document(id: str, *, text: str, title: str, payload: Payload, marks: object) -> Document:
    """A stored document.

    Args:
        id: as stored.
        text: as stored.
        title: as stored.
        payload: as stored.
        marks: the object that ``to_json`` made; None in rows written by version 0.1.0.
    """
    passage, encoding, source = None, "", ""
    if isinstance(marks, Mapping):
        encoding, source = marks.get("encoding", ""), marks.get("source", "")
        if "passage" in marks:
            number, count, start, stop = marks["passage"]
            passage = Passage(_without_number(id, number), number, count, start, stop)
    else:
        payload, passage, encoding = _read_old(id, text, payload)
    if passage is None and _RESERVED.search(id):
        # Stored before such ids were refused. Marked as the only passage, so that it can be copied.
        passage = Passage(id, 1, 1, 0, len(text))
    return Document(id, text, title, payload, passage=passage, encoding=encoding, source=source)


def _read_old(id: str, text: str, payload: Payload) -> tuple[Payload, Passage | None, str]:
    """(The user's payload, passage, encoding) of a row written by 0.1.0."""
    passage, encoding = _old_passage(payload.get(PASSAGE_FIELD), id, text), payload.get(ENCODING_FIELD)
    if not isinstance(encoding, str) or not _OLD_ENCODING.fullmatch(encoding):
        encoding = ""
    ours = {PASSAGE_FIELD} if passage is not None else set()
    ours |= {ENCODING_FIELD} if encoding else set()
    return {name: value for name, value in payload.items() if name not in ours}, passage, encoding


def _old_passage(fields: object, id: str, text: str) -> Passage | None:
    if not isinstance(fields, Mapping) or fields.keys() != set(_OLD_PASSAGE_KEYS):
        return None
    document, *numbers = (fields[key] for key in _OLD_PASSAGE_KEYS)
    if not isinstance(document, str) or not all(type(number) is int for number in numbers):
        return None
    passage = Passage(document, *numbers)
    return passage if _is_passage_of(passage, id) and passage.stop - passage.start == len(text) else None


def _is_passage_of(passage: Passage, id: str) -> bool:
    return 1 <= passage.number <= passage.count and passage_id(passage.document, passage.number) == id


def _without_number(id: str, number: int) -> str:
    return id if number == 1 else id.removesuffix(f"¶{number}")
