"""What a document is, as one hash: equal hashes mean that nothing has to be encoded again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final

from m3_vdb.ingest.rows import Rejected, Row
from m3_vdb.types import Document

ENCODING_FIELD: Final = "m3_encoding"
"""Field of a payload that says how a document was encoded, where that is not as the model does it by itself."""


def marked(document: Document, encoding: str) -> Document:
    """The document as it is stored: with its encoding, or without one that another run left in its payload."""
    try:
        present = document.payload.get(ENCODING_FIELD)
    except AttributeError:  # no mapping: the store says so
        return document
    if present == (encoding or None):
        return document
    payload = {name: value for name, value in document.payload.items() if name != ENCODING_FIELD}
    return replace(document, payload=payload | ({ENCODING_FIELD: encoding} if encoding else {}))


def content_hash(document: Document) -> bytes:
    """16 bytes of title, text and payload. Floats count with 15 digits, which is what every store keeps."""
    try:
        payload = json.dumps(_canonical(document.payload), sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):  # not JSON: no store takes it, and the store says so
        payload = f"\0{type(document.payload).__name__}"
    return _hash(document.title, document.text, payload)


def row_hash(item: Document | Row | Rejected) -> bytes:
    """16 bytes of a row of a corpus, whatever became of it."""
    if isinstance(item, Rejected):
        return _hash(item.kind, item.row or "", "rejected")
    document = item.document if isinstance(item, Row) else item
    return _hash(document.id, content_hash(document).hex(), "document")


def chained(digest: bytes, item: bytes) -> bytes:
    """The digest of a row of hashes, one by one, so that it can be written down anywhere and taken up again."""
    return blake2b(digest + item, digest_size=16).digest()


def _hash(*parts: object) -> bytes:
    texts = [part.encode("utf-8", "surrogatepass") if isinstance(part, str) else repr(part).encode() for part in parts]
    lengths = ",".join(str(len(text)) for text in texts).encode()
    return blake2b(b"\0".join([lengths, *texts]), digest_size=16).digest()


def _canonical(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(value, float):
        return f"\0{value:.15g}"
    if isinstance(value, Mapping):
        return {key: _canonical(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(one) for one in value]
    return value
