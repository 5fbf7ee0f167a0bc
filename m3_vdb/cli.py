"""``m3-vdb``: ingest a corpus, search it, look at a collection, evaluate. Thin: every command calls the API above."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import m3_vdb
from m3_vdb.cli_eval import eval_command, report_command
from m3_vdb.cli_ingest import ingest_command
from m3_vdb.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import CollectionNotFoundError, ConfigError, M3Error
from m3_vdb.fusion import PRESETS, Weights
from m3_vdb.index import HybridIndex
from m3_vdb.stores import open_store
from m3_vdb.types import Filter, Hit, Scalar

TEXT_SHOWN = 200

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out = Console()
err = Console(stderr=True, highlight=False)

StoreOption = Annotated[
    str, typer.Option("--store", help="A folder (./notes.qdrant) or a server (qdrant://localhost:6333/notes).")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Bundle directory or hub id. Default: the model that comes with m3-vdb.")
]
MclsOption = Annotated[
    int | None,
    typer.Option("--mcls-every", help="MCLS for long texts: another <s> every so many tokens (paper: 256)."),
]
RuntimeOption = Annotated[str, typer.Option("--runtime", help="auto, onnxruntime or openvino.")]


def _version(show: bool) -> None:
    if show:
        out.print(m3_vdb.__version__)
        raise typer.Exit


@app.callback()
def _m3_vdb(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Hybrid search with M3-Embedding: dense, sparse and multi-vector scores, fused inside the vector database."""


@app.command("search")
def search_command(
    query: Annotated[str, typer.Argument(help="What to look for, in any language.")],
    store: StoreOption,
    model: ModelOption = None,
    mcls_every: MclsOption = None,
    runtime: RuntimeOption = "auto",
    limit: Annotated[int, typer.Option(help="Hits to show.")] = 5,
    weights: Annotated[str, typer.Option(help=f"dense,sparse,multi-vector, or {', '.join(PRESETS)}.")] = "default",
    where: Annotated[list[str] | None, typer.Option("--filter", help="FIELD=VALUE; repeat for several.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a hit.")] = False,
) -> None:
    """Search a collection and show rank, fused score, its three parts, and the text."""
    fusion = Weights.parse(weights)
    embed = M3EmbeddingFunction(model, runtime=runtime, mcls_every=mcls_every)
    with HybridIndex(embed, open_store(store, identity=embed.identity, create=False)) as index:
        hits = index.query(query, limit=limit, weights=fusion, filter=_parse_filter(where or []), explain=True)
    if as_json:
        for hit in hits:
            out.print_json(json.dumps(_as_dict(hit), ensure_ascii=False), indent=None)
    elif hits:
        out.print(_table(hits, fusion))
    else:
        err.print("no hits")


@app.command("info")
def info_command(
    store: Annotated[str | None, typer.Option("--store", help="Also show this collection.")] = None,
    model: ModelOption = None,
    mcls_every: MclsOption = None,
    runtime: RuntimeOption = "auto",
) -> None:
    """Show the model, the runtime that serves it, and a collection."""
    embed = M3EmbeddingFunction(model, runtime=runtime, mcls_every=mcls_every)
    bundle = embed.bundle
    table = Table(show_header=False, box=None)
    rows = {
        "model": f"{bundle.name} ({bundle.precision}), fingerprint {bundle.fingerprint}",
        "vectors": ", ".join(f"{name} {width:,}" for name, width in embed.dim.items()),
        "maximum length": f"{embed.max_length:,} tokens",
        "runtime": embed.session.description,
        "path": str(bundle.path),
    }
    if store is not None:
        try:
            with open_store(store, identity=None, create=False) as opened:
                made_by = opened.identity
                match = "this model" if made_by.fingerprint == embed.identity.fingerprint else "another model"
                rows["collection"] = f"{opened.count():,} documents, made by {match}: {made_by.name}"
        except CollectionNotFoundError as error:
            rows["collection"] = str(error)
    for name, value in rows.items():
        table.add_row(name, Text(value))
    out.print(table)


app.command("ingest")(ingest_command)
app.command("eval")(eval_command)
app.command("report")(report_command)


def main() -> None:
    """Run the command line; a known error is one line and exit code 1."""
    try:
        app()
    except (M3Error, OSError) as error:
        err.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        raise SystemExit(1) from None


def _parse_filter(pairs: list[str]) -> Filter | None:
    """FIELD=VALUE pairs; a value that is a JSON number or true/false is one, and a repeated field means any of."""
    values: dict[str, list[Scalar]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--filter {pair!r}: expected FIELD=VALUE")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        values.setdefault(name, []).append(value if isinstance(value, (str, int, float)) else text)
    return {name: options if len(options) > 1 else options[0] for name, options in values.items()} or None


def _table(hits: list[Hit], weights: Weights) -> Table:
    table = Table(show_lines=True)
    table.add_column("#", justify="right")
    table.add_column("score", justify="right", style="bold")
    for name, weight in (("dense", weights.dense), ("sparse", weights.sparse), ("multi", weights.multi_vector)):
        table.add_column(f"{name}\n×{weight:g}", justify="right")
    table.add_column("document", ratio=1)
    for rank, hit in enumerate(hits, start=1):
        parts = hit.parts
        numbers = (parts.dense, parts.sparse, parts.multi_vector) if parts else (0.0, 0.0, 0.0)
        text = " ".join(hit.document.text.split())
        shown = text if len(text) <= TEXT_SHOWN else text[:TEXT_SHOWN].rstrip() + "…"
        cell = Text.assemble((hit.document.title, "bold"), "\n" * bool(hit.document.title), shown)
        cell.append(f"\n{hit.document.id}", style="dim")
        table.add_row(str(rank), f"{hit.score:.3f}", *(f"{number:.3f}" for number in numbers), cell)
    return table


def _as_dict(hit: Hit) -> dict[str, object]:
    parts = hit.parts
    document = hit.document
    return {
        "id": document.id,
        "score": hit.score,
        "dense": parts and parts.dense,
        "sparse": parts and parts.sparse,
        "multi_vector": parts and parts.multi_vector,
        "title": document.title,
        "text": document.text,
        "payload": dict(document.payload),
    }
