"""``m3-vdb backfill``: a collection of dense vectors becomes one of all three; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast

import typer

from m3_vdb.cli_ingest import (
    EXIT_INTERRUPTED,
    EXIT_REJECTED,
    check_outputs,
    err,
    how_to_resume,
    out,
    shown,
    stopping,
    store_name,
    summarize,
)
from m3_vdb.embedding_function import M3EmbeddingFunction
from m3_vdb.ingest import Retry, SourceCollection, SourceFields, backfill
from m3_vdb.ingest.collections import check_apart
from m3_vdb.long_documents import PLANS, LongDocuments, Plan
from m3_vdb.stores import open_store


def backfill_command(
    source: Annotated[
        str, typer.Argument(help="The collection to read: qdrant://HOST:6333/NAME, milvus://…, FILE.db#NAME, a folder.")
    ],
    store: Annotated[str, typer.Option("--store", help="The new collection, with all three vectors.")],
    model: Annotated[str | None, typer.Option("--model", help="Bundle directory or hub id.")] = None,
    mcls_every: Annotated[int | None, typer.Option(help="MCLS for long texts, as in ingest.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens kept of a document.")] = None,
    runtime: Annotated[str, typer.Option("--runtime", help="auto, onnxruntime or openvino.")] = "auto",
    id_field: Annotated[str | None, typer.Option(help="Field of the id. Default: the point's own id.")] = None,
    text_field: Annotated[list[str] | None, typer.Option(help="Field of the text; several are joined.")] = None,
    title_field: Annotated[str, typer.Option(help="Field of the title.")] = "title",
    payload_field: Annotated[
        str | None, typer.Option(help="An object whose fields become the payload's own, such as metadata.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="How far a run is. Default: beside the store.")] = None,
    rejected: Annotated[Path | None, typer.Option(help="File for bad points. Default: beside the checkpoint.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad point.")] = False,
    long_documents: Annotated[
        str, typer.Option(help=f"Documents with more tokens than the store takes rows: {', '.join(PLANS)}.")
    ] = "error",
    max_rows: Annotated[int | None, typer.Option(help="Rows of a document. Default: what the store takes.")] = None,
    pool_factor: Annotated[float, typer.Option(help="Pool every document to one row of so many.")] = 1.0,
    overlap: Annotated[int, typer.Option(help="Tokens that split passages share.")] = 0,
    batch_documents: Annotated[int, typer.Option(help="Documents encoded together.")] = 256,
    attempts: Annotated[int, typer.Option(help="Requests to a failing store, the first included.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object, the last line.")] = False,
) -> None:
    """Encode the texts of a collection into a new one beside it, with all three vectors. The old one is only read."""
    check_apart(source, store)
    plan = LongDocuments(plan=cast(Plan, long_documents), max_rows=max_rows, pool_factor=pool_factor, overlap=overlap)
    fields = SourceFields(
        id=id_field, text=tuple(text_field or SourceFields().text), title=title_field, payload=payload_field
    )
    state = checkpoint or Path(f"{store_name(store)}.backfill")
    letters = rejected or state.with_name(f"{state.name}.rejected.jsonl")
    check_outputs([], state, letters)
    points = SourceCollection(source, fields=fields)
    embed = M3EmbeddingFunction(
        model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
    )
    with open_store(store, identity=embed.identity) as opened, stopping(state) as stop, shown(points) as tell:
        report = backfill(
            points,
            embed,
            opened,
            batch_documents=batch_documents,
            progress=tell,
            strict=strict,
            rejected=letters,
            checkpoint=state,
            resume=resume,
            ties={"store": store},
            retry=Retry(attempts=attempts),
            long_documents=plan,
            stop=stop,
        )
        held = opened.count()
    end = f"{store} now holds {held:,}, {source} {points.total_bytes:,}; {embed.session.description}"
    summarize(report, letters, end, embed.max_length, plan.plan)
    if report.interrupted:
        err.print(f"stopped; {how_to_resume(state)}", markup=False, soft_wrap=True)
    if as_json:
        out.print_json(json.dumps(report.as_dict() | {"held": held, "store": store, "source": source}), indent=None)
    if report.interrupted or report.rejected_count:
        raise typer.Exit(EXIT_INTERRUPTED if report.interrupted else EXIT_REJECTED)
