"""Which model made the vectors of a collection: kept with it, and checked when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from m3_vdb.errors import CollectionMismatchError, ConfigError

LAYOUT: Final = 1
"""Version of what is stored: names of the vectors, layout of the payload. A reader refuses one it does not know."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model made the vectors of a collection.

    Attributes:
        name: the bundle's name, for people.
        fingerprint: hash of the bundle; two models with different vectors have different ones.
        dense_dim: width of the dense vector.
        multi_vector_dim: width of a multi-vector row.
    """

    name: str
    fingerprint: str
    dense_dim: int
    multi_vector_dim: int

    def as_metadata(self) -> dict[str, Any]:
        """Plain JSON values to keep with the collection."""
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

        Raises:
            KeyError: a field is missing: the metadata is not ours.
        """
        return cls(
            name=str(metadata["name"]),
            fingerprint=str(metadata["fingerprint"]),
            dense_dim=int(metadata["dense_dim"]),
            multi_vector_dim=int(metadata["multi_vector_dim"]),
        )

    def require_same(self, stored: ModelIdentity, *, where: str) -> None:
        """Check that a collection was made by this model.

        Raises:
            CollectionMismatchError: it was not; the message names both models.
        """
        # The widths too: a fingerprint that lies must fail here and not in the middle of an ingest.
        mine = (self.fingerprint, self.dense_dim, self.multi_vector_dim)
        if mine != (stored.fingerprint, stored.dense_dim, stored.multi_vector_dim):
            raise CollectionMismatchError(
                f"{where} holds vectors of model {stored.name!r} (fingerprint {stored.fingerprint}, "
                f"dims {stored.dense_dim}/{stored.multi_vector_dim}), but this is {self.name!r} "
                f"(fingerprint {self.fingerprint}, dims {self.dense_dim}/{self.multi_vector_dim}): "
                f"use that model, or ingest into a new collection"
            )


class Identified(Protocol):
    """What has an identity: an embedding function, an open store."""

    @property
    def identity(self) -> ModelIdentity:
        """The model behind it."""
        ...


def read_identity(given: ModelIdentity | Identified | None) -> ModelIdentity | None:
    """An identity from what was given for one: itself, or the embedding function that has it.

    Raises:
        ConfigError: it is anything else.
    """
    found = getattr(given, "identity", given)
    if found is None or isinstance(found, ModelIdentity):
        return found
    raise ConfigError(
        f"identity={given!r}: expected the identity of a model, as embed.identity, or None to open any collection"
    )


def open_identity(given: ModelIdentity | None, metadata: Mapping[str, Any] | None, *, where: str) -> ModelIdentity:
    """The identity that a collection carries, checked against the model that opens it.

    Args:
        given: the model at hand; None accepts any.
        metadata: what was stored with the collection by ``as_metadata``.
        where: the collection in words, for messages.

    Raises:
        CollectionMismatchError: not made by m3-vdb, by a newer one, or with another model.
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
