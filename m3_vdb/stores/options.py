"""How a new collection is made: one value for all stores. A store refuses what it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from datetime import datetime, timezone
from typing import Any, Final, Literal, TypeAlias, get_args

from m3_vdb.boosts import Boost
from m3_vdb.errors import ConfigError
from m3_vdb.filter_parser import check_field
from m3_vdb.filters import Expression
from m3_vdb.inputs import real_number, whole_number
from m3_vdb.weights import Weights

Storage: TypeAlias = Literal["float32", "half", "quarter"]
"""How multi-vectors are kept, by size; docs/stores.md has what "half" and "quarter" do to scores."""
STORAGES: Final[tuple[Storage, ...]] = get_args(Storage)
IndexType: TypeAlias = Literal["keyword", "integer", "float", "bool", "datetime"]
"""What an indexed payload field holds; "datetime" is text that is a date (``m3_vdb.filters``)."""
INDEX_TYPES: Final[tuple[IndexType, ...]] = get_args(IndexType)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionOptions:
    """Options of a new collection; those of an existing one stay as they are, but missing indexes are made.

    Attributes:
        storage: how multi-vectors are kept, which are the bulk of the data.
        indexes: payload field → what it holds. Filters on an indexed field are faster, and where an approximate index
            serves dense search it knows these filters. They are made before the first document comes.
        tenant: keyword field that separates tenants, such as a customer; documents of one tenant are kept together.
        shard_number: parts that a server spreads the collection over; None takes the server's own.
        replication_factor: copies that a cluster keeps; None takes the server's own.
        on_disk: True reads all vectors from disk, through the page cache; False keeps all in memory; None is the
            store's own way: a server keeps multi-vectors on disk and the rest in memory.
        bm25: also keep the exact words of documents, which a fourth weight scores (``Weights.bm25``). A Qdrant
            collection that exists gets what is missing of them.
        full_text: index the words of texts, for the filter ``$text``. A Qdrant collection that exists gets the index.

    Raises:
        ConfigError: a value is out of range, or a field cannot be indexed.
    """

    storage: Storage = "float32"
    indexes: Mapping[str, IndexType] = field(default_factory=dict)
    tenant: str | None = None
    shard_number: int | None = None
    replication_factor: int | None = None
    on_disk: bool | None = None
    bm25: bool = False
    full_text: bool = False

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise ConfigError(f"storage={self.storage!r}: expected one of {', '.join(STORAGES)}")
        if not isinstance(self.indexes, Mapping):
            raise ConfigError(f"indexes={self.indexes!r}: expected field → type, such as {{'year': 'integer'}}")
        for name, kind in self.payload_indexes.items():
            check_field(name, what="index")
            if kind not in INDEX_TYPES:
                raise ConfigError(f"index {name!r}: {kind!r} is not a type; expected one of {', '.join(INDEX_TYPES)}")
        if self.tenant is not None and self.indexes.get(self.tenant, "keyword") != "keyword":
            raise ConfigError(f"tenant {self.tenant!r}: it is a keyword field, not {self.indexes[self.tenant]!r}")
        for name in ("shard_number", "replication_factor"):
            number = getattr(self, name)
            if number is not None:
                whole_number(name, number, least=1, expected="expected at least 1, or None for the server's own")

    @property
    def payload_indexes(self) -> dict[str, IndexType]:
        """All indexes, the tenant's included."""
        tenant: dict[str, IndexType] = {} if self.tenant is None else {self.tenant: "keyword"}
        return {**tenant, **self.indexes}

    def require_only(self, *names: str, where: str) -> None:
        """Check that no other options than these are set.

        Args:
            names: options that the store has.
            where: the kind of store, for the message.

        Raises:
            ConfigError: another one is set.
        """
        default = CollectionOptions()
        for option in dataclass_fields(self):
            value = getattr(self, option.name)
            if option.name not in names and value != getattr(default, option.name):
                has = f"it has {', '.join(names)}" if names else "it has no options"
                raise ConfigError(f"{where} does not support the option {option.name} (given: {value!r}); {has}")


DEFAULT_OPTIONS: Final = CollectionOptions()


