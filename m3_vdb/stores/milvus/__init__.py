"""Collections of Milvus: on a server, or in a file (milvus-lite)."""

from __future__ import annotations

from m3_vdb.stores.milvus.engine import MilvusCapabilities
from m3_vdb.stores.milvus.opening import open_milvus
from m3_vdb.stores.milvus.store import MilvusStore

__all__ = ["MilvusCapabilities", "MilvusStore", "open_milvus"]
