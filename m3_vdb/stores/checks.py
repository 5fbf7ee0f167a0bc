"""What is checked before a store sees a document or a filter; of a batch that fails here nothing is written.

The engines differ in what they take and in what they find again, so the rules are kept here, once; those for vectors
are in ``vectors.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.filters import And, AnyOf, DateRange, Exists, Expression, Not, Or, Range, Text, field_values, read_date
from m3_vdb.inputs import DocumentLike, plain_value, read_documents, surrogate
from m3_vdb.marks import id_fault
from m3_vdb.stores.options import IndexType
from m3_vdb.types import Document, Payload

MAX_PAYLOAD_DEPTH: Final = 64
"""Nesting of a payload. Qdrant reads JSON with serde_json, which stops at 128; Edge writes more and cannot read it."""
_INT_RANGE: Final = range(-(2**63), 2**63)
"""Integers that a Qdrant payload keeps exactly; beyond, they silently become floats."""


def check_documents(documents: Iterable[DocumentLike]) -> list[Document]:
    """Documents as a store may keep them: checked, with a payload that is a copy of plain JSON values.

    ``VectorStore.upsert`` calls it; call it yourself (``m3_vdb.stores.check_documents``) to know before you encode.

    Args:
        documents: n documents, or mappings with their fields; not changed.

    Returns:
        n documents, in the same order.

    Raises:
        DocumentError: an item is not a document, an id is empty or ends like a passage's (¶ and a number), a string
            cannot be written as UTF-8, or a payload is not JSON.
        ConfigError: ``documents`` is one document, or nothing that holds documents.
    """
    return [_check_document(i, document) for i, document in enumerate(read_documents(documents))]


def _check_document(i: int, document: Document) -> Document:
    for name in ("id", "title", "text"):
        value: object = getattr(document, name)
        if not isinstance(value, str):
            raise DocumentError(f"document {i}: {name} must be a str, got {_not_text(name, value)}", index=i)
        if surrogate(value) is not None:
            raise DocumentError(
                f"document {i}: {name} has lone surrogates, which UTF-8 cannot hold: {value!r}", index=i
            )
    if not document.id:
        raise DocumentError(f"document {i}: the id is empty; give every document its own non-empty string", index=i)
    reserved = id_fault(document)
    if reserved:
        raise DocumentError(f"document {i}: {reserved}", index=i)
    try:
        payload = _plain_payload(document.payload)
    except ValueError as error:
        raise DocumentError(f"document {i} ({document.id!r}): payload {error}", index=i) from None
    return replace(document, payload=payload)


def _not_text(name: str, value: object) -> str:
    """A value that is not text, with the mistake that is probably behind it."""
    got = "None" if value is None else f"{type(value).__name__} {value!r}"
    if name == "title" and isinstance(value, Mapping):
        return f"{got}: pass payload={value!r}"
    if name == "id" and value is not None:
        return f"{got}: pass str({value!r})"
    return got


def check_types(documents: Sequence[Document], types: Mapping[str, IndexType]) -> None:
    """Check that indexed fields hold what their index finds: a filter would never find anything else.

    Args:
        documents: checked by ``check_documents``.
        types: payload field → what it holds; null and a missing field are always allowed.

    Raises:
        DocumentError: a field holds something else; the message names it, the value and the type.
    """
    for i, document in enumerate(documents):
        for name, kind in types.items():
            values = field_values(document.payload, name)
            elements = [element for value in values for element in (value if isinstance(value, list) else [value])]
            wrong = next((v for v in elements if v is not None and not _is_of(v, kind)), None)
            if wrong is not None:
                raise DocumentError(
                    f"document {i} ({document.id!r}): payload field {name!r} holds {json.dumps(wrong)}, and this "
                    f"collection indexes it as {kind}, so no filter would find it: store {_TYPES[kind][1]}",
                    index=i,
                )


def check_condition(condition: Expression | None, types: Mapping[str, IndexType]) -> Expression | None:
    """A filter whose values are of the types that were declared for their fields.

    Args:
        condition: a filter that was read.
        types: payload field → what it holds.

    Returns:
        The same filter; whole numbers for a field of floats as floats, which is how they are stored.

    Raises:
        ConfigError: a value is of another type, so no document could meet it.
    """
    if isinstance(condition, (And, Or)):
        parts = (check_condition(part, types) for part in condition.parts)
        return replace(condition, parts=tuple(part for part in parts if part is not None))
    if isinstance(condition, Not):
        inner = check_condition(condition.part, types)
        return inner and Not(inner)
    if condition is None or isinstance(condition, (Exists, Text)) or condition.key not in types:
        return condition
    kind = types[condition.key]
    is_number = kind in ("integer", "float")
    for value in _compared(condition):
        if not _is_of(value, "float" if is_number else kind):
            raise ConfigError(
                f"filter {condition.key!r}: this collection indexes the field as {kind}, and no document can hold "
                f"{json.dumps(value)} there: write {_meant(value, kind)}"
            )
    if kind == "float" and isinstance(condition, AnyOf):
        return replace(condition, integers=(), floats=(*condition.floats, *map(float, condition.integers)))
    return condition


def _compared(condition: AnyOf | Range | DateRange) -> list[Any]:
    """The values that a condition compares with, dates as text."""
    if isinstance(condition, AnyOf):
        return [*condition.strings, *condition.integers, *condition.floats, *condition.booleans]
    bounds = [bound for bound in (condition.gt, condition.gte, condition.lt, condition.lte) if bound is not None]
    return [bound.isoformat() if isinstance(bound, datetime) else bound for bound in bounds]


def _meant(value: object, kind: IndexType) -> str:
    """What to write instead of a value of another type."""
    if kind == "keyword":
        return json.dumps(json.dumps(value))
    with suppress(TypeError, ValueError):
        read = json.loads(str(value).lower())
        if _is_of(read, kind):
            return json.dumps(read)
    return _TYPES[kind][1]


_TYPES: Final[dict[IndexType, tuple[tuple[type, ...], str]]] = {
    "keyword": ((str,), "a text"),
    "integer": ((int,), "an integer"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "datetime": ((str,), 'a date such as "2024-01-31T18:30:00+01:00"'),
}
"""Index → the JSON values that it finds, and how messages call them."""


def _is_of(value: object, kind: IndexType) -> bool:
    if kind == "datetime":
        return read_date(value) is not None
    return isinstance(value, _TYPES[kind][0]) and (kind == "bool" or not isinstance(value, bool))


def _plain_payload(payload: Payload) -> dict[str, Any]:
    """A payload as a JSON object that every store keeps as it is.

    Raises:
        ValueError: it is not one; the message says why.
    """
    # The type says Mapping, but a user's dict often comes from somewhere untyped.
    given: object = payload
    if not isinstance(given, Mapping):
        raise ValueError(f"must be a mapping of field names to JSON values, got {type(given).__name__}")
    if not given:
        return {}
    return dict(json.loads(json.dumps(_plain_object(given, depth=1))))  # of subclasses the plain values


def _plain_object(fields: Mapping[Any, Any], *, depth: int) -> dict[str, Any]:
    wrong = next((key for key in fields if not isinstance(key, str)), None)
    if wrong is not None:
        raise ValueError(f"has the field name {wrong!r}; names must be str")
    return {_plain(key, depth=depth): _plain(value, depth=depth + 1) for key, value in fields.items()}


def _plain(given: object, *, depth: int) -> Any:  # noqa: ANN401 - a JSON value
    if depth > MAX_PAYLOAD_DEPTH:
        raise ValueError(f"is nested more than {MAX_PAYLOAD_DEPTH} deep (or contains itself); flatten it")
    value = plain_value(given)
    if isinstance(value, Mapping):
        return _plain_object(value, depth=depth)
    if isinstance(value, (list, tuple)):
        return [_plain(one, depth=depth + 1) for one in value]
    if isinstance(value, str) and surrogate(value) is not None:
        raise ValueError(f"holds text that UTF-8 cannot hold: {value!r}")
    if isinstance(value, int) and int(value) not in _INT_RANGE:
        raise ValueError(f"holds {value}, beyond 64-bit integers; store it as text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"holds {value}, which JSON cannot; leave the field out or use null")
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(f"holds a {type(value).__name__}, which is not JSON; convert it to plain Python values")
