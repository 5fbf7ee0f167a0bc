"""What a document is, as one hash: equal hashes mean that nothing has to be encoded again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from m3_vdb.ingest.rows import Rejected, Row
from m3_vdb.marks import ENCODING_FIELD, PASSAGE_FIELD
from m3_vdb.types import Document


def content_hash(document: Document) -> bytes:
    """16 bytes of title, text, payload and marks. Floats count with 15 digits, which is what every store keeps."""
    # Hashed as version 0.1.0 kept them, as fields of the payload, so that its checkpoints are known again.
    marks: dict[str, object] = {}
    if document.passage is not None:
        marks[PASSAGE_FIELD] = asdict(document.passage)
    if document.encoding:
        marks[ENCODING_FIELD] = document.encoding
    try:
        fields = _canonical(document.payload)
        payload = [_json({**fields, **marks})]
        theirs = {name: fields[name] for name in (PASSAGE_FIELD, ENCODING_FIELD) if name in fields}
        if theirs:  # fields of the user's that are called so
            payload.append(_json(theirs))
    except (TypeError, ValueError, RecursionError):  # not JSON: no store takes it, and the store says so
        payload = [f"\0{type(document.payload).__name__}"]
    return _hash(document.title, document.text, *payload)


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


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _canonical(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(value, float):
        return f"\0{value:.15g}"
    if isinstance(value, Mapping):
        return {key: _canonical(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(one) for one in value]
    return value
