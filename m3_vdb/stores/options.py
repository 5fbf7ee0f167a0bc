"""How a new collection is made: one value for all stores. A store refuses what it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Final, Literal, TypeAlias, get_args

from m3_vdb.errors import ConfigError
from m3_vdb.filters import check_field
from m3_vdb.inputs import whole_number

Storage: TypeAlias = Literal["exact", "half", "quarter"]
"""How multi-vectors are kept, by size: "exact" is float32. What the others do to scores stands in docs/stores.md."""
STORAGES: Final[tuple[Storage, ...]] = get_args(Storage)
IndexType: TypeAlias = Literal["keyword", "integer", "float", "bool"]
"""What an indexed payload field holds."""
INDEX_TYPES: Final[tuple[IndexType, ...]] = get_args(IndexType)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionOptions:
    """Options of a new collection; those of an existing one stay as they are, but missing indexes are made.

    Attributes:
        storage: how multi-vectors are kept, which are the bulk of the data.
        indexes: payload field → what it holds. Filters on an indexed field are faster, and where an approximate index
            serves dense search it knows these filters. They are made before the first document comes.
        tenant: a keyword field that every filter names, such as a customer; its documents are kept together.
        shard_number: parts that a server spreads the collection over; None takes the server's own.
        replication_factor: copies that a cluster keeps; None takes the server's own.
        on_disk: True reads all vectors from disk, through the page cache; False keeps all in memory; None is the
            store's own way: a server keeps multi-vectors on disk and the rest in memory.

    Raises:
        ConfigError: a value is out of range, or a field cannot be indexed.
    """

    storage: Storage = "exact"
    indexes: Mapping[str, IndexType] = field(default_factory=dict)
    tenant: str | None = None
    shard_number: int | None = None
    replication_factor: int | None = None
    on_disk: bool | None = None

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise ConfigError(f"storage={self.storage!r}: expected one of {', '.join(STORAGES)}")
        if not isinstance(self.indexes, Mapping):
            raise ConfigError(f"indexes={self.indexes!r}: expected field → type, such as {{'year': 'integer'}}")
        for name, kind in self.payload_indexes.items():
            check_field(name, what="index")
            if kind not in INDEX_TYPES:
                raise ConfigError(f"index {name!r}: {kind!r} is no type; expected one of {', '.join(INDEX_TYPES)}")
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
                raise ConfigError(f"{where} has no option {option.name} (given: {value!r}); {has}")


DEFAULT_OPTIONS: Final = CollectionOptions()
