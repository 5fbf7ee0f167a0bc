"""Embeddings, documents and hits: plain values with views and conversions.

Embeddings of n texts are *packed*: the parts of different lengths are concatenated in one array, and ``offsets`` say
where each text begins, so n texts need a handful of arrays, not n objects. Shapes: n texts, d dense width, m
multi-vector width (``colbert_dim``), nnz sparse entries of all texts, rows multi-vector rows of all texts.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int32]
OffsetArray: TypeAlias = NDArray[np.int64]
Scalar: TypeAlias = str | int | float | bool
Payload: TypeAlias = Mapping[str, Any]
Filter: TypeAlias = Mapping[str, Any]
"""Payload conditions that must all hold, as plain JSON values: ``{"lang": "de", "year": {"$gte": 2000}}``
(``m3_vdb.filters`` has the whole language)."""


class _Values:
    """Equality by value for dataclasses with arrays; not hashable, like arrays."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(
            _equal(getattr(self, one.name), getattr(other, one.name))
            for one in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
            if one.compare
        )

    __hash__ = None  # type: ignore[assignment]


def _equal(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return left is not None and right is not None and np.array_equal(left, right)  # type: ignore[arg-type]
    return left == right


def _shape(array: FloatArray | None) -> str:
    return "None" if array is None else " × ".join(map(str, array.shape))


def _entries(
    offsets: OffsetArray | None, part: slice | NDArray[np.intp]
) -> tuple[slice | NDArray[np.int64], OffsetArray | None]:
    """Positions of the entries of some texts in a packed array, and the new offsets."""
    if offsets is None:
        return slice(0, 0), None
    if isinstance(part, slice):
        start, stop = offsets[part.start], offsets[part.stop]
        return slice(int(start), int(stop)), offsets[part.start : part.stop + 1] - start
    counts = np.diff(offsets)[part]
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return np.repeat(offsets[part] - ends[:-1], counts) + np.arange(ends[-1]), ends


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SparseVector(_Values):
    """Lexical weights of one text.

    Attributes:
        ids: int32 [k], token ids, unique and ascending, no special ids.
        weights: float32 [k], all > 0.
    """

    ids: IntArray
    weights: FloatArray

    def __repr__(self) -> str:
        return f"SparseVector({len(self.ids)} tokens)"

    def as_dict(self) -> dict[int, float]:
        """``{token id: weight}`` with plain Python numbers, as a Milvus sparse field takes it."""
        return dict(zip(self.ids.tolist(), self.weights.tolist(), strict=True))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class M3Embedding(_Values):
    """The three representations of one text; parts that were not requested are None.

    Attributes:
        dense: float32 [d], length 1.
        sparse: lexical weights.
        multi_vector: float32 [tokens - 1, m], every row of length 1; ``<s>`` dropped, ``</s>`` kept.
        bm25: exact words of the text (``m3_vdb.bm25``), which are no model's; None unless asked for.
    """

    dense: FloatArray | None
    sparse: SparseVector | None
    multi_vector: FloatArray | None
    bm25: SparseVector | None = None

    def __repr__(self) -> str:
        sparse = None if self.sparse is None else f"{len(self.sparse.ids)} tokens"
        return f"M3Embedding(dense: {_shape(self.dense)}, sparse: {sparse}, multi_vector: {_shape(self.multi_vector)})"

    def to_qdrant(self) -> dict[str, Any]:
        """Named vectors as plain Python values, the ``vector`` field of a Qdrant REST point; None parts have no key."""
        vectors: dict[str, Any] = {}
        if self.dense is not None:
            vectors["dense"] = self.dense.tolist()
        if self.sparse is not None:
            vectors["sparse"] = {"indices": self.sparse.ids.tolist(), "values": self.sparse.weights.tolist()}
        if self.multi_vector is not None:
            vectors["multi_vector"] = self.multi_vector.tolist()
        if self.bm25 is not None:
            vectors["bm25"] = {"indices": self.bm25.ids.tolist(), "values": self.bm25.weights.tolist()}
        return vectors


@dataclass(frozen=True, slots=True)
class EncodeStats:
    """The cost of encoding, in counts that do not depend on the machine.

    Attributes:
        forwards: forward passes of the encoder.
        real_tokens: tokens of the texts, with every ``<s>`` and ``</s>``.
        padded_tokens: tokens computed, with padding.
    """

    forwards: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0

    @property
    def padding_ratio(self) -> float:
        """``padded_tokens / real_tokens``; 1.0 means no padding."""
        return self.padded_tokens / self.real_tokens if self.real_tokens else 1.0


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class M3Embeddings(_Values):
    """The representations of n texts, packed. Parts that were not requested are None.

    Attributes:
        token_counts: int32 [n], tokens encoded per text, with ``<s>`` and ``</s>`` but without the ``<s>`` that MCLS
            inserts.
        truncated: bool [n], True where a text was cut to the maximum length.
        dense: float32 [n, d], rows of length 1.
        sparse_ids: int32 [nnz].
        sparse_weights: float32 [nnz].
        sparse_offsets: int64 [n + 1].
        multi_vector: float32 [rows, m], rows of length 1.
        multi_vector_offsets: int64 [n + 1].
        stats: cost of encoding; ignored by ``==``.
    """

    token_counts: IntArray
    truncated: NDArray[np.bool_]
    dense: FloatArray | None = None
    sparse_ids: IntArray | None = None
    sparse_weights: FloatArray | None = None
    sparse_offsets: OffsetArray | None = None
    multi_vector: FloatArray | None = None
    multi_vector_offsets: OffsetArray | None = None
    stats: EncodeStats = field(default=EncodeStats(), compare=False)

    def __len__(self) -> int:
        return len(self.token_counts)

    def __iter__(self) -> Iterator[M3Embedding]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        sparse = None if self.sparse_ids is None else f"{len(self.sparse_ids)} weights"
        return (
            f"M3Embeddings({len(self)} texts, {self.truncated.sum()} of them truncated; dense: {_shape(self.dense)}, "
            f"sparse: {sparse}, multi_vector: {_shape(self.multi_vector)})"
        )

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> M3Embedding: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> M3Embeddings: ...

    def __getitem__(
        self, index: int | np.integer[Any] | slice | Sequence[int] | NDArray[Any]
    ) -> M3Embedding | M3Embeddings:
        """The embedding of one text, or of several.

        Args:
            index: an integer returns an ``M3Embedding``. A slice, a list of integers, or a bool array [n] returns
                ``M3Embeddings`` with empty ``stats``, by NumPy's rules. Single texts and slices of step 1 are views
                into the packed arrays.

        Raises:
            IndexError: an integer is not in [-n, n), or the bool array does not have length n.
            TypeError: ``index`` has another type.
        """
        if isinstance(index, slice | list | tuple | range) or (isinstance(index, np.ndarray) and index.ndim):
            return self._some(index)
        try:
            i = range(len(self))[operator.index(index)]  # type: ignore[arg-type]  # anything else is the TypeError
        except TypeError:
            raise TypeError(
                f"embeddings[{index!r}]: expected the number of a text, a slice, several numbers or a bool array; the "
                f"arrays of all texts are attributes (embeddings.dense), their names in other libraries keys of "
                f"to_pymilvus_model() and to_flag_embedding()"
            ) from None
        dense = None if self.dense is None else self.dense[i]
        return M3Embedding(dense, self._sparse(i), self._multi_vector(i))

    def _some(self, index: slice | Sequence[int] | NDArray[Any]) -> M3Embeddings:
        numbers = index if isinstance(index, slice) or len(index) else slice(0)  # [] has no dtype of its own
        rows = np.arange(len(self))[numbers if isinstance(numbers, slice) else np.asarray(numbers)]
        one_run = isinstance(numbers, slice) and numbers.indices(len(self))[2] == 1
        part = slice(int(rows[0]), int(rows[-1]) + 1) if one_run and len(rows) else rows
        sparse, sparse_offsets = _entries(self.sparse_offsets, part)
        vectors, vector_offsets = _entries(self.multi_vector_offsets, part)
        return M3Embeddings(
            token_counts=self.token_counts[part],
            truncated=self.truncated[part],
            dense=None if self.dense is None else self.dense[part],
            sparse_ids=None if self.sparse_ids is None else self.sparse_ids[sparse],
            sparse_weights=None if self.sparse_weights is None else self.sparse_weights[sparse],
            sparse_offsets=sparse_offsets,
            multi_vector=None if self.multi_vector is None else self.multi_vector[vectors],
            multi_vector_offsets=vector_offsets,
        )

    def _sparse(self, i: int) -> SparseVector | None:
        if self.sparse_ids is None or self.sparse_weights is None or self.sparse_offsets is None:
            return None
        part = slice(self.sparse_offsets[i], self.sparse_offsets[i + 1])
        return SparseVector(self.sparse_ids[part], self.sparse_weights[part])

    def _multi_vector(self, i: int) -> FloatArray | None:
        if self.multi_vector is None or self.multi_vector_offsets is None:
            return None
        return self.multi_vector[self.multi_vector_offsets[i] : self.multi_vector_offsets[i + 1]]

    def sparse_dicts(self) -> list[dict[int, float]]:
        """Lexical weights for Milvus, one ``{token id: weight}`` per text; [] if sparse was not requested."""
        return [e.sparse.as_dict() for e in self if e.sparse is not None]

    def sparse_csr(self) -> tuple[FloatArray, IntArray, OffsetArray]:
        """The n × vocabulary matrix, for ``scipy.sparse.csr_array``.

        Returns:
            (data float32 [nnz], indices int32 [nnz], indptr int64 [n + 1]).

        Raises:
            ValueError: the sparse part was not requested.
        """
        if self.sparse_ids is None or self.sparse_weights is None or self.sparse_offsets is None:
            raise ValueError("no sparse part: encode with sparse=True")
        return self.sparse_weights, self.sparse_ids, self.sparse_offsets

    def to_qdrant(self) -> list[dict[str, Any]]:
        """``M3Embedding.to_qdrant`` of each text."""
        return [embedding.to_qdrant() for embedding in self]

    def to_pymilvus_model(self) -> dict[str, list[Any]]:
        """The dict of ``pymilvus.model.hybrid.BGEM3EmbeddingFunction``: "dense", "sparse", "colbert_vecs".

        Returns:
            One list per key, JSON-serialisable; parts that were not requested have no key.
        """
        named = {
            "dense": None if self.dense is None else self.dense.tolist(),
            "sparse": None if self.sparse_ids is None else self.sparse_dicts(),
            "colbert_vecs": self._multi_vector_lists(),
        }
        return {key: value for key, value in named.items() if value is not None}

    def to_flag_embedding(self) -> dict[str, list[Any] | None]:
        """The dict of FlagEmbedding's ``BGEM3FlagModel.encode``: "dense_vecs", "lexical_weights", "colbert_vecs".

        Returns:
            One list per key, JSON-serialisable; None for parts that were not requested.
        """
        lexical = [{str(k): w for k, w in weights.items()} for weights in self.sparse_dicts()]
        return {
            "dense_vecs": None if self.dense is None else self.dense.tolist(),
            "lexical_weights": None if self.sparse_ids is None else lexical,
            "colbert_vecs": self._multi_vector_lists(),
        }

    def _multi_vector_lists(self) -> list[Any] | None:
        if self.multi_vector is None:
            return None
        return [e.multi_vector.tolist() for e in self if e.multi_vector is not None]


@dataclass(frozen=True, slots=True)
class Document:
    """A document to store, or one that was stored.

    Attributes:
        id: your id, unique in a collection, stored unchanged.
        text: the text to encode; returned with each hit.
        title: encoded before the text (title, line break, text, as in the paper's evaluation).
        payload: further JSON fields, usable in filters. All names are yours; m3-vdb adds no fields.
        passage: set by m3-vdb when it reads a store: which passage of a long document this is; None for a whole
            document. Ignored by ``==``.
        encoding: set by m3-vdb: options with which the text was encoded, such as ``max_length=128``; "" for the
            model's defaults. Ignored by ``==``.
        source: set by m3-vdb: the corpus that ``sync`` keeps this document in step with; "" for none. Ignored by
            ``==``.
    """

    id: str
    text: str
    title: str = ""
    payload: Payload = field(default_factory=dict, hash=False)
    passage: Passage | None = field(default=None, kw_only=True, compare=False)
    encoding: str = field(default="", kw_only=True, compare=False)
    source: str = field(default="", kw_only=True, compare=False)

    @property
    def content(self) -> str:
        """The text to encode: title, line break, text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Scores:
    """The raw scores of a query and a document (``m3_vdb.scoring`` defines them).

    Attributes:
        dense: inner product of the dense vectors, in [-1, 1].
        sparse: lexical score, ≥ 0.
        multi_vector: multi-vector score, in [-1, 1].
        bm25: score of the exact words, in [0, 1); None for a collection without this part.
        boost: what boosts add, their weights included (``m3_vdb.boosts``); None for a query without boosts.
    """

    dense: float
    sparse: float
    multi_vector: float
    bm25: float | None = None
    boost: float | None = None

    def as_dict(self) -> dict[str, float]:
        """Name → score; without ``bm25`` and ``boost`` where there is none."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


@dataclass(frozen=True, slots=True)
class Passage:
    """The position of a passage in a long document that was split.

    Attributes:
        document: the document's id.
        number: number of the passage, from 1.
        count: passages of the document.
        start: start in the document's text, in characters.
        stop: end in the document's text, in characters (exclusive).
    """

    document: str
    number: int
    count: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a query.

    Attributes:
        document: the stored document.
        score: the fused M3 score, computed by the store.
        parts: its raw scores; None unless the query had ``explain=True``.
        passage: the best passage of a document that was split, whose text is ``document.text``; None for a whole
            document.
    """

    document: Document
    score: float
    parts: Scores | None = None
    passage: Passage | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it stands in a text.

    Attributes:
        piece: the vocabulary's piece: "▁" marks the start of a word; "</s>" is the end of the text.
        text: the characters as written; "" for "</s>" and for a "▁" alone.
        start: first character in the text.
        stop: end in the text (exclusive).
    """

    piece: str
    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class LexicalMatch:
    """A token that query and document share: one term of the lexical score.

    Attributes:
        piece: the vocabulary's piece.
        query: where it stands in the query, one or more places.
        document: where it stands in the document.
        query_weight: its weight in the query, the largest of all places.
        document_weight: its weight in the document.
        product: ``query_weight * document_weight``.
    """

    piece: str
    query: tuple[Token, ...]
    document: tuple[Token, ...]
    query_weight: float
    document_weight: float
    product: float


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """A token of the query and the most similar one of the document: one term of the multi-vector score.

    Attributes:
        query: the query's token.
        document: the document's token.
        similarity: inner product of their vectors, in [-1, 1].
    """

    query: Token
    document: Token
    similarity: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """The score of a hit, token by token (``HybridIndex.explain``); ``dataclasses.asdict`` makes it JSON.

    Attributes:
        query: the query; positions of its tokens are in this text.
        document: the text that was encoded (title, line break, text, of a passage if the document was split).
        parts: the raw scores of the vectors as they were made now, at full precision; ``bm25`` as in ``Hit.parts``.
        lexical: the terms whose sum is ``parts.sparse``, the largest first.
        alignment: the terms whose mean is ``parts.multi_vector``, in the order of the query; ``</s>`` comes last.
        notes: why ``Hit.parts`` may differ from ``parts``, in words; ``storage`` is not among them.
    """

    query: str
    document: str
    parts: Scores
    lexical: tuple[LexicalMatch, ...]
    alignment: tuple[TokenMatch, ...]
    notes: tuple[str, ...] = ()
