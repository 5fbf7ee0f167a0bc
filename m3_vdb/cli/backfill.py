"""``m3-vdb backfill``: a collection of dense vectors becomes one of all three; the work is ``m3_vdb.ingest``'s."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from m3_vdb.cli.options import (
    CheckpointOption,
    EncodingOptions,
    LongOptions,
    ResumeOption,
    TextFieldOption,
    TitleFieldOption,
    WritingOptions,
    grouped,
)
from m3_vdb.cli.run import run_files, run_on
from m3_vdb.ingest import Retry, SourceCollection, SourceFields, ingest
from m3_vdb.ingest.collections import check_apart


@grouped
def backfill_command(
    source: Annotated[
        str, typer.Argument(help="The collection to read: qdrant://HOST:6333/NAME, milvus://…, FILE.db#NAME, a folder.")
    ],
    store: Annotated[str, typer.Option("--store", help="The new collection, with all three vectors.")],
    *,
    encoding: EncodingOptions,
    id_field: Annotated[str | None, typer.Option(help="Field of the id. Default: the point's own id.")] = None,
    text_field: TextFieldOption = None,
    title_field: TitleFieldOption = "title",
    payload_field: Annotated[
        str | None, typer.Option(help="An object whose fields become the payload's own, such as metadata.")
    ] = None,
    resume: ResumeOption = False,
    checkpoint: CheckpointOption = None,
    long: LongOptions,
    writing: WritingOptions,
) -> None:
    """Encode the texts of a collection into a new one beside it, with all three vectors. The old one is only read."""
    check_apart(source, store)
    fields = SourceFields(
        id=id_field, text=tuple(text_field or SourceFields().text), title=title_field, payload=payload_field
    )
    files = run_files(store, "backfill", checkpoint=checkpoint, rejected=writing.rejected)
    points, embed, plan = SourceCollection(source, fields=fields), encoding.open(), long.plan
    run = partial(
        ingest,
        points,
        embed,
        batch_documents=writing.batch_documents,
        strict=writing.strict,
        resume=resume,
        run_key={"store": store},
        retry=Retry(attempts=writing.attempts),
        upload_workers=writing.upload_workers,
        long_documents=plan,
    )
    result = run_on(run, embed, store, files)
    about = {"store": store, "source": source, "points": points.total_bytes}
    result.finish(files, embed, plan.plan, about=about, as_json=writing.as_json)
