"""``m3-vdb serve``: embeddings, re-ranking and search over HTTP; the work is ``m3_vdb.serve``'s."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import ExitStack
from typing import Annotated, Final, cast

import typer

from m3_vdb.cli.options import (
    GrpcOption,
    LongDocumentsOption,
    MaxLengthOption,
    MclsOption,
    ModelOption,
    OverlapOption,
    ReadOnlyOption,
    RuntimeOption,
)
from m3_vdb.cli.output import say
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments, Plan
from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.stores import open_store

_PACKAGES: Final = ("fastapi", "starlette", "uvicorn", "prometheus_client", "orjson", "pydantic")
_KEEP_ALIVE: Final = 75
"""Seconds for which an idle connection stays open: longer than a proxy's own 60."""


def serve_command(
    store: Annotated[
        str | None,
        typer.Option("--store", help="The collection to search. Without it: embeddings and re-ranking only."),
    ] = None,
    model: ModelOption = None,
    mcls_every: MclsOption = None,
    runtime: RuntimeOption = "auto",
    max_length: MaxLengthOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="M3VDB_API_KEY",
            help="Key that requests must send (Authorization: Bearer KEY). Can be repeated; in the environment, "
            "separated by spaces.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of web pages that may send requests. Can be repeated.")
    ] = None,
    allow_writing: Annotated[
        bool, typer.Option("--allow-writing", help="Documents can be added, changed and deleted; makes the collection.")
    ] = False,
    long_documents: LongDocumentsOption = "error",
    overlap: OverlapOption = 0,
    max_body: Annotated[int, typer.Option(min=1, help="Largest body of a request, in MiB.")] = 4,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts, or documents, per request.")] = 256,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per request.")] = 65_536,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests at the same time.")] = 256,
    max_waiting: Annotated[int, typer.Option(min=1, help="Tokens that may wait to be encoded.")] = 131_072,
    turn_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of documents after which a query has its turn.")
    ] = 1024,
    grace: Annotated[int, typer.Option(min=0, help="Seconds to finish running requests at the end.")] = 30,
    grpc: GrpcOption = None,
    read_only: ReadOnlyOption = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Print one line per request.")] = False,
) -> None:
    """Serve embeddings (OpenAI's and TEI's endpoints), re-ranking and search over HTTP."""
    try:
        import uvicorn  # noqa: PLC0415 - optional

        from m3_vdb.serve.app import make_app  # noqa: PLC0415
        from m3_vdb.serve.service import Limits, Service  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _PACKAGES:
            raise
        raise MissingExtraError("m3-vdb serve", extra="serve") from error
    limits = Limits(
        body=max_body * 1024 * 1024,
        texts=max_texts,
        tokens=max_tokens,
        requests=max_requests,
        waiting_tokens=max_waiting,
        turn_tokens=turn_tokens,
    )
    plan = LongDocuments(plan=cast(Plan, long_documents), overlap=overlap)
    listener = listen(host, port)
    with ExitStack() as opened:
        opened.enter_context(listener)
        embed = M3EmbeddingFunction(
            model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
        )
        collection = store and open_store(store, embed, create=allow_writing, prefer_grpc=grpc, read_only=read_only)
        if collection:
            opened.callback(collection.close)
            if allow_writing:
                collection.check_writable()
        service = Service(embed, collection or None, limits=limits, allow_writing=allow_writing, long_documents=plan)
        app = make_app(service, keys=api_key or (), cors_origins=cors_origin or ())
        address = listener.getsockname()
        if not api_key and not ipaddress.ip_address(address[0]).is_loopback:
            say("warning: anybody who reaches this address can use the server: set M3VDB_API_KEY", style="yellow")
        what = f"{store}, {'read and write' if allow_writing else 'read only'}" if store else "no collection"
        url = f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}"
        page = "open it in a browser to search; " if store else ""
        say(f"{url} serves {embed.identity.name} and {what}; {page}{url}/docs describes the API; Ctrl-C ends it")
        config = uvicorn.Config(
            app,
            log_level="info" if access_log else "warning",
            access_log=access_log,
            ws="none",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=grace,
        )
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: {error.strerror or error}: choose another one, or end what listens there"
        ) from None
