"""How every vector store is asked: the queries of ``VectorStore``, with the checks that are common to all stores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from m3_vdb.boosts import Boosts, read_boosts
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import ConfigError
from m3_vdb.filter_parser import parse_filter
from m3_vdb.filters import Expression, has_text
from m3_vdb.stores.checks import check_condition
from m3_vdb.stores.options import (
    DEFAULT_CANDIDATES,
    DEFAULT_SOURCE,
    DEFAULT_WEIGHTS,
    Fusion,
    IndexType,
    Search,
    Source,
)
from m3_vdb.stores.process import ProcessBound
from m3_vdb.stores.vectors import check_query
from m3_vdb.types import Filter, Hit, M3Embedding
from m3_vdb.weights import Weights, WeightsLike


class Searchable(ProcessBound):
    """A collection that can be searched; a store defines ``_search``."""

    @property
    @abstractmethod
    def identity(self) -> ModelIdentity:
        """The model whose vectors the collection holds."""

    @property
    def field_types(self) -> Mapping[str, IndexType]:
        """Payload fields that were declared with an index → what they hold; documents may hold nothing else there."""
        return {}

    @property
    def has_bm25(self) -> bool:
        """Whether the collection keeps exact words (``CollectionOptions.bm25``), so that they may have a weight."""
        return False

    @property
    def has_full_text(self) -> bool:
        """Whether filters may ask for words of the text (``$text``): the collection has an index of them."""
        return False

    def query(
        self,
        query: M3Embedding,
        *,
        weights: WeightsLike = DEFAULT_WEIGHTS,
        limit: int = 10,
        offset: int = 0,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = DEFAULT_SOURCE,
        fusion: Fusion = "weighted_sum",
        ef: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        boosts: Boosts = (),
        explain: bool = False,
    ) -> list[Hit]:
        """The best documents by exact M3 score among the candidates, best first.

        Args:
            query: all three parts of the query; of a collection with exact words, ``bm25_query(text)`` as its ``bm25``.
            weights: weights, a preset's name, or three or four numbers (``Weights.parse``).
            limit: hits to return, of which fewer come where fewer documents match; see ``Search``, like all that follow
                but the last.
            offset: hits to skip before them.
            candidates: documents taken from a list and scored, whatever the page; beyond them pages are empty.
            source: the list or lists that they are taken from; "union" is both, "dense" alone is faster.
            fusion: how scores become one.
            ef: effort of an approximate dense search.
            score_threshold: drop hits with a lower score.
            filter: payload conditions that must hold.
            boosts: fields of the payload that add to the score, as ``Boost`` or text such as "modified:0.2:30d".
            explain: also fill ``Hit.parts``.

        Raises:
            ConfigError: an argument is out of range, the query lacks a part or does not fit the collection, or
                ``limit`` is above ``candidates`` and more documents match.
        """
        search = Search(
            weights=Weights.parse(weights),
            limit=limit,
            offset=offset,
            candidates=candidates,
            source=source,
            fusion=fusion,
            ef=ef,
            score_threshold=score_threshold,
            filter=self._condition(filter),
            boosts=read_boosts(boosts),
            explain=explain,
        )
        return self._checked_search([query], search)[0]

    def query_many(
        self,
        queries: Iterable[M3Embedding],
        *,
        weights: WeightsLike = DEFAULT_WEIGHTS,
        limit: int = 10,
        offset: int = 0,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = DEFAULT_SOURCE,
        fusion: Fusion = "weighted_sum",
        ef: int | None = None,
        score_threshold: float | None = None,
        filter: Filter | None = None,
        boosts: Boosts = (),
        explain: bool = False,
    ) -> list[list[Hit]]:
        """``query`` for many queries, in one batched request where the engine has one.

        The arguments after ``queries`` are those of ``query``, the same for all; ``queries`` are n embeddings
        (``M3Embeddings``, or a list), all three parts of each.

        Returns:
            n lists, in the order of ``queries``; each is what ``query`` returns.

        Raises:
            ConfigError: as ``query``.
        """
        search = Search(
            weights=Weights.parse(weights),
            limit=limit,
            offset=offset,
            candidates=candidates,
            source=source,
            fusion=fusion,
            ef=ef,
            score_threshold=score_threshold,
            filter=self._condition(filter),
            boosts=read_boosts(boosts),
            explain=explain,
        )
        return self._checked_search(list(queries), search)

    def rank(
        self,
        query: M3Embedding,
        *,
        weights: WeightsLike = DEFAULT_WEIGHTS,
        limit: int = 10,
        candidates: int = DEFAULT_CANDIDATES,
        source: Source = DEFAULT_SOURCE,
        filter: Filter | None = None,
        boosts: Boosts = (),
    ) -> list[tuple[str, float]]:
        """``query`` without the documents: (id, fused score), best first; for long rankings and texts kept elsewhere.

        Raises:
            ConfigError: as ``query``.
        """
        search = Search(
            weights=Weights.parse(weights),
            limit=limit,
            candidates=candidates,
            source=source,
            filter=self._condition(filter),
            boosts=read_boosts(boosts),
            ids_only=True,
        )
        (hits,) = self._checked_search([query], search)
        return [(hit.document.id, hit.score) for hit in hits]

    def _condition(self, filter: Filter | None) -> Expression | None:
        condition = check_condition(parse_filter(filter), self.field_types)
        if has_text(condition) and not self.has_full_text:
            raise ConfigError(
                f"filter '$text': the {self._where} has no index of words: a collection of Qdrant "
                f"gets one by m3-vdb create --store URL --full-text (full_text=True); one of Milvus has none"
            )
        return condition

    def _checked_search(self, queries: list[M3Embedding], search: Search) -> list[list[Hit]]:
        self._check_process()
        for query in queries:
            check_query(query, self.identity)
        queries = self._with_words(queries, search)
        found = self._search(queries, search) if queries else []
        for query, hits in zip(queries, found, strict=True):
            self._check_candidates(query, search, len(hits))
        return found

    def _with_words(self, queries: list[M3Embedding], search: Search) -> list[M3Embedding]:
        """The queries with their exact words where these are scored, without elsewhere.

        Raises:
            ConfigError: they have a weight, and the collection or a query does not have them.
        """
        if search.weights.bm25 and not self.has_bm25:
            raise ConfigError(
                f"weights give bm25 {search.weights.bm25:g}, and the {self._where} has no exact words: make it with "
                f"CollectionOptions(bm25=True), which also adds them to a collection of Qdrant"
            )
        if search.weights.bm25 and any(query.bm25 is None for query in queries):
            raise ConfigError(
                f"weights give bm25 {search.weights.bm25:g}, and the query has no exact words: "
                f"dataclasses.replace(query, bm25=m3_vdb.bm25_query(text)), or search through HybridIndex"
            )
        if self.has_bm25 and (search.weights.bm25 or search.explain):
            return queries
        return [query if query.bm25 is None else replace(query, bm25=None) for query in queries]

    def _check_candidates(self, query: M3Embedding, search: Search, found: int) -> None:
        """Check that a limit above ``candidates`` got fewer hits only because there are no more documents.

        Raises:
            ConfigError: there are; the message says which ``candidates`` to pass.
        """
        if search.limit <= search.candidates or found >= search.limit:
            return
        known, is_sparse = max(found, search.candidates), search.source == "sparse"
        one_more = Search(
            weights=Weights(0, 1, 0) if is_sparse else Weights(1, 0, 0),
            limit=known + 1,
            candidates=known + 1,
            source="sparse" if is_sparse else "dense",
            filter=search.filter,
            ids_only=True,
        )
        if len(self._search([query], one_more)[0]) > known:
            raise ConfigError(
                f"limit={search.limit} hits of candidates={search.candidates}, and more documents match: pass "
                f"candidates={search.limit}, or a smaller limit"
            )

    @abstractmethod
    def _search(self, queries: Sequence[M3Embedding], search: Search) -> list[list[Hit]]:
        """The hits of n ≥ 1 checked queries."""
