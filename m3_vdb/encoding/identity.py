"""The identity of the model that made a collection: stored with the collection and checked when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from m3_vdb.errors import CollectionMismatchError, ConfigError

LAYOUT: Final = 1
"""Version of the stored layout (vector names, payload); unknown versions are refused."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Identifies the model that made the vectors of a collection.

    Attributes:
        name: the bundle's name, for display.
        fingerprint: hash of the bundle; models with different vectors have different fingerprints.
        dense_dim: width of the dense vector.
        multi_vector_dim: width of a multi-vector row.
    """

    name: str
    fingerprint: str
    dense_dim: int
    multi_vector_dim: int

    def as_metadata(self) -> dict[str, Any]:
        """The fields as plain JSON values, to store with the collection."""
        return {
            "layout": LAYOUT,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "dense_dim": self.dense_dim,
            "multi_vector_dim": self.multi_vector_dim,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> ModelIdentity:
        """The inverse of ``as_metadata``.

        Args:
            metadata: as stored with a collection.

        Raises:
            KeyError: a field is missing, so m3-vdb did not write the metadata.
        """
        return cls(
            name=str(metadata["name"]),
            fingerprint=str(metadata["fingerprint"]),
            dense_dim=int(metadata["dense_dim"]),
            multi_vector_dim=int(metadata["multi_vector_dim"]),
        )

    def require_same(self, stored: ModelIdentity, *, where: str) -> None:
        """Check that a collection was made by this model.

        Args:
            stored: the identity stored with the collection.
            where: describes the collection in messages.

        Raises:
            CollectionMismatchError: another model made it; the message names both.
        """
        # The widths too: a wrong fingerprint must fail here, not in the middle of an ingest.
        mine = (self.fingerprint, self.dense_dim, self.multi_vector_dim)
        if mine != (stored.fingerprint, stored.dense_dim, stored.multi_vector_dim):
            raise CollectionMismatchError(
                f"{where} holds vectors of model {stored.name!r} (fingerprint {stored.fingerprint}, "
                f"dims {stored.dense_dim}/{stored.multi_vector_dim}), but this is {self.name!r} "
                f"(fingerprint {self.fingerprint}, dims {self.dense_dim}/{self.multi_vector_dim}): "
                f"use that model, or ingest into a new collection"
            )


class Identified(Protocol):
    """Has an identity: an embedding function or an open store."""

    @property
    def identity(self) -> ModelIdentity:
        """The model's identity."""
        ...


def read_identity(given: ModelIdentity | Identified | None) -> ModelIdentity | None:
    """The identity, also from an embedding function or a store that has one.

    Raises:
        ConfigError: ``given`` is something else.
    """
    found = getattr(given, "identity", given)
    if found is None or isinstance(found, ModelIdentity):
        return found
    raise ConfigError(
        f"identity={given!r}: expected the identity of a model, as embed.identity, or None to open any collection"
    )


def open_identity(given: ModelIdentity | None, metadata: Mapping[str, Any] | None, *, where: str) -> ModelIdentity:
    """Read the identity stored with a collection, and compare it with the model that opens the collection.

    Args:
        given: the model that opens it; None accepts any model.
        metadata: stored with the collection, from ``as_metadata``.
        where: describes the collection in messages.

    Raises:
        CollectionMismatchError: the collection was made by another model, by a newer m3-vdb, or not by m3-vdb.
    """
    try:
        fields = metadata or {}
        layout, stored = fields["layout"], ModelIdentity.from_metadata(fields)
    except (KeyError, TypeError, ValueError):
        raise CollectionMismatchError(
            f"{where} does not say which model made it, so m3-vdb did not: choose another name"
        ) from None
    if layout != LAYOUT:
        raise CollectionMismatchError(
            f"{where} has layout {layout!r}, and this version of m3-vdb reads layout {LAYOUT}: upgrade m3-vdb, "
            f"or ingest into a new collection"
        )
    if given is not None:
        given.require_same(stored, where=where)
    return stored
