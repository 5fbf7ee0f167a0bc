"""Rows that travel together from the corpus to the store; how a corpus is cut into them; rows as hashes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any, Final

from m3_vdb.encoding.splitter import Splitter
from m3_vdb.encoding.tokenizer import TokenBatch
from m3_vdb.errors import DocumentError, StoreRequestError, TextError
from m3_vdb.ingest.report import IngestReport
from m3_vdb.ingest.rows import (
    NOT_STORABLE,
    REFUSED,
    TOO_LARGE,
    WRONG_TYPE,
    Rejected,
    Row,
    message_without_index,
    reject,
)
from m3_vdb.inputs import DocumentLike, many_documents, read_document
from m3_vdb.marks import ENCODING_FIELD, PASSAGE_FIELD
from m3_vdb.types import Document, M3Embeddings
from m3_vdb.writer import Written

Item = Document | Row | Rejected
BATCH_BYTES: Final = 128 * 1024 * 1024
"""Vectors that a batch may grow to, estimated from above by its characters: with long texts a batch has fewer rows."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row on its way: its place in the corpus, as it was read, and as it will be stored."""

    place: int
    source: Document | Row
    document: Document


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch at the store.

    Attributes:
        ids: documents that were acknowledged, in the order of the batch.
        tokens: tokens encoded for the batch.
        padded_tokens: tokens computed for it, padding included.
        truncated: documents among ``ids`` that were longer than the model's maximum.
        shortened: documents among ``ids`` of which fewer rows are stored than they had, by the plan for long ones.
    """

    ids: tuple[str, ...] = ()
    tokens: int = 0
    padded_tokens: int = 0
    truncated: int = 0
    shortened: int = 0


@dataclass(slots=True)
class Batch:
    """Rows that travel together.

    Attributes:
        stop: rows of the corpus up to the end of this batch.
        number: its place among the batches of this run, from 0.
        digest: of all these rows.
        waiting: rows to encode and store.
        rejected: (place, rejection) of the others.
        unchanged: ids that the store holds already.
        outdated: id of a waiting row → passages of its older version that the new one has not.
        tokens: of the waiting rows, where the embedding function works in two steps.
        embeddings: of the waiting rows, once they are encoded.
        stored: what the store said of them, once it has.
    """

    stop: int
    number: int = 0
    digest: str = ""
    waiting: list[Waiting] = field(default_factory=list)
    rejected: list[tuple[int, Rejected]] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    outdated: Mapping[str, list[str]] = field(default_factory=dict)
    tokens: TokenBatch | None = None
    embeddings: M3Embeddings | None = None
    stored: Stored | None = None

    @property
    def documents(self) -> list[Document]:
        """What is stored."""
        return [row.document for row in self.waiting]

    def refuse(self, index: int, error: DocumentError | StoreRequestError) -> None:
        """Reject a row that cannot be stored; it stays among those that were to be."""
        row = self.waiting[index]
        if isinstance(error, DocumentError):
            rejected = reject(row.source, NOT_STORABLE, message_without_index(error))
        else:
            rejected = reject(row.source, TOO_LARGE if error.status == 413 else REFUSED, str(error))
        self.rejected.append((row.place, rejected))

    def set_stored(self, written: Written) -> None:
        """Note what became of the waiting rows, and let go of their vectors."""
        assert self.embeddings is not None
        ids = tuple(row.document.id for row, done in zip(self.waiting, written.stored, strict=True) if done)
        truncated = int(self.embeddings.truncated[written.stored].sum())
        stats = self.embeddings.stats
        self.stored = Stored(
            ids, stats.real_tokens, stats.padded_tokens, truncated, int(written.shortened[written.stored].sum())
        )
        self.embeddings = None  # the batch may have to wait for an earlier one

    def drop_row(self, index: int, kind: str, reason: str) -> None:
        """Reject a waiting row."""
        row = self.waiting.pop(index)
        self.rejected.append((row.place, reject(row.source, kind, reason)))

    @property
    def texts(self) -> list[str]:
        """What is encoded."""
        return [row.document.content for row in self.waiting]


def read_items(items: Iterable[Item | DocumentLike]) -> Iterator[Item]:
    """What is to be ingested: rows, documents, and dicts with their fields; anything else becomes a rejection.

    Raises:
        ConfigError: at once; ``items`` is one document, or nothing that holds documents.
    """
    given = many_documents(items)
    return (one if isinstance(one, (Row, Rejected)) else _read(one, index) for index, one in enumerate(given))


def _read(item: DocumentLike, index: int) -> Document | Rejected:
    try:
        return read_document(item, index)
    except DocumentError as error:
        return Rejected(f"item {index}", message_without_index(error), WRONG_TYPE)


def split_rows(items: Iterable[Item], splitter: Splitter, report: IngestReport) -> Iterator[Item]:
    """The rows, each long document as its passages; one that cannot be split is a rejection.

    Args:
        items: rows of a corpus.
        splitter: cuts.
        report: split documents are counted here.
    """
    for item in items:
        document = item.document if isinstance(item, Row) else item
        if isinstance(item, Rejected) or isinstance(document, Rejected) or not _is_usable(document):
            yield item  # what is wrong with a document is said where all are checked
            continue
        try:
            passages = splitter.split(document)
        except TextError:
            yield item
        except DocumentError as error:
            yield reject(item, NOT_STORABLE, message_without_index(error))
        else:
            report.long_documents += len(passages) > 1
            yield from (replace(item, document=one) if isinstance(item, Row) else one for one in passages)


def _is_usable(document: Document) -> bool:
    fields: tuple[object, ...] = (document.id, document.text, document.title)
    payload: object = document.payload
    return all(isinstance(one, str) for one in fields) and isinstance(payload, Mapping)


def cut_batches(items: Iterable[Item], *, documents: int, cost: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Items in lists of N ``documents``, or fewer that reach ``BATCH_BYTES``; each is yielded as soon as it is full."""
    batch: list[Item] = []
    size = 0
    try:
        for item in items:
            batch.append(item)
            size += cost(item)
            if len(batch) == documents or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except Exception:
        if batch:
            yield batch  # what the source gave before it failed
        raise
    if batch:
        yield batch


def content_hash(document: Document) -> bytes:
    """16 bytes of title, text, payload and marks: equal hashes mean that nothing has to be encoded again.

    Floats count with 15 digits, which is what every store keeps.
    """
    # Hashed as version 0.1.0 kept them, as fields of the payload, so that its checkpoints are known again.
    marks: dict[str, object] = {}
    if document.passage is not None:
        fields_of_passage = asdict(document.passage)
        marks[PASSAGE_FIELD] = {"of": fields_of_passage.pop("count"), **fields_of_passage}
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


def text_hash(document: Document) -> bytes:
    """16 bytes of title, text and encoding: equal hashes mean equal vectors, of the same model."""
    return _hash(document.title, document.text, document.encoding)


def row_hash(item: Item) -> bytes:
    """16 bytes of a row of a corpus, whatever became of it."""
    if isinstance(item, Rejected):
        return _hash(item.kind, item.row or "", "rejected")
    document = item.document if isinstance(item, Row) else item
    return _hash(document.id, content_hash(document).hex(), "document")


def chain_digest(digest: bytes, item: bytes) -> bytes:
    """The digest of rows, one by one, so that it can be written down anywhere and continued."""
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
