"""Options of several commands, declared once; and groups of them, which ``grouped`` spreads out for a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import typer

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import PLANS, LongDocuments, Plan
from m3_vdb.ingest import FORMATS, Corpus, Fields
from m3_vdb.weights import PRESETS

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
WeightsOption = Annotated[
    str, typer.Option(help=f"DENSE,SPARSE,MULTI_VECTOR or also ,BM25, or a preset: {', '.join(PRESETS)}.")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingOptions:
    """The model that encodes documents."""

    model: ModelOption = None
    mcls_every: MclsOption = None
    max_length: MaxLengthOption = None
    runtime: RuntimeOption = "auto"

    def open(self) -> M3EmbeddingFunction:
        """The embedding function; texts that are too long are counted, not refused."""
        return M3EmbeddingFunction(
            self.model,
            runtime=self.runtime,
            max_length=self.max_length,
            mcls_every=self.mcls_every,
            on_truncate="ignore",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadOptions:
    """Which further fields of a row are kept."""

    keep_field: KeepFieldOption = None
    drop_field: DropFieldOption = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
    """Which files of a corpus are read, and which fields of a row make the document."""

    format: FormatOption = "auto"
    include: IncludeOption = None
    exclude: ExcludeOption = None
    id_field: IdFieldOption = None
    auto_id: AutoIdOption = False
    text_field: TextFieldOption = None
    title_field: TitleFieldOption = "title"
    columns: ColumnsOption = None
    delimiter: DelimiterOption = None

    def fields(self, payload: PayloadOptions = PayloadOptions()) -> Fields:
        """The fields of a row."""
        delimiter = self.delimiter and {"tab": "\t", "\\t": "\t"}.get(self.delimiter, self.delimiter)
        return Fields(
            id=(self.id_field,) if self.id_field else Fields().id,
            text=tuple(self.text_field or Fields().text),
            title=self.title_field,
            columns=tuple(name.strip() for name in self.columns.split(",")) if self.columns else None,
            keep=tuple(payload.keep_field) if payload.keep_field else None,
            drop=tuple(payload.drop_field or ()),
            auto_id=self.auto_id,
            delimiter=delimiter or None,
        )

    def corpus(self, paths: Sequence[str], payload: PayloadOptions = PayloadOptions()) -> Corpus:
        """The corpus of files, as it is now."""
        fields = self.fields(payload)
        return Corpus(paths, format=self.format, fields=fields, include=self.include or (), exclude=self.exclude or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class LongOptions:
    """What becomes of long documents."""

    long_documents: LongDocumentsOption = "error"
    max_rows: MaxRowsOption = None
    pool_factor: PoolFactorOption = 1.0
    overlap: OverlapOption = 0

    @property
    def plan(self) -> LongDocuments:
        """The plan for them."""
        return LongDocuments(
            plan=cast(Plan, self.long_documents),
            max_rows=self.max_rows,
            pool_factor=self.pool_factor,
            overlap=self.overlap,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingOptions:
    """How documents are written, and what is said about it."""

    rejected: RejectedOption = None
    strict: StrictOption = False
    batch_documents: BatchOption = 256
    attempts: AttemptsOption = 10
    upload_workers: UploadWorkersOption = None
    as_json: JsonSummaryOption = False


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are groups come as options of their own, in their place.

    Args:
        command: a function with annotations; a parameter whose type is a dataclass of options is a group.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in signature(command).parameters.values():
        kind: Any = hints[parameter.name]
        if not is_dataclass(kind):
            parameters.append(parameter.replace(annotation=kind, kind=Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = kind
        own = get_type_hints(kind, include_extras=True)
        parameters += [
            Parameter(one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=own[one.name])
            for one in fields(kind)
        ]

    @wraps(command)
    def run(**given: Any) -> None:  # noqa: ANN401 - options of any type
        made = {name: kind(**{one.name: given.pop(one.name) for one in fields(kind)}) for name, kind in groups.items()}
        command(**given, **made)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run
