"""Text in, hits out: an embedding function and a store put together. Everything else is theirs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from types import TracebackType

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.long_documents import REFUSE, LongDocuments
from m3_vdb.inputs import DocumentLike, read_documents, read_ids, read_query, whole_number
from m3_vdb.passages import group_hits, stored_ids, whole_documents
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.options import DEFAULT_CANDIDATES, DEFAULT_WEIGHTS, Fusion, Source
from m3_vdb.types import Document, Filter, Hit
from m3_vdb.weights import WeightsLike
from m3_vdb.writer import AddReport, BatchWriter, check_parts, placed


class HybridIndex:
    """A searchable collection of texts.

    Args:
        embed: makes the vectors; stays open when the index is closed.
        store: keeps them; the index closes it.
        long_documents: what ``add`` does with documents of more tokens than the store takes rows. Reading needs no
            plan: documents that were split are found, counted among ``limit`` and returned as one.

    Raises:
        CollectionMismatchError: the store holds vectors of another model.
        ConfigError: an argument is something else, or documents are to be split and the embedding function has no
            tokenizer.
    """

    def __init__(self, embed: Embedder, store: VectorStore, *, long_documents: LongDocuments = REFUSE) -> None:
        check_parts(embed, store)
        self._embed = embed
        self._store = store
        self._writer = BatchWriter(embed, store, long_documents)

    def add(self, documents: Iterable[DocumentLike], *, batch_size: int = 64) -> AddReport:
        """Encode documents and store them; a known id is replaced, and of equal ids the last document wins.

        Batches are stored as they are done: if one fails, nothing of it is stored, and those before it stay. (Of a long
        document that is split into more passages than ``batch_size``, the passages before the failure stay.)

        Args:
            documents: any number, also a generator; read ``batch_size`` at a time. A dict with id, text and, if there
                are any, title and payload is a document too; without a payload, its other fields are the payload.
            batch_size: documents encoded and stored together.

        Returns:
            How many documents were stored, as how many passages, and how many were too long.

        Raises:
            InputError: a text cannot be encoded or a document not stored; ``index`` is its place in ``documents``.
            ModelOutputError: the model returned NaN or infinity for a text; ``index`` is its place in ``documents``.
            ConfigError: ``documents`` is one document or nothing that holds documents, or ``batch_size`` is below 1.
        """
        batch_size = whole_number("batch_size", batch_size, least=1)
        remaining = read_documents(documents)
        report = AddReport()
        while batch := list(islice(remaining, batch_size)):
            with placed(range(report.documents, report.documents + len(batch))):
                report += self._writer.add(batch, batch_size=batch_size)
        return report

    def query(
        self,
        text: str,
        *,
        weights: WeightsLike = DEFAULT_WEIGHTS,
        limit: int = 10,
        offset: int = 0,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = "dense",
        fusion: Fusion = "weighted_sum",
        ef: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """The best documents for a text, best first; the arguments are those of ``VectorStore.query``.

        A document that was split has the score of its best passage among the candidates, which are passages then;
        ``Hit.passage`` says which one it is, and ``Hit.document`` has its text.

        Raises:
            TextError: ``text`` is not one string.
            ConfigError: as ``VectorStore.query``.
        """
        limit, offset = whole_number("limit", limit, least=1), whole_number("offset", offset, least=0)
        candidates = whole_number("candidates", candidates, least=1)
        query = self._embed.encode_queries([read_query(text)])[0]

        def search(start: int, count: int) -> list[Hit]:
            return self._store.query(
                query,
                weights=weights,
                limit=count,
                offset=start,
                candidates=candidates,
                source=source,
                fusion=fusion,
                ef=ef,
                score_threshold=score_threshold,
                filter=filter,
                explain=explain,
            )

        return group_hits(search, offset + limit, most=max(limit, candidates))[offset:]

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents with these ids that exist, whole, in the order of ``ids``.

        Raises:
            ConfigError: ``ids`` is one string, or nothing that holds ids.
            DocumentError: an id is not a string.
        """
        return whole_documents(self._store, read_ids(ids))

    def delete(self, ids: Iterable[str]) -> None:
        """Remove documents with all their passages; unknown ids are ignored.

        Raises:
            ConfigError: ``ids`` is one string, or nothing that holds ids; nothing was deleted.
            DocumentError: an id is not a string; nothing was deleted.
        """
        self._store.delete(stored_ids(self._store, read_ids(ids)))

    def count(self) -> int:
        """What the collection holds: documents, and of those that were split the passages."""
        return self._store.count()

    def close(self) -> None:
        """Close the store; a second call does nothing."""
        self._store.close()

    def __enter__(self) -> HybridIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
