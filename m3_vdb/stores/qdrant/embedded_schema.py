"""The schema of a collection in a folder. The twin of ``schema.py``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import qdrant_edge as edge

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.stores.options import DENSE, MULTI_VECTOR, SPARSE, CollectionOptions, IndexType, Storage
from m3_vdb.stores.points import field_path

OPTIONS: Final = ("storage", "indexes", "tenant", "on_disk")
"""What the embedded engine has of ``CollectionOptions``."""
_DATATYPES: Final[dict[Storage, Any]] = {
    "exact": None,
    # Ten times nearer to float32 than float16, at the same size.
    "half": edge.VectorStorageDatatype.Turbo16,
    "quarter": edge.VectorStorageDatatype.Turbo8,
}
INDEXES: Final[dict[IndexType, Any]] = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "bool": edge.PayloadSchemaType.Bool,
}
"""What the engine calls the types of indexes."""


def edge_config(identity: ModelIdentity, options: CollectionOptions) -> edge.EdgeConfig:
    """The schema of a new collection."""
    memory = None if options.on_disk is None else edge.Memory.Cold if options.on_disk else edge.Memory.Cached
    return edge.EdgeConfig(
        vectors={
            # Dot and not Cosine: the vectors are unit already, and what was stored is what is scored.
            DENSE: edge.EdgeVectorParams(size=identity.dense_dim, distance=edge.Distance.Dot, memory=memory),
            # Only ever re-scores candidates, so it needs no HNSW (m=0).
            MULTI_VECTOR: edge.EdgeVectorParams(
                size=identity.multi_vector_dim,
                distance=edge.Distance.Dot,
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                hnsw_config=edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
                datatype=_DATATYPES[options.storage],
                memory=memory,
            ),
        },
        sparse_vectors={SPARSE: edge.EdgeSparseVectorParams(memory=memory)},
    )


def index_operations(options: CollectionOptions, present: Collection[str | None]) -> list[edge.UpdateOperation]:
    """What makes the payload indexes that are asked for and not there."""
    return [
        edge.UpdateOperation.create_field_index(
            field_path(name),
            edge.KeywordIndexParams(is_tenant=True) if name == options.tenant else INDEXES[kind],
        )
        for name, kind in options.payload_indexes.items()
        if name not in present
    ]
