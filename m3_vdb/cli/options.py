"""Options that several commands have, declared once so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m3_vdb.encoding.long_documents import PLANS

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        help="A folder (./notes.qdrant), a file (./notes.milvus.db), or a server (qdrant://localhost:6333/notes, "
        "milvus://localhost:19530/notes; +https for TLS; keys: QDRANT_API_KEY, MILVUS_TOKEN).",
    ),
]
GrpcOption = Annotated[bool, typer.Option("--grpc", help="Talk gRPC to a Qdrant server.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Bundle directory or hub id. Default: the model that comes with m3-vdb.")
]
MclsOption = Annotated[
    int | None,
    typer.Option("--mcls-every", help="MCLS for long texts: another <s> every so many tokens (paper: 256)."),
]
RuntimeOption = Annotated[str, typer.Option("--runtime", help="auto, onnxruntime or openvino.")]
MaxLengthOption = Annotated[int | None, typer.Option(help="Tokens kept of a document.")]

LongDocumentsOption = Annotated[
    str, typer.Option(help=f"Documents with more tokens than the store takes rows: {', '.join(PLANS)}.")
]
MaxRowsOption = Annotated[int | None, typer.Option(help="Rows of a document. Default: what the store takes.")]
PoolFactorOption = Annotated[float, typer.Option(help="Pool every document to one row of so many.")]
OverlapOption = Annotated[int, typer.Option(help="Tokens that split passages share.")]

TextFieldOption = Annotated[list[str] | None, typer.Option(help="Field of the text; several are joined.")]
KeepFieldOption = Annotated[
    list[str] | None, typer.Option("--keep-field", help="Field that becomes payload; the others are dropped.")
]
DropFieldOption = Annotated[list[str] | None, typer.Option("--drop-field", help="Field that is left out.")]
TitleFieldOption = Annotated[str, typer.Option(help="Field of the title.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")]
CheckpointOption = Annotated[Path | None, typer.Option(help="How far a run is. Default: beside the store.")]
RejectedOption = Annotated[Path | None, typer.Option(help="File for bad rows. Default: beside the checkpoint.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")]
BatchOption = Annotated[int, typer.Option(help="Documents encoded together.")]
AttemptsOption = Annotated[int, typer.Option(help="Requests to a failing store, the first included.")]
JsonSummaryOption = Annotated[bool, typer.Option("--json", help="The summary as one JSON object, the last line.")]
