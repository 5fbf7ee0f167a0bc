"""``m3-vdb backfill``: a collection of dense vectors becomes one of all three; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from m3_vdb.cli.ingest import (
    check_outputs,
    how_to_resume,
    kept_place,
    open_target,
    shown,
    stopping,
    summarize,
)
from m3_vdb.cli.options import (
    AttemptsOption,
    BatchOption,
    CheckpointOption,
    JsonSummaryOption,
    LongDocumentsOption,
    MaxLengthOption,
    MaxRowsOption,
    MclsOption,
    ModelOption,
    OverlapOption,
    PoolFactorOption,
    RejectedOption,
    ResumeOption,
    RuntimeOption,
    StrictOption,
    TextFieldOption,
    TitleFieldOption,
)
from m3_vdb.cli.output import EXIT_INTERRUPTED, EXIT_REJECTED, say, write_json
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments, Plan
from m3_vdb.ingest import Retry, SourceCollection, SourceFields, backfill
from m3_vdb.ingest.collections import check_apart


def backfill_command(
    source: Annotated[
        str, typer.Argument(help="The collection to read: qdrant://HOST:6333/NAME, milvus://…, FILE.db#NAME, a folder.")
    ],
    store: Annotated[str, typer.Option("--store", help="The new collection, with all three vectors.")],
    model: ModelOption = None,
    mcls_every: MclsOption = None,
    max_length: MaxLengthOption = None,
    runtime: RuntimeOption = "auto",
    id_field: Annotated[str | None, typer.Option(help="Field of the id. Default: the point's own id.")] = None,
    text_field: TextFieldOption = None,
    title_field: TitleFieldOption = "title",
    payload_field: Annotated[
        str | None, typer.Option(help="An object whose fields become the payload's own, such as metadata.")
    ] = None,
    resume: ResumeOption = False,
    checkpoint: CheckpointOption = None,
    rejected: RejectedOption = None,
    strict: StrictOption = False,
    long_documents: LongDocumentsOption = "error",
    max_rows: MaxRowsOption = None,
    pool_factor: PoolFactorOption = 1.0,
    overlap: OverlapOption = 0,
    batch_documents: BatchOption = 256,
    attempts: AttemptsOption = 10,
    as_json: JsonSummaryOption = False,
) -> None:
    """Encode the texts of a collection into a new one beside it, with all three vectors. The old one is only read."""
    check_apart(source, store)
    plan = LongDocuments(plan=cast(Plan, long_documents), max_rows=max_rows, pool_factor=pool_factor, overlap=overlap)
    fields = SourceFields(
        id=id_field, text=tuple(text_field or SourceFields().text), title=title_field, payload=payload_field
    )
    state = checkpoint or Path(f"{kept_place(store).files}.backfill")
    letters = rejected or state.with_name(f"{state.name}.rejected.jsonl")
    check_outputs(state, letters)
    points = SourceCollection(source, fields=fields)
    embed = M3EmbeddingFunction(
        model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
    )
    with open_target(store, embed.identity) as opened, stopping(state) as stop, shown() as tell:
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
        say(f"stopped; {how_to_resume(state)}")
    if as_json:
        write_json(report.as_dict() | {"held": held, "store": store, "source": source})
    if report.interrupted or report.rejected_count:
        raise typer.Exit(EXIT_INTERRUPTED if report.interrupted else EXIT_REJECTED)
