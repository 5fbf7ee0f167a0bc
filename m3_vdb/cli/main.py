"""``m3-vdb``, the command line: ``search`` and ``create``; each other command has its own file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated, cast

import typer
from rich.table import Table
from rich.text import Text

import m3_vdb
from m3_vdb.boosts import read_boosts
from m3_vdb.cli.backfill import backfill_command
from m3_vdb.cli.backup import backup_command, restore_command
from m3_vdb.cli.documents import count_command, delete_command, get_command, update_command
from m3_vdb.cli.eval import eval_command, report_command
from m3_vdb.cli.explanation import explained
from m3_vdb.cli.export import export_command
from m3_vdb.cli.info import info_command
from m3_vdb.cli.ingest import ingest_command
from m3_vdb.cli.mcp import mcp_command
from m3_vdb.cli.migrate import migrate_command
from m3_vdb.cli.options import (
    Bm25Option,
    GrpcOption,
    MclsOption,
    ModelOption,
    ReadOnlyOption,
    RuntimeOption,
    StoreOption,
    WeightsOption,
)
from m3_vdb.cli.output import EXIT_CODES, Commands, exit_codes, out, printable, say, write_json
from m3_vdb.cli.run import kept_place
from m3_vdb.cli.serve import serve_command
from m3_vdb.cli.sync import sync_command, watch_command
from m3_vdb.conditions import parse_conditions
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import CollectionNotFoundError, ConfigError
from m3_vdb.explain import explain_hits
from m3_vdb.filter_parser import parse_filter
from m3_vdb.filters import field_values, fields
from m3_vdb.index import HybridIndex
from m3_vdb.notices import counted
from m3_vdb.stores import DEFAULT_CANDIDATES, CollectionOptions, VectorStore, open_store
from m3_vdb.stores.options import INDEX_TYPES, STORAGES, IndexType, Storage
from m3_vdb.types import Filter, Hit
from m3_vdb.weights import Weights

TEXT_SHOWN = 200
VALUE_SHOWN = 40

app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, epilog=EXIT_CODES
)


def _version(show: bool) -> None:
    if show:
        out.print(m3_vdb.__version__)
        raise typer.Exit


@app.callback()
def _m3_vdb(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hybrid search with M3-Embedding: dense, sparse and multi-vector scores, fused inside the vector database."""


@app.command("search")
def search_command(
    query: Annotated[str, typer.Argument(help="Text to search for, in any language.")],
    store: StoreOption,
    model: ModelOption = None,
    mcls_every: MclsOption = None,
    runtime: RuntimeOption = "auto",
    limit: Annotated[int, typer.Option(help="Number of hits.")] = 5,
    weights: WeightsOption = "default",
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            help='FIELD=VALUE, FIELD=["de", "fr"], FIELD!=VALUE, FIELD>=NUMBER (or 2024-01-31), OBJECT.FIELD=VALUE, … '
            'or JSON: {"title": {"$exists": true}}, {"$or": […]}. Can be repeated; all must hold.',
        ),
    ] = None,
    boost: Annotated[
        list[str] | None,
        typer.Option(
            "--boost",
            help="FIELD:WEIGHT[:HALF], added to the score: official:0.1 (true, or a number), clicks:0.2:1000, "
            "modified:0.2:30d (half at that age). Can be repeated.",
        ),
    ] = None,
    grpc: GrpcOption = None,
    read_only: ReadOnlyOption = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the tokens that each hit's scores are made of, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per hit.")] = False,
) -> None:
    """Search a collection: show rank, fused score, its parts, and the text of each hit."""
    fusion, boosts = Weights.parse(weights), read_boosts(boost or ())
    embed = M3EmbeddingFunction(model, runtime=runtime, mcls_every=mcls_every)
    condition = parse_conditions(where or [])
    opened = open_store(store, identity=embed.identity, create=False, prefer_grpc=grpc, read_only=read_only)
    with HybridIndex(embed, opened) as index:
        most = max(limit, DEFAULT_CANDIDATES)
        hits = index.query(
            query, limit=limit, weights=fusion, candidates=most, filter=condition, boosts=boosts, explain=True
        )
        if not hits:
            say("; ".join(["no hits", *_reasons(index, query, condition)]))
        explanations = explain_hits(embed, query, hits) if explain and hits else []
    if as_json:
        for i, hit in enumerate(hits):
            write_json(_as_dict(hit) | ({"explanation": asdict(explanations[i])} if explain else {}))
    elif hits:
        out.print(_table(hits, fusion))
        for rank, (hit, explanation) in enumerate(zip(hits, explanations, strict=False), start=1):
            out.print(explained(rank, hit, explanation))


