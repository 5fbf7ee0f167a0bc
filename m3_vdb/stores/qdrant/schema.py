"""A collection on a Qdrant server: how it is made, what it must be like, and what the server lets us ask of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from qdrant_client import QdrantClient, models

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import CollectionMismatchError, ConfigError
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE, CollectionOptions
from m3_vdb.stores.points import field_name, field_path

MAX_MULTI_VECTOR_FLOATS: Final = 1024 * 1024
"""A multi-vector of this many numbers or more is refused (MAX_MULTIVECTOR_FLATTENED_LEN, Qdrant 1.10 to 1.19)."""
TURBO_VERSION: Final = (1, 20)
"""First version whose vectors may be stored as turbo16 and turbo8."""
METADATA_KEY: Final = "m3"
_PRODUCTS: Final = (models.Distance.DOT, models.Distance.COSINE)
"""The same for unit vectors."""


@dataclass(frozen=True, slots=True)
class QdrantCapabilities:
    """What a server and its collection are, and so which form a search takes; read when the collection is opened.

    Attributes:
        version: of the server; "" if it does not say.
        may_be_exact: requests may say ``exact``; False where strict mode has search_allow_exact=false.
        shards: parts of the collection; with several, a search takes two steps.
        max_floats: a multi-vector must hold fewer numbers than this.
        max_limit: strict mode's largest number of candidates; None for no limit.
        max_upsert: strict mode's largest number of points in an upsert; None for no limit.
        max_batch: strict mode's largest number of requests in a batch; None for no limit.
        multi_vector_datatype: how multi-vectors are stored: float32, float16, turbo16, turbo8, …
        indexes: payload field → type of its index.
    """

    version: str = ""
    may_be_exact: bool = True
    shards: int = 1
    max_floats: int = MAX_MULTI_VECTOR_FLOATS
    max_limit: int | None = None
    max_upsert: int | None = None
    max_batch: int | None = None
    multi_vector_datatype: str = "float32"
    indexes: Mapping[str, str] = field(default_factory=dict)


def read_capabilities(info: models.CollectionInfo, *, version: str, width: int) -> QdrantCapabilities:
    """The capabilities behind a collection that ``check_schema`` has passed.

    Args:
        info: the server's description of it.
        version: of the server.
        width: of a multi-vector row.
    """
    config, strict = info.config, info.config.strict_mode_config
    if strict is None or not strict.enabled:
        strict = models.StrictModeConfigOutput()
    rows = _max_rows(strict)
    vectors = config.params.vectors if isinstance(config.params.vectors, dict) else {}
    datatype = vectors[MULTI_VECTOR].datatype
    names = {field_name(path): index.data_type.value for path, index in (info.payload_schema or {}).items()}
    return QdrantCapabilities(
        version=version,
        may_be_exact=strict.search_allow_exact is not False,
        shards=config.params.shard_number or 1,
        max_floats=MAX_MULTI_VECTOR_FLOATS if rows is None else min(MAX_MULTI_VECTOR_FLOATS, rows * width + 1),
        max_limit=strict.max_query_limit,
        max_upsert=strict.upsert_max_batchsize,
        max_batch=getattr(strict, "search_max_batchsize", None),
        multi_vector_datatype="float32" if datatype is None else datatype.value,
        indexes={name: kind for name, kind in names.items() if name is not None},
    )


def _max_rows(strict: models.StrictModeConfigOutput) -> int | None:
    multi = (strict.multivector_config or {}).get(MULTI_VECTOR)
    return None if multi is None else multi.max_vectors


def create_collection(
    client: QdrantClient, collection: str, identity: ModelIdentity, options: CollectionOptions, *, version: str
) -> None:
    """Make a collection; the identity travels as its metadata.

    Raises:
        ConfigError: the server is too old for an option.
    """
    sparse = models.SparseIndexParams(on_disk=options.on_disk) if options.on_disk is not None else None
    client.create_collection(
        collection,
        vectors_config=_vectors(identity, options, version=version),
        # No modifier: IDF would re-weight.
        sparse_vectors_config={SPARSE: models.SparseVectorParams(index=sparse)},
        shard_number=options.shard_number,
        replication_factor=options.replication_factor,
        metadata={METADATA_KEY: identity.as_metadata()},
    )


def _vectors(identity: ModelIdentity, options: CollectionOptions, *, version: str) -> dict[str, models.VectorParams]:
    """The dense and multi-vector fields of a new collection."""
    return {
        # DOT and not COSINE: the vectors are unit already, and what was stored is what is scored.
        DENSE: models.VectorParams(size=identity.dense_dim, distance=models.Distance.DOT, on_disk=options.on_disk),
        # Only ever re-scores candidates, so it needs no HNSW (m=0); it is the bulk of the data, so it stays on disk
        # and the page cache keeps what is used.
        MULTI_VECTOR: models.VectorParams(
            size=identity.multi_vector_dim,
            distance=models.Distance.DOT,
            multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            hnsw_config=models.HnswConfigDiff(m=0),
            datatype=_datatype(options, version=version),
            on_disk=options.on_disk is not False,
        ),
    }


def _datatype(options: CollectionOptions, *, version: str) -> models.Datatype | None:
    if options.storage == "exact":
        return None
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    new = numbers is not None and (int(numbers[1]), int(numbers[2])) >= TURBO_VERSION
    if new and options.storage == "half":
        return models.Datatype("turbo16")  # ten times nearer to float32 than float16, at the same size
    if new:
        return models.Datatype("turbo8")
    if options.storage == "half":
        return models.Datatype.FLOAT16
    needed = ".".join(map(str, TURBO_VERSION))
    raise ConfigError(f"storage='quarter' needs a Qdrant server of version {needed} (this one: {version or 'unknown'})")


def create_indexes(
    client: QdrantClient, collection: str, options: CollectionOptions, present: Mapping[str, str]
) -> bool:
    """Make the payload indexes that are asked for and missing; whether there were any."""
    missing = {name: kind for name, kind in options.payload_indexes.items() if name not in present}
    for name, kind in missing.items():
        schema: Any = models.PayloadSchemaType(kind)
        if name == options.tenant:
            schema = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        client.create_payload_index(collection, field_path(name), field_schema=schema, wait=True)
    return bool(missing)


def check_schema(config: models.CollectionConfig, identity: ModelIdentity, *, where: str) -> None:
    """Refuse a collection that would compute other scores than M3's.

    Raises:
        CollectionMismatchError: a vector is missing or is compared in another way, the sparse vector is re-weighted by
            IDF, or vectors are quantised.
    """
    vectors = config.params.vectors if isinstance(config.params.vectors, dict) else {}
    sparse = (config.params.sparse_vectors or {}).get(SPARSE)
    if sparse is None or not {DENSE, MULTI_VECTOR} <= vectors.keys():
        raise CollectionMismatchError(f"{where} lacks one of the vectors {DENSE}, {SPARSE}, {MULTI_VECTOR}")
    if sparse.modifier == models.Modifier.IDF:
        raise CollectionMismatchError(
            f"{where} re-weights its sparse vector by IDF, and M3 scores need the raw weights: set the modifier to none"
        )
    if sparse.index is not None and sparse.index.datatype == models.Datatype.UINT8:
        raise CollectionMismatchError(f"{where} stores its sparse weights as uint8, and M3 scores need them as floats")
    widths = {DENSE: identity.dense_dim, MULTI_VECTOR: identity.multi_vector_dim}
    for name, width in widths.items():
        fault = _fault(vectors[name], width, is_multi=name == MULTI_VECTOR)
        if config.quantization_config is not None or vectors[name].quantization_config is not None:
            # A search by dense vectors ranks, and may score, by the quantised ones.
            fault = "is quantised, and M3 scores need the vectors themselves: disable the quantisation"
        if fault is not None:
            raise CollectionMismatchError(f"{where}: its vector {name} {fault}")


def _fault(vector: models.VectorParams, width: int, *, is_multi: bool) -> str | None:
    if vector.size != width:
        return f"has {vector.size} numbers, and its own metadata says {width}"
    if vector.distance not in _PRODUCTS:
        return f"is compared by {vector.distance.value}, and M3 scores are inner products"
    if is_multi != (vector.multivector_config is not None):
        return "holds one row a document instead of many" if is_multi else "holds many rows a document instead of one"
    if vector.datatype == models.Datatype.UINT8:
        return "is stored as uint8, and M3 scores need floats"
    return None
