"""``m3-vdb backfill``: a collection of dense vectors becomes one of all three; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

from functools import partial
from typing import Annotated, cast

import typer

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
from m3_vdb.cli.run import run_files, run_on
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments, Plan
from m3_vdb.ingest import Retry, SourceCollection, SourceFields, ingest
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
    files = run_files(store, "backfill", checkpoint=checkpoint, rejected=rejected)
    points = SourceCollection(source, fields=fields)
    embed = M3EmbeddingFunction(
        model, runtime=runtime, max_length=max_length, mcls_every=mcls_every, on_truncate="ignore"
    )
    run = partial(
        ingest,
        points,
        embed,
        batch_documents=batch_documents,
        strict=strict,
        resume=resume,
        run_key={"store": store},
        retry=Retry(attempts=attempts),
        long_documents=plan,
    )
    result = run_on(run, embed, store, files)
    about = {"store": store, "source": source, "points": points.total_bytes}
    result.finish(files, embed, plan.plan, about=about, as_json=as_json)
