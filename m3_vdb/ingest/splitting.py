"""Rows of long documents as rows of passages, where that is the plan for long documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from m3_vdb.encoding.splitter import Splitter
from m3_vdb.errors import DocumentError, TextError
from m3_vdb.ingest import rows as kinds
from m3_vdb.ingest.batch import Item
from m3_vdb.ingest.report import IngestReport
from m3_vdb.ingest.rows import Rejected, Row, reject, words
from m3_vdb.types import Document


def split_rows(items: Iterable[Item], splitter: Splitter, report: IngestReport) -> Iterator[Item]:
    """The rows, each long document as its passages; one that cannot be split is a rejection.

    Args:
        items: rows of a corpus.
        splitter: cuts.
        report: split documents are counted here.
    """
    for item in items:
        document = item.document if isinstance(item, Row) else item
        if isinstance(document, Rejected) or not _is_usable(document):
            yield item  # what is wrong with a document is said where all are checked
            continue
        try:
            passages = splitter.split(document)
        except TextError:
            yield item
        except DocumentError as error:
            assert not isinstance(item, Rejected)
            yield reject(item, kinds.NOT_STORABLE, words(error))
        else:
            report.long_documents += len(passages) > 1
            yield from (replace(item, document=one) if isinstance(item, Row) else one for one in passages)


def _is_usable(document: Document) -> bool:
    fields: tuple[object, ...] = (document.id, document.text, document.title)
    payload: object = document.payload
    return all(isinstance(one, str) for one in fields) and isinstance(payload, Mapping)
