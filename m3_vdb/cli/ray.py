"""``m3-vdb ingest --engine ray``: from options to an engine, and what the driver knows of the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.errors import EngineError
from m3_vdb.ingest.ray_engine import RayEngine
from m3_vdb.stores import VectorStore, open_store
from m3_vdb.stores.names import KEY_VARIABLES, Server, read_name
from m3_vdb.types import FloatArray

ENGINES: Final = ("threads", "ray")


class DriverSession:
    """Stands where a session would: the driver needs the model's tokenizer, limits and identity, and opens no model."""

    description = "encoded on Ray"

    def run(
        self, outputs: Sequence[str], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> Mapping[str, FloatArray]:
        """Not here.

        Raises:
            EngineError: always.
        """
        raise EngineError("the driver of a Ray job has no model open; the encoders have")


def driver_embed(model: str | None, *, max_length: int | None, mcls_every: int | None) -> M3EmbeddingFunction:
    """The driver's embedding function: the model's tokenizer, limits and identity, and no session."""
    bundle = find_bundle(model)
    if mcls_every is not None:
        bundle.require_mcls()
    return M3EmbeddingFunction.from_parts(
        bundle.read_tokenizer(),
        DriverSession(),
        identity=bundle.identity,
        model_max_length=bundle.max_length,
        max_length=max_length,
        on_truncate="ignore",
        mcls_every=mcls_every,
    )


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens a server's collection on a worker, whose environment need not have the key.

    Attributes:
        url: of the collection.
        identity: the model's.
        grpc: ``open_store``'s ``prefer_grpc``.
        key: the driver's; shown nowhere.
    """

    url: str
    identity: ModelIdentity
    grpc: bool | None
    key: str | None = field(repr=False)

    def __call__(self) -> VectorStore:
        """The open collection."""
        return open_store(self.url, identity=self.identity, create=False, api_key=self.key, prefer_grpc=self.grpc)


def make_engine(
    embed: M3EmbeddingFunction,
    store: str,
    *,
    grpc: bool | None,
    model: str | None,
    runtime: str,
    address: str | None,
    encoders: int | None,
    cpus: float,
    gpus: float | None,
) -> RayEngine:
    """An engine for the same model, with the same limits, as the driver's.

    Args:
        embed: the driver's.
        store: URL.
        grpc: ``open_store``'s ``prefer_grpc``.
        model: bundle or hub id, as every worker finds it.
        runtime: of the encoders.
        address: of the cluster.
        encoders: how many.
        cpus: of each; also the threads of its forward passes.
        gpus: of each.
    """
    make: Callable[[], M3EmbeddingFunction] = partial(
        M3EmbeddingFunction,
        model,
        runtime=runtime,
        threads=max(1, int(cpus)),
        max_length=embed.max_length,
        mcls_every=embed.mcls_every,
        on_truncate="ignore",
    )
    place = read_name(store)
    key = os.environ.get(KEY_VARIABLES[place.engine]) if isinstance(place, Server) else None
    opener = Opener(store, embed.identity, grpc, key)
    return RayEngine(make, open_store=opener, address=address, encoders=encoders, cpus=cpus, gpus=gpus)
