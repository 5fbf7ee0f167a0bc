"""MTEB: measures the fused M3 score as a vector database computes it.

    mteb.evaluate(M3Search(model="BAAI/bge-m3"), mteb.get_tasks(tasks=["MIRACLRetrievalHardNegatives"]))

``M3Search`` is a search model of MTEB (``mteb.models.SearchProtocol``) for retrieval and reranking of text. It makes
one collection per task, subset and split; documents are encoded once, queries in batches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from m3_vdb.encoding.embedder import Embedder
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.index import HybridIndex
from m3_vdb.passages import DocumentPage
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.options import DEFAULT_CANDIDATES, DEFAULT_OPTIONS, DEFAULT_SOURCE, CollectionOptions, Source
from m3_vdb.types import Document, Filter, Hit, M3Embedding
from m3_vdb.weights import Weights, WeightsLike

try:
    from mteb.models import ModelMeta
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "mteb":
        raise
    raise MissingExtraError("m3_vdb.integrations.mteb", extra="mteb") from error

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

_EVERYTHING: Final[Filter] = {"id": {"$nin": []}}
_QUERIES_TOGETHER: Final = 64


class M3Search:
    """A search model for ``mteb.evaluate``.

    Args:
        store: where collections are made: ``memory://`` scores every candidate exactly; otherwise a URL with ``{task}``
            in it, such as ``build/{task}.qdrant`` or ``qdrant://localhost:6333/{task}``. A collection of an earlier
            run is emptied first.
        model: a model's name, folder or hub id; None for the model that ships with m3-vdb; or an open embedding
            function.
        weights: a preset's name, or three numbers: dense, sparse, multi-vector.
        candidates: documents to score per query and list; at least as many as MTEB asks for are.
        source: where candidates come from: "dense", "sparse" or "union".
        long_documents: what to do with documents longer than the store's multi-vector limit.
        options: how a collection is made; ``storage`` changes scores.
        batch_size: documents encoded and stored together (``encode_kwargs`` have no effect).
        name: the model's name among MTEB's results; None for ``m3-vdb/`` and the model's own.

    Raises:
        ConfigError: ``store`` has no ``{task}``, or another argument is out of range.
    """

    def __init__(
        self,
        store: str = "memory://",
        *,
        model: str | os.PathLike[str] | Embedder | None = None,
        weights: WeightsLike = "default",
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = DEFAULT_SOURCE,
        long_documents: LongDocuments = DEFAULT_POLICY,
        options: CollectionOptions = DEFAULT_OPTIONS,
        batch_size: int = 256,
        name: str | None = None,
    ) -> None:
        if store != "memory://" and "{task}" not in store:
            raise ConfigError(f"store={store!r}: expected memory://, or a URL with {{task}}: build/{{task}}.qdrant")
        self._store = store
        if model is None or isinstance(model, str | os.PathLike):
            self._embed: Embedder = M3EmbeddingFunction(model)
        else:
            self._embed = model
        self._weights = Weights.parse(weights)
        self._candidates = candidates
        self._source: Source = source
        self._long_documents = long_documents
        self._options = options
        self._batch_size = batch_size
        self._name = name or f"m3-vdb/{self._embed.identity.name.rpartition('/')[2]}"
        self._index: HybridIndex | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What MTEB writes beside the results; rows of other weights, sources and storages have their own."""
        weights = self._weights
        identity = self._embed.identity
        meta: ModelMeta = ModelMeta.create_empty(
            {
                "name": self._name,
                "revision": identity.fingerprint,
                "embed_dim": identity.dense_dim,
                "max_tokens": getattr(self._embed, "max_length", None),
                "experiment_kwargs": {
                    "weights": f"{weights.dense:g},{weights.sparse:g},{weights.multi_vector:g}",
                    "source": self._source,
                    "candidates": self._candidates,
                    "storage": self._options.storage,
                    "long_documents": self._long_documents.describe(),
                    "store": self._store.partition(":")[0] if "://" in self._store else "folder",
                },
            }
        )
        return meta

    def index(
        self,
        corpus: Iterable[Mapping[str, Any]],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        **_: object,
    ) -> None:
        """Encode the documents of a task and store them in a collection of its own.

        Args:
            corpus: rows with id, text and, if there is one, title.
            task_metadata: its name names the collection.
            hf_split: the split, also in the collection's name.
            hf_subset: the subset, too.
        """
        self.close()
        task = re.sub(r"\W+", "-", f"{task_metadata.name}-{hf_subset}-{hf_split}")
        index = HybridIndex.open(
            self._store.replace("{task}", task),
            model=self._embed,
            options=self._options,
            long_documents=self._long_documents,
        )
        self._index = index
        index.delete(filter=_EVERYTHING)
        index.add(
            (Document(row["id"], row["text"], row.get("title") or "", {"id": row["id"]}) for row in corpus),
            batch_size=self._batch_size,
        )

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, list[str]] | None = None,
        **_: object,
    ) -> dict[str, dict[str, float]]:
        """Search the collection.

        Args:
            queries: rows with id, text and, if there is one, instruction.
            top_k: documents per query.
            top_ranked: query → the documents to rank, in tasks of reranking.

        Returns:
            Query → document → score.

        Raises:
            ConfigError: ``index`` was not called.
        """
        if self._index is None:
            raise ConfigError("M3Search.search: call index first")
        found: dict[str, dict[str, float]] = {}
        for batch in _batches(queries, _QUERIES_TOGETHER):
            ids, texts = [str(row["id"]) for row in batch], [_query_text(row) for row in batch]
            if top_ranked is None:
                lists = self._index.query_many(
                    texts,
                    weights=self._weights,
                    limit=top_k,
                    candidates=max(self._candidates, top_k),
                    source=self._source,
                )
            else:
                embeddings = self._embed.encode_queries(texts)
                lists = [
                    self._ranked(self._index.store, query, list(top_ranked.get(id, [])), top_k)
                    for id, query in zip(ids, embeddings, strict=True)
                ]
            found.update(
                (id, {hit.document.id: hit.score for hit in hits}) for id, hits in zip(ids, lists, strict=True)
            )
        return found

    def _ranked(self, store: VectorStore, query: M3Embedding, ids: list[str], top_k: int) -> list[Hit]:
        """The documents with these ids, best first; each is a candidate."""
        candidates = max(self._candidates, top_k, len(ids))
        ask = partial(
            store.query, query, weights=self._weights, candidates=candidates, source="dense", filter={"id": ids}
        )
        page = DocumentPage.read(top_k, 0, candidates)
        return page.documents(ask(limit=page.first), ask)

    def close(self) -> None:
        """Close the collection of the last task."""
        if self._index is not None:
            self._index.close()
        self._index = None


def _batches(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    left = iter(rows)
    while batch := list(islice(left, size)):
        yield batch


def _query_text(row: Mapping[str, Any]) -> str:
    """The text of a query: turns of a conversation and an instruction as MTEB joins them for models of text."""
    text = row["text"]
    if not isinstance(text, str):
        turns = (turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}" for turn in text)
        text = "; ".join(turns)
    instruction = cast(str | None, row.get("instruction"))
    return f"{text} {instruction}" if instruction else text
