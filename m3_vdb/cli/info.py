"""``m3-vdb info``: the model, the runtime that serves it, and what a collection holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from m3_vdb.cli.options import GrpcOption, MclsOption, ModelOption, ReadOnlyOption, RuntimeOption
from m3_vdb.cli.output import out, say, write_json
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.notices import counted
from m3_vdb.stores import CollectionDescription, describe, open_store


def info_command(
    store: Annotated[str | None, typer.Option("--store", help="A collection to show, too.")] = None,
    model: ModelOption = None,
    mcls_every: MclsOption = None,
    runtime: RuntimeOption = "auto",
    grpc: GrpcOption = None,
    read_only: ReadOnlyOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the model, the runtime that serves it, and what a collection holds."""
    embed = M3EmbeddingFunction(model, runtime=runtime, mcls_every=mcls_every)
    bundle = embed.bundle
    rows = {
        "model": f"{bundle.name} ({bundle.precision}), fingerprint {bundle.fingerprint}",
        "vectors": ", ".join(f"{name} {width:,}" for name, width in embed.dim.items()),
        "maximum length": f"{embed.max_length:,} tokens",
        "runtime": embed.session.description,
        "path": str(bundle.path),
    }
    found = None
    if store is not None:
        with open_store(store, identity=None, create=False, prefer_grpc=grpc, read_only=read_only) as opened:
            found = describe(opened)
        rows.update(_collection(found, embed.identity))
    if as_json:
        write_json({
            "model": embed.identity.as_metadata() | {"precision": bundle.precision, "path": str(bundle.path)},
            "max_length": embed.max_length,
            "runtime": embed.session.description,
            "collection": None if found is None else {"store": store, **found.as_dict()},
        })  # fmt: skip
        return
    for name, value in rows.items():
        say(f"{name:16}{value}", console=out)  # paths are never wrapped


def _collection(found: CollectionDescription, model: ModelIdentity) -> Iterator[tuple[str, str]]:
    match = "this model" if found.model.fingerprint == model.fingerprint else "another model"
    passages = f" in {counted(found.passages, 'passage')}" if found.passages != found.documents else ""
    yield (
        "collection",
        f"{counted(found.documents, 'document')}{passages}, made by {match}: {found.model.name}"
        + (", exact words" if found.options.get("bm25") else ""),
    )
    if found.languages or found.languages_note:
        yield "languages", found.languages_note or _counted(found.languages)
    sizes = ", ".join(f"{part} {_size(size)}" for part, size in sorted(found.bytes.items()))
    whole = f"{_size(found.disk_bytes)} on disk; " if found.disk_bytes is not None else ""
    yield "bytes", f"{whole}{sizes}" + ("" if found.bytes_are == "on disk" else f" ({found.bytes_are})")
    yield "index", found.index
    yield "options", _counted(found.options)
    yield "engine", _counted(found.engine)
    if found.last_run:
        yield "last run", _counted(found.last_run)


def _counted(facts: Any) -> str:  # noqa: ANN401 - a mapping of plain values
    return ", ".join(f"{name} {_value(value)}" for name, value in facts.items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{name}={kind}" for name, kind in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"