@app.command("create")
def create_command(
    store: StoreOption,
    model: ModelOption = None,
    storage: Annotated[str, typer.Option(help=f"Storage of multi-vectors: {', '.join(STORAGES)}.")] = "float32",
    index: Annotated[
        list[str] | None,
        typer.Option(help=f"Payload field to index, FIELD=TYPE ({', '.join(INDEX_TYPES)}). Can be repeated."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Field that separates tenants.")] = None,
    shards: Annotated[int | None, typer.Option(help="Number of shards on a server.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Number of replicas in a cluster.")] = None,
    on_disk: Annotated[bool | None, typer.Option(help="Keep all vectors on disk, or all in memory.")] = None,
    bm25: Bm25Option = False,
    full_text: Annotated[
        bool, typer.Option("--full-text", help="Index the words of texts, for --filter '$text=pump valve'.")
    ] = False,
) -> None:
    """Create an empty collection with options. If it exists, only missing indexes and exact words are added."""
    options = CollectionOptions(
        storage=cast(Storage, storage),
        indexes=dict(_index(text) for text in index or []),
        tenant=tenant,
        shard_number=shards,
        replication_factor=replicas,
        on_disk=on_disk,
        bm25=bm25,
        full_text=full_text,
    )
    kept_place(store)
    with _created(store, model, options) as opened:
        indexes = "".join(f", index {name}={kind}" for name, kind in opened.field_types.items())
        words = ", exact words" if opened.has_bm25 else ""
        words += ", full text" if opened.has_full_text else ""
        say(f"{store}: {counted(opened.count(), 'document')}, model {opened.identity.name}{words}{indexes}")


def _created(store: str, model: str | None, options: CollectionOptions) -> VectorStore:
    """The collection: as it is, with whichever model made it, unless one is named; else a new one."""
    if model is None:
        with suppress(CollectionNotFoundError):
            return open_store(store, options=options)
    return open_store(store, identity=M3EmbeddingFunction(model).identity, options=options)


app.command("info")(info_command)
app.command("ingest")(ingest_command)
app.command("sync")(sync_command)
app.command("watch")(watch_command)
app.command("backfill")(backfill_command)
app.command("get")(get_command)
app.command("count")(count_command)
app.command("update")(update_command)
app.command("delete")(delete_command)
app.command("backup")(backup_command)
app.command("restore")(restore_command)
app.command("eval")(eval_command)
app.command("export")(export_command)
app.command("report")(report_command)
app.command("mcp")(mcp_command)
app.command("migrate")(migrate_command)
app.command("serve")(serve_command)


def main() -> None:
    """Run the command line."""
    with exit_codes():
        app()


def _reasons(index: HybridIndex, query: str, condition: Filter | None) -> Iterator[str]:
    """Why a filter may have found nothing: values of its fields, or fields that no document has."""
    for field in sorted(fields(parse_filter(condition))):
        holders = index.query(query, limit=3, filter={field: {"$exists": True}})
        values = [value for hit in holders for value in field_values(hit.document.payload, field)]
        if values:
            shown = dict.fromkeys(json.dumps(value, ensure_ascii=False)[:VALUE_SHOWN] for value in values)
            yield f"the field {field!r} holds {', '.join(shown)}, …"
        else:
            names = sorted({name for hit in index.query(query, limit=20) for name in hit.document.payload})
            known = f" (fields: {', '.join(map(repr, names))}, …)" if names else ""
            yield f"no document has the field {field!r}{known}"


def _index(text: str) -> tuple[str, IndexType]:
    """Read FIELD=TYPE; ``CollectionOptions`` checks the type."""
    name, equals, kind = text.rpartition("=")
    if not equals:
        raise ConfigError(f"--index {text!r}: expected FIELD=TYPE, such as year=integer")
    return name, cast(IndexType, kind)


def _table(hits: list[Hit], weights: Weights) -> Table:
    table = Table(show_lines=True)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("score", justify="right", style="bold", no_wrap=True)
    shown = [("dense", weights.dense), ("sparse", weights.sparse), ("multi", weights.multi_vector)]
    if any(hit.parts and hit.parts.bm25 is not None for hit in hits):
        shown.append(("bm25", weights.bm25))
    if any(hit.parts and hit.parts.boost is not None for hit in hits):
        shown.append(("boost", 1.0))
    for name, weight in shown:
        table.add_column(f"{name}\n×{weight:g}", justify="right", no_wrap=True)
    # fold: text without spaces (Chinese, Thai) is one word, which would be cut after the first line.
    table.add_column("document", ratio=1, overflow="fold")
    for rank, hit in enumerate(hits, start=1):
        numbers = hit.parts.as_dict().values() if hit.parts else [0.0] * len(shown)
        title, text, name = (_one_line(part) for part in (hit.document.title, hit.document.text, hit.document.id))
        start = text if len(text) <= TEXT_SHOWN else text[:TEXT_SHOWN].rstrip() + "…"
        cell = Text.assemble((title, "bold"), "\n" * bool(title), start)
        part = f", passage {hit.passage.number} of {hit.passage.count}" if hit.passage else ""
        cell.append(f"\n{name}{part}", style="dim")
        table.add_row(str(rank), f"{hit.score:.3f}", *(f"{number:.3f}" for number in numbers), cell)
    return table


def _one_line(text: str) -> str:
    """The text of a cell on one line; escaped here, before it is measured and wrapped."""
    return printable(" ".join(text.split()))


def _as_dict(hit: Hit) -> dict[str, object]:
    parts = hit.parts
    document = hit.document
    return {
        "id": document.id,
        "score": hit.score,
        "dense": parts and parts.dense,
        "sparse": parts and parts.sparse,
        "multi_vector": parts and parts.multi_vector,
        **({"bm25": parts.bm25} if parts and parts.bm25 is not None else {}),
        **({"boost": parts.boost} if parts and parts.boost is not None else {}),
        "title": document.title,
        "text": document.text,
        "payload": dict(document.payload),
        "passage": asdict(hit.passage) if hit.passage else None,
    }
