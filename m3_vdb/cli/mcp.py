"""``m3-vdb mcp``: a collection as tools of an assistant; the server is ``m3_vdb.integrations.mcp``'s."""

from __future__ import annotations

from typing import Annotated

import typer

from m3_vdb.async_index import AsyncHybridIndex
from m3_vdb.cli.options import (
    GrpcOption,
    MclsOption,
    ModelOption,
    ReadOnlyOption,
    RuntimeOption,
    StoreOption,
    WeightsOption,
)
from m3_vdb.cli.output import say
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.index import HybridIndex
from m3_vdb.stores import open_store
from m3_vdb.weights import Weights


def mcp_command(
    store: StoreOption,
    model: ModelOption = None,
    mcls_every: MclsOption = None,
    runtime: RuntimeOption = "auto",
    weights: WeightsOption = "default",
    allow_writing: Annotated[
        bool, typer.Option("--allow-writing", help="Offer the tool store, too; makes the collection.")
    ] = False,
    about: Annotated[str, typer.Option(help="What the collection holds, for the assistant.")] = "",
    http: Annotated[
        int | None,
        typer.Option(min=1, max=65535, metavar="PORT", help="Serve http://127.0.0.1:PORT/mcp instead of stdio."),
    ] = None,
    grpc: GrpcOption = None,
    read_only: ReadOnlyOption = False,
) -> None:
    """Serve a collection to an assistant over MCP: the tool find, and store where writing is allowed."""
    from m3_vdb.integrations.mcp import make_server  # noqa: PLC0415 - an extra

    fusion = Weights.parse(weights)
    embed = M3EmbeddingFunction(model, runtime=runtime, mcls_every=mcls_every)
    opened = open_store(store, identity=embed.identity, create=allow_writing, prefer_grpc=grpc, read_only=read_only)
    with HybridIndex(embed, opened, long_documents=LongDocuments(plan="split")) as index:
        if allow_writing:
            opened.check_writable()
        server = make_server(AsyncHybridIndex(index), about=about, weights=fusion, allow_writing=allow_writing)
        if http is None:
            server.run("stdio")
        else:
            say(f"{store} at http://127.0.0.1:{http}/mcp")
            server.run("streamable-http", host="127.0.0.1", port=http, stateless_http=True, json_response=True)
