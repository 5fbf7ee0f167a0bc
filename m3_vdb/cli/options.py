"""Options of several commands, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m3_vdb.encoding.long_documents import PLANS
from m3_vdb.ingest import FORMATS

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        help="A folder (./notes.qdrant), a file (./notes.milvus.db), or a server (qdrant://localhost:6333/notes, "
        "milvus://localhost:19530/notes; +https for TLS; keys: QDRANT_API_KEY, MILVUS_TOKEN).",
    ),
]
Bm25Option = Annotated[
    bool,
    typer.Option(
        "--bm25",
        help="Also keep exact words, for a fourth weight (bm25). Adds them to a Qdrant collection that exists.",
    ),
]
GrpcOption = Annotated[
    bool | None,
    typer.Option(
        "--grpc/--no-grpc",
        help="Use gRPC, at port 6334, for all or nothing of a Qdrant server. Default: for vectors, if it answers. For "
        "other ports: --store qdrant+grpc://HOST:PORT/notes.",
    ),
]
ReadOnlyOption = Annotated[
    bool,
    typer.Option("--read-only", help="Of a folder, read a copy as it is now: many may do so at once, none can write."),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Folder or hub id (BAAI/bge-m3). Default: the model of m3-vdb.")
]
MclsOption = Annotated[
    int | None,
    typer.Option("--mcls-every", help="MCLS for long texts: insert <s> every N tokens (paper: 256)."),
]
RuntimeOption = Annotated[str, typer.Option("--runtime", help="auto, onnxruntime or openvino.")]
MaxLengthOption = Annotated[int | None, typer.Option(help="Tokens to keep per document.")]

LongDocumentsOption = Annotated[
    str, typer.Option(help=f"What to do with documents longer than the store's multi-vector limit: {', '.join(PLANS)}.")
]
MaxRowsOption = Annotated[int | None, typer.Option(help="Multi-vector rows per document. Default: the store's limit.")]
PoolFactorOption = Annotated[float, typer.Option(help="Keep 1 in N token vectors of every document (pooled).")]
OverlapOption = Annotated[int, typer.Option(help="Passage overlap in tokens (split).")]

CorpusArgument = Annotated[
    list[str],
    typer.Argument(
        help='Files, folders, pipes, or "-": JSONL, CSV, TSV, Parquet (also .gz, .zst), texts, HTML, PDF, BEIR'
    ),
]
FormatOption = Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")]
IncludeOption = Annotated[
    list[str] | None, typer.Option(help='In folders, read only files that match: "*.html", "guide/*".')
]
ExcludeOption = Annotated[list[str] | None, typer.Option(help="In folders, skip files that match.")]
IdFieldOption = Annotated[
    str | None, typer.Option(help="Field of the id. Default: id or _id; in tables without, a content hash.")
]
AutoIdOption = Annotated[bool, typer.Option("--auto-id", help="Give rows without an id a content hash.")]
ColumnsOption = Annotated[str | None, typer.Option(help="Column names for CSV or TSV without a header.")]
DelimiterOption = Annotated[
    str | None, typer.Option(help='CSV delimiter: ";", "|", tab, … Default: found in the first line.')
]
UploadWorkersOption = Annotated[
    int | None, typer.Option(help="Batches stored in parallel. Default: 2 for a server, else 1.")
]
TextFieldOption = Annotated[
    list[str] | None, typer.Option(help="Field of the text. Can be repeated; the texts are joined.")
]
KeepFieldOption = Annotated[
    list[str] | None,
    typer.Option("--keep-field", help="Field to keep as payload; others are dropped. Can be repeated."),
]
DropFieldOption = Annotated[
    list[str] | None, typer.Option("--drop-field", help="Field to drop from the payload. Can be repeated.")
]
TitleFieldOption = Annotated[str, typer.Option(help="Field of the title.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Resume from the checkpoint.")]
CheckpointOption = Annotated[Path | None, typer.Option(help="Checkpoint file. Default: beside the store.")]
RejectedOption = Annotated[Path | None, typer.Option(help="File for rejected rows. Default: beside the checkpoint.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Stop at the first rejected row.")]
BatchOption = Annotated[int, typer.Option(help="Documents encoded together.")]
AttemptsOption = Annotated[int, typer.Option(help="Max attempts per request to the store.")]
JsonSummaryOption = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on the last line.")]
