"""The schema of a Qdrant collection, for its server and its embedded engine: made here, and checked here.

Vectors are described as in Qdrant's REST API, which is also the form of the embedded engine's ``edge_config.json``.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionMismatchError
from m3_vdb.filters import And, AnyOf, DateRange, Expression, Not, Or, Range, Text, field_steps
from m3_vdb.stores.options import BM25, DENSE, MULTI_VECTOR, SPARSE, CollectionOptions, IndexType, Storage
from m3_vdb.stores.points import TEXT_FIELD, field_name, field_path, field_path_steps

if TYPE_CHECKING:
    from qdrant_client import models

MAX_MULTI_VECTOR_FLOATS: Final = 1024 * 1024
"""A server refuses a multi-vector of this many numbers or more (MAX_MULTIVECTOR_FLATTENED_LEN, Qdrant 1.10 to 1.19)."""
DATATYPES: Final[dict[Storage, str]] = {"half": "turbo16", "quarter": "turbo8"}
"""turbo16 is ten times nearer to float32 than float16, at the same size."""
STORAGE_OF: Final[dict[str, Storage]] = {**{name: storage for storage, name in DATATYPES.items()}, "float16": "half"}
"""The inverse; other datatypes are float32."""
_PRODUCTS: Final = ("Dot", "Cosine")
"""The same for unit vectors."""


@dataclass(frozen=True, slots=True)
class QdrantCapabilities:
    """What an engine and its collection are, and so which form a search takes; read when the collection is opened.

    Attributes:
        version: of the server; "" if it does not say.
        may_be_exact: requests may say ``exact``; False where strict mode has search_allow_exact=false.
        shards: parts of the collection; with several, a search takes two steps.
        max_floats: a multi-vector must hold fewer numbers than this; None for no limit.
        max_limit: strict mode's largest number of candidates; None for no limit.
        max_upsert: strict mode's largest number of points in an upsert; None for no limit.
        max_batch: strict mode's largest number of requests in a batch; None for no limit.
        multi_vector_datatype: how multi-vectors are stored: float32, float16, turbo16, turbo8, …
        indexes: payload field → type of its index.
        bm25: it has the sparse vector of exact words.
        full_text: it has an index of the words of texts.
    """

    version: str = ""
    may_be_exact: bool = True
    shards: int = 1
    max_floats: int | None = MAX_MULTI_VECTOR_FLOATS
    max_limit: int | None = None
    max_upsert: int | None = None
    max_batch: int | None = None
    multi_vector_datatype: str = "float32"
    indexes: Mapping[str, str] = field(default_factory=dict)
    bm25: bool = False
    full_text: bool = False


def read_capabilities(info: models.CollectionInfo, *, version: str, width: int) -> QdrantCapabilities:
    """The capabilities behind a collection that ``check_schema`` has passed.

    Args:
        info: the server's description of it.
        version: of the server.
        width: of a multi-vector row.
    """
    config = info.config.model_dump(mode="json")
    strict = config.get("strict_mode_config") or {}
    if not strict.get("enabled"):
        strict = {}
    rows = ((strict.get("multivector_config") or {}).get(MULTI_VECTOR) or {}).get("max_vectors")
    names = {field_name(path): index.data_type.value for path, index in (info.payload_schema or {}).items()}
    return QdrantCapabilities(
        version=version,
        may_be_exact=strict.get("search_allow_exact") is not False,
        shards=config["params"].get("shard_number") or 1,
        max_floats=MAX_MULTI_VECTOR_FLOATS if rows is None else min(MAX_MULTI_VECTOR_FLOATS, rows * width + 1),
        max_limit=strict.get("max_query_limit"),
        max_upsert=strict.get("upsert_max_batchsize"),
        max_batch=strict.get("search_max_batchsize"),
        multi_vector_datatype=config["params"]["vectors"][MULTI_VECTOR].get("datatype") or "float32",
        indexes={name: kind for name, kind in names.items() if name is not None},
        bm25=BM25 in (config["params"].get("sparse_vectors") or {}),
        full_text=TEXT_FIELD in (info.payload_schema or {}),
    )


def vector_schema(identity: ModelIdentity, datatype: str | None) -> dict[str, dict[str, Any]]:
    """The dense and the multi-vector field of a new collection; ``sparse`` takes no settings (IDF would re-weight).

    Args:
        identity: the model.
        datatype: of multi-vectors; None for float32.
    """
    return {
        # Dot and not Cosine: the vectors are unit already, and what was stored is what is scored.
        DENSE: {"size": identity.dense_dim, "distance": "Dot"},
        # Only ever re-scores candidates, so it needs no HNSW (m=0).
        MULTI_VECTOR: {
            "size": identity.multi_vector_dim,
            "distance": "Dot",
            "multivector_config": {"comparator": "max_sim"},
            "hnsw_config": {"m": 0},
            "datatype": datatype,
        },
    }


def missing_indexes(options: CollectionOptions, present: Iterable[str]) -> dict[str, str]:
    """Path → name of the field, of the requested indexes that are missing.

    A name with a dot has two paths, as in filters: the field of that name, and the field of an object.

    Args:
        options: what is requested.
        present: the paths that have an index.
    """
    known = {field_path_steps(path) for path in present}
    return {
        field_path(*steps): name
        for name in options.payload_indexes
        for steps in field_steps(name)
        if steps not in known
    }


def helpful_indexes(condition: Expression, present: Collection[str]) -> dict[str, IndexType]:
    """Payload field → type of the index that a filter would use if there were one."""
    if isinstance(condition, (And, Or)):
        parts = [helpful_indexes(part, present) for part in condition.parts]
        return {name: kind for part in parts for name, kind in part.items()}
    if isinstance(condition, Not):
        return helpful_indexes(condition.part, present)
    if isinstance(condition, Text) or condition.key in present:
        return {}
    if isinstance(condition, (Range, DateRange)):
        return {condition.key: _kind_of_range(condition)}
    if not isinstance(condition, AnyOf):
        return {}
    kinds: tuple[tuple[object, IndexType], ...] = (
        (condition.strings, "keyword"),
        (condition.booleans, "bool"),
        (condition.floats, "float"),
        (condition.integers, "integer"),
    )
    return {condition.key: next(kind for values, kind in kinds if values)} if any(one for one, _ in kinds) else {}


def _kind_of_range(condition: Range | DateRange) -> IndexType:
    if isinstance(condition, DateRange):
        return "datetime"
    bounds = [bound for bound in (condition.gt, condition.gte, condition.lt, condition.lte) if bound is not None]
    return "integer" if all(float(bound).is_integer() for bound in bounds) else "float"


def index_advice(name: str, kind: IndexType, store: str) -> str:
    """What a user is told about a filter on a field without an index.

    Args:
        name: of the field.
        kind: of the index that would help.
        store: URL of the collection.
    """
    fractions = " (or float, if the field holds fractions)" if kind == "integer" else ""
    return (
        f"a filter on {name!r} has no index, so documents are checked one by one: m3-vdb create --store "
        f"{shlex.quote(store)} --index {shlex.quote(f'{name}={kind}')} adds it to the collection{fractions}"
    )


def check_schema(config: Mapping[str, Any], identity: ModelIdentity, *, where: str) -> None:
    """Refuse a collection that would compute other scores than M3's.

    Args:
        config: ``vectors``, ``sparse_vectors`` and ``quantization_config``, as JSON.
        identity: the model that the collection names.
        where: how messages name the collection.

    Raises:
        CollectionMismatchError: a vector is missing or is compared in another way, the sparse vector is re-weighted by
            IDF, or vectors are quantised or stored as bytes.
    """
    sparse = (config.get("sparse_vectors") or {}).get(SPARSE)
    vectors = config.get("vectors") or {}
    if sparse is None or not {DENSE, MULTI_VECTOR} <= vectors.keys():
        raise CollectionMismatchError(f"{where} lacks one of the vectors {DENSE}, {SPARSE}, {MULTI_VECTOR}")
    quantised = config.get("quantization_config") is not None
    for name, width in {DENSE: identity.dense_dim, MULTI_VECTOR: identity.multi_vector_dim, SPARSE: None}.items():
        vector = sparse if name == SPARSE else vectors[name]
        fault = _sparse_fault(vector) if width is None else _fault(vector, width, is_multi=name == MULTI_VECTOR)
        if width is not None and (quantised or vector.get("quantization_config") is not None):
            # A search by dense vectors ranks, and may score, by the quantised ones.
            fault = "is quantised, and M3 scores need the vectors themselves: disable the quantisation"
        if fault is not None:
            raise CollectionMismatchError(f"{where}: its vector {name} {fault}")
    words = config["sparse_vectors"].get(BM25)
    if words is not None and words.get("modifier") != "idf":
        raise CollectionMismatchError(
            f"{where}: its vector {BM25} lacks the modifier idf, without which it scores nothing"
        )


def _sparse_fault(vector: Mapping[str, Any]) -> str | None:
    if vector.get("modifier") == "idf":
        return "is re-weighted by IDF, and M3 scores need the raw weights: set the modifier to none"
    if "uint8" in (vector.get("datatype"), (vector.get("index") or {}).get("datatype")):
        return "is stored as uint8, and M3 scores need floats"
    return None


def _fault(vector: Mapping[str, Any], width: int, *, is_multi: bool) -> str | None:
    if vector["size"] != width:
        return f"has {vector['size']} numbers, and its own metadata says {width}"
    if vector["distance"] not in _PRODUCTS:
        return f"is compared by {vector['distance']}, and M3 scores are inner products"
    if is_multi != (vector.get("multivector_config") is not None):
        return "holds one row per document instead of many" if is_multi else "holds many rows per document, not one"
    if vector.get("datatype") == "uint8":
        return "is stored as uint8, and M3 scores need floats"
    return None
