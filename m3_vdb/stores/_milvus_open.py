"""Opening a collection of Milvus: make it if there is none, check whose it is, find out what the engine can do."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Literal

from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from m3_vdb.encoding.identity import ModelIdentity, open_identity
from m3_vdb.errors import CollectionMismatchError, CollectionNotFoundError, ConfigError
from m3_vdb.stores._milvus_probe import probe
from m3_vdb.stores._milvus_rows import DOCUMENT_FIELDS, KEY, NUMBERS, TERMS, TOKENS
from m3_vdb.stores._milvus_schema import (
    EngineFacts,
    create,
    create_indexes,
    field_types,
    has_struct,
    indexes_property,
    is_half,
    stored_identity,
    stored_indexes,
)
from m3_vdb.stores.options import CollectionOptions, IndexType
from m3_vdb.stores.search import DENSE, MULTI_VECTOR, SPARSE

_OPTIONS: Final = ("storage", "indexes", "shard_number")
_LOAD_SECONDS: Final = 600
"""A large collection takes minutes to load into a server's memory."""


@dataclass(frozen=True, slots=True)
class MilvusCapabilities:
    """What the engine behind a collection does itself, found out by a probe and not read off a version.

    Attributes:
        tier: "S": the engine searches all three vectors, token rows in an array of structs. "DS": it searches dense
            and sparse vectors, and token rows are kept beside them and scored here.
        fusion: where the M3 score is added up: "server", or "client" from exact raw scores. In tier DS a search without
            a weight for the multi-vector is fused by the server too if ``raw_weights``. Ranks and normalised scores
            ("rrf", "dbsf") are always fused here, and so is a search that asks to explain.
        exact_scores: every candidate has its exact score; always True: that is what the store is for.
        exact_candidates: the candidates are chosen by a full scan, not by HNSW.
        raw_weights: the engine's hybrid search adds raw scores.
        struct_arrays: the engine searches arrays of structs by MAX_SIM.
        server: version of the engine.
        client: version of pymilvus.
    """

    tier: Literal["S", "DS"]
    fusion: Literal["server", "client"]
    exact_scores: bool
    exact_candidates: bool
    raw_weights: bool
    struct_arrays: bool
    server: str
    client: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A collection that may be used.

    Attributes:
        identity: the model that made it.
        facts: what the engine can do.
        struct: token rows are in an array of structs.
        half: token rows are float16.
        flat: the dense vector is searched by a full scan.
        types: payload fields that were declared with an index → what they hold.
    """

    identity: ModelIdentity
    facts: EngineFacts
    struct: bool
    half: bool
    flat: bool
    types: Mapping[str, IndexType]

    @property
    def scores_rows(self) -> bool:
        """Whether the engine itself scores token rows."""
        return self.struct and self.facts.struct_arrays

    @property
    def capabilities(self) -> MilvusCapabilities:
        """The same for people."""
        return MilvusCapabilities(
            tier="S" if self.scores_rows else "DS",
            fusion="server" if self.scores_rows and self.facts.raw_weights else "client",
            exact_scores=True,
            exact_candidates=self.flat,
            raw_weights=self.facts.raw_weights,
            struct_arrays=self.facts.struct_arrays,
            server=self.facts.server,
            client=version("pymilvus"),
        )


def open_collection(
    client: MilvusClient,
    collection: str,
    *,
    identity: ModelIdentity | None,
    may_create: bool,
    exact: bool | None,
    options: CollectionOptions,
    timeout: float,
    where: str,
) -> Opened:
    """Open a collection, or make it; see ``MilvusStore`` for the arguments and errors."""
    if not client.has_collection(collection, timeout=timeout):
        if identity is None or not may_create:
            raise CollectionNotFoundError(f"there is no {where}: check the name, or ingest into it first")
        _create(client, collection, identity, options, timeout=timeout)
    found = client.describe_collection(collection, timeout=timeout)
    stored = open_identity(identity, stored_identity(found), where=where)
    _check_fields(found, where=where)
    facts = _facts(client, collection, found, timeout=timeout)
    if DENSE not in client.list_indexes(collection, timeout=timeout):
        # A new collection, or one whose maker was killed before it came to this.
        # Under a condition on 200 keys milvus-lite's HNSW returns a fraction of them, and its full scan all.
        scan = facts.is_lite or bool(exact)
        struct = has_struct(found)
        create_indexes(client, collection, struct=struct, flat=scan, terms=not facts.is_lite, timeout=timeout)
    flat = client.describe_index(collection, DENSE, timeout=timeout)["index_type"] == "FLAT"
    if exact and not flat:
        raise ConfigError(
            f"{where} was made with HNSW, and Milvus scans in full only where a collection was made with exact=True: "
            f"leave exact out (a large ef finds better candidates), or ingest into a new collection"
        )
    types = stored_indexes(found)
    if may_create and not options.indexes.keys() <= types.keys():
        types = {**options.indexes, **types}
        client.alter_collection_properties(collection, indexes_property(types), timeout=timeout)
    client.load_collection(collection, timeout=max(timeout, _LOAD_SECONDS))
    return Opened(
        identity=stored,
        facts=facts,
        struct=has_struct(found),
        half=is_half(found),
        flat=flat,
        types=types,
    )


def _create(
    client: MilvusClient, collection: str, identity: ModelIdentity, options: CollectionOptions, *, timeout: float
) -> None:
    facts = probe(client, timeout=timeout)
    options.require_only(*_OPTIONS[: 2 if facts.is_lite else 3], where="milvus-lite" if facts.is_lite else "Milvus")
    if options.storage == "quarter":
        raise ConfigError("storage='quarter': Milvus has 'exact' and 'half'")
    try:
        create(client, collection, identity, facts, options, timeout=timeout)
    except MilvusException:
        # Two workers may start at once: that the other one made it is no error, and opening it checks what it is.
        if not client.has_collection(collection, timeout=timeout):
            raise


def _facts(client: MilvusClient, collection: str, found: Mapping[str, Any], *, timeout: float) -> EngineFacts:
    """What the engine can do: as remembered, or probed anew if its version has changed."""
    known = EngineFacts.read(found.get("properties") or {})
    server = str(client.get_server_version(timeout=timeout))
    if known is not None and known.server == server:
        return known
    try:
        facts = probe(client, timeout=timeout)
    except MilvusException:
        # Most likely not allowed to make a collection. Nothing is taken for granted then, and all is scored here.
        return EngineFacts(server=server, struct_arrays=False, raw_weights=False)
    with suppress(MilvusException):  # not allowed to: then it is probed again next time
        client.alter_collection_properties(collection, facts.as_property(), timeout=timeout)
    return facts


def _check_fields(found: Mapping[str, Any], *, where: str) -> None:
    """Refuse a collection that lacks one of our fields.

    Raises:
        CollectionMismatchError: it does.
    """
    present = field_types(found).keys()
    missing = {KEY, *DOCUMENT_FIELDS, TERMS, NUMBERS, DENSE, SPARSE} - present
    if missing or not {MULTI_VECTOR, TOKENS} & present:
        names = ", ".join(sorted(missing)) or f"{MULTI_VECTOR} or {TOKENS}"
        raise CollectionMismatchError(
            f"{where} lacks the field {names}, so m3-vdb did not make it: choose another name"
        )