@dataclass(frozen=True, slots=True)
class Facts:
    """What an engine says about a collection.

    Attributes:
        later_passages: rows that are the second or a further passage of a document; of collections of version 0.1.0,
            which noted passages elsewhere, 0.
        index: state of its indexes, in words.
        options: how it was made, by the names of ``CollectionOptions``.
        engine: "name", "version", and what it can do.
        bytes: part → bytes on disk; None if the engine cannot say.
        last_run: what ``note_run`` has noted; {} for nothing.
    """

    later_passages: int
    index: str
    options: Mapping[str, Any]
    engine: Mapping[str, Any]
    bytes: Mapping[str, int] | None = None
    last_run: Mapping[str, Any] = field(default_factory=dict)


DEFAULT_CANDIDATES: Final = 200
"""Candidates of a list that are re-scored exactly; the paper re-ranks the dense top 200."""
DEFAULT_WEIGHTS: Final = Weights()
Source: TypeAlias = Literal["dense", "sparse", "union"]
"""Where candidates come from. "dense": the nearest by s_dense. "sparse": the best by s_lex, among documents that share
a token with the query. "union": both lists, so up to twice as many; and where exact words have a weight, a quarter
as many by s_bm25, too."""
DEFAULT_SOURCE: Final[Source] = "union"
"""What only one list finds is found; "dense" is faster and loses some exact matches (docs/stores.md)."""
SOURCES: Final[tuple[Source, ...]] = get_args(Source)
Fusion: TypeAlias = Literal["weighted_sum", "rrf", "dbsf"]
"""How scores become one; see ``Search``."""
FUSIONS: Final[tuple[Fusion, ...]] = get_args(Fusion)
RRF_K: Final = 60
"""Rank constant of reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009)."""
DENSE: Final = "dense"
SPARSE: Final = "sparse"
MULTI_VECTOR: Final = "multi_vector"
BM25: Final = "bm25"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How to search: which candidates, how they are scored, which hits come back.

    Attributes:
        weights: weights of the three scores.
        limit: hits to return, ≥ 1.
        offset: hits to skip before them, ≥ 0.
        candidates: documents taken from a list and scored; pages beyond them are short or empty.
        source: the list or lists that candidates are taken from.
        fusion: "weighted_sum" is the M3 score of every candidate. "rrf" adds 1/(60 + rank) over the lists of the scores
            that have a weight, whatever its size; "dbsf" adds scores normalised by their mean and deviation. These two
            are not M3 scores. Of equal scores the smaller id has the better rank.
        ef: effort of an approximate dense search (HNSW's ef); None takes the engine's own.
        score_threshold: drop hits with a fused score below it.
        filter: payload conditions, read (``m3_vdb.filters``).
        boosts: what fields of the payload add to the score, read (``m3_vdb.boosts``).
        now: the moment from which boosts measure dates.
        explain: also fill ``Hit.parts``.
        ids_only: documents of hits may lack all but their ids.

    Raises:
        ConfigError: source or fusion are unknown, a number is out of range or of another type, or ranks are to be
            boosted.
    """

    weights: Weights = DEFAULT_WEIGHTS
    limit: int = 10
    offset: int = 0
    candidates: int = DEFAULT_CANDIDATES
    source: Source = DEFAULT_SOURCE
    fusion: Fusion = "weighted_sum"
    ef: int | None = None
    score_threshold: float | None = None
    filter: Expression | None = None
    boosts: tuple[Boost, ...] = ()
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    explain: bool = False
    ids_only: bool = False

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ConfigError(f"source={self.source!r}: expected one of {', '.join(SOURCES)}")
        if self.fusion not in FUSIONS:
            raise ConfigError(f"fusion={self.fusion!r}: expected one of {', '.join(FUSIONS)}")
        if self.boosts and self.fusion != "weighted_sum":
            raise ConfigError(f"boosts are added to scores, and fusion={self.fusion!r} has ranks: use weighted_sum")
        read: dict[str, object] = {
            "limit": whole_number("limit", self.limit, least=1),
            "offset": whole_number("offset", self.offset, least=0, expected="expected 0 or more hits to skip"),
            "candidates": whole_number("candidates", self.candidates, least=1),
        }
        if self.ef is not None:
            read["ef"] = whole_number("ef", self.ef, least=1, expected="expected 1 or more, or None")
        if self.score_threshold is not None:
            read["score_threshold"] = real_number("score_threshold", self.score_threshold)
        for name, value in read.items():
            object.__setattr__(self, name, value)
