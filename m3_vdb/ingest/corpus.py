"""Paths → one stream of rows: which files, in which order, of which format."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from m3_vdb import streams
from m3_vdb.errors import ConfigError, M3Error, MissingExtraError
from m3_vdb.filters import read_date
from m3_vdb.ingest.folder import (
    PACKED,
    SUFFIXES,
    WHOLE_FILES,
    File,
    Folder,
    counted,
    is_collection,
    is_output,
    is_readable,
    suffix,
)
from m3_vdb.ingest.readers import MARKDOWN, ContentIds, Reader, jsonl_rows, text_document
from m3_vdb.ingest.rows import UNREADABLE, WRONG_COLUMNS, WRONG_TYPE, Fields, Rejected, Row, place, reject
from m3_vdb.ingest.tables import csv_rows, parquet_rows, tsv_rows
from m3_vdb.inputs import read_paths

LINE_FORMATS: Final[dict[str, Reader]] = {"jsonl": jsonl_rows, "csv": csv_rows, "tsv": tsv_rows}
FORMATS: Final = ("auto", "jsonl", "csv", "tsv", "parquet", "text", "html", "pdf", "beir")
_NAMES: Final = {
    "jsonl": "JSONL",
    "csv": "CSV",
    "tsv": "TSV",
    "parquet": "Parquet",
    "text": "texts",
    "html": "HTML",
    "pdf": "PDF",
}
_CELLS: Final = ("csv", "tsv")
_BEIR: Final = "corpus.jsonl"
_DEFAULT: Final = Fields()
_INTEGER: Final = re.compile(r"[+-]?[0-9]+(\.0+)?")
_FLOAT: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLS: Final = {"true": True, "1": True, "false": False, "0": False}
_EXPECTED: Final = {
    "integer": "a whole number of 64 bits",
    "float": "a number such as 9.5",
    "bool": "true, false, 1 or 0",
    "datetime": "a date such as 2024-01-31 or 2024-01-31T18:30:00+01:00",
}


class Corpus:
    """The rows of files and folders, in the order given; folders in the order of their names. Read as often as liked.

    What is wrong with a file costs that file: one that cannot be read to its end costs one rejection, and the files
    after it are read. A pipe, and standard input, can be read once.

    Args:
        paths: files; pipes; ``-`` for standard input; folders, whose files are read by their suffixes: JSONL, CSV, TSV
            and Parquet row by row, texts, HTML and PDF as one document each, its id the relative path. A folder of a
            BEIR collection is its ``corpus.jsonl``.
        format: one of ``FORMATS``; "auto" goes by the suffix, of standard input and pipes it is "jsonl".
        fields: which fields of a row make the document.
        include: patterns as ``*.html`` or ``guide/*``: of folders, only files that fit one are read, as texts where
            their suffix says nothing.
        exclude: patterns of files in folders that are not read.

    Raises:
        ConfigError: a path does not exist or is not one, its format is unknown, its columns make no documents, or
            nothing at all can be read.
        MissingExtraError: a format needs a package that is not installed.

    Attributes:
        total_bytes: size of all files as they lie on disk; None if it is not known.
        bytes_read: bytes taken so far.
        notices: what the user should know, such as files that are left out: subject → sentence.
        field_types: how cells of CSV and TSV are read: field → "integer", "float", "bool", "datetime" or "keyword", as
            a collection indexes it. Cells of other fields stay text.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        format: str = "auto",
        fields: Fields = _DEFAULT,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
    ) -> None:
        if format not in FORMATS:
            raise ConfigError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
        self._fields = fields
        self._outputs: set[str] = set()
        self._output_names: set[str] = set()
        self.notices: dict[str, str] = {}
        self.field_types: Mapping[str, str] = {}
        self.bytes_read = 0
        make = partial(_source, format=format, include=tuple(include), exclude=tuple(exclude))
        self._sources: list[File | Folder] = [make(str(path)) for path in read_paths("paths", paths)]
        if not self._sources:
            raise ConfigError("no path is given: expected files or folders, or - for standard input")
        self.total_bytes: int | None = 0
        self._check()

    def __iter__(self) -> Iterator[Row | Rejected]:
        self.bytes_read = 0
        ids = ContentIds()
        broken: list[OSError] = []
        for source in self._sources:
            for file in self._listed(source, broken=broken):
                for item in self._file(file):
                    row = ids.give(item) if isinstance(item, Row) else item
                    yield _typed(row, self.field_types) if isinstance(row, Row) and file.format in _CELLS else row
        yield from map(_unlisted, broken)

    def leave_out(self, *outputs: Path) -> None:
        """Leave files that a run writes out of the corpus.

        Args:
            outputs: files, there already or not.

        Raises:
            ConfigError: one is a file of the corpus.
        """
        there = [path for path in outputs if path.is_file()]
        theirs = [path for path in there if not is_output(path)]
        for source in self._sources:
            mine = there if isinstance(source, File) else theirs
            for file in (Path(file.path) for file in self._listed(source)) if mine else ():
                same = next((path for path in mine if file.exists() and file.samefile(path)), None)
                if same is not None:
                    raise ConfigError(f"{same} is the corpus, or a file of it: name another file to write to")
        self._outputs |= {os.path.realpath(path) for path in outputs}
        self._output_names |= {path.name for path in outputs} | {os.path.basename(path) for path in self._outputs}

    def _on_bytes_read(self, count: int) -> None:
        self.bytes_read += count

    def _note(self, about: str, sentence: str) -> None:
        self.notices.setdefault(about, sentence)

    def _listed(
        self, source: File | Folder, *, left: Counter[str] | None = None, broken: list[OSError] | None = None
    ) -> Iterator[File]:
        if isinstance(source, File):
            return iter([source])
        left, broken = Counter() if left is None else left, [] if broken is None else broken
        return source.files(leave=self._is_output, left=left, unreadable=broken.append)

    def _is_output(self, path: Path) -> bool:
        if path.name not in self._output_names and not path.is_symlink():
            return False
        return os.path.realpath(path) in self._outputs

    def _check(self) -> None:
        """Try every file, so that nothing is begun with a corpus that cannot be read."""
        faults: list[M3Error] = []
        tried = 0
        for source in self._sources:
            left, broken, kinds = Counter[str](), list[OSError](), Counter[str]()
            for file in self._listed(source, left=left, broken=broken):
                kinds[_NAMES[file.format]] += 1
                fault = self._fault(file)
                faults += [fault] if fault else []
            if isinstance(source, Folder):
                self._tell(source, kinds, left, broken)
            tried += sum(kinds.values())
        if len(faults) == tried:
            raise faults[0]
        self.bytes_read = 0

    def _fault(self, file: File) -> M3Error | None:
        """What is wrong with a file as a whole, if that costs no more than the file.

        Raises:
            M3Error: it costs the run.
        """
        path = Path(file.path)
        if not path.is_file():  # a pipe is read once
            self.total_bytes = None if not file.found else self.total_bytes
            return None
        try:
            if self.total_bytes is not None:
                self.total_bytes += path.stat().st_size
            if path.suffix.lower() == ".zst":
                streams.require_zstd()
            if file.format in WHOLE_FILES:
                path.open("rb").close()
            else:
                next(self._rows(file), None)
        except streams.damage() as error:
            if isinstance(error, OSError) and error.errno and not file.found:
                raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
            return ConfigError(f"{path}: {_about(error)}")
        except ConfigError as error:
            if not file.found:
                raise
            return error
        return None

    def _tell(self, folder: Folder, kinds: Counter[str], left: Counter[str], broken: list[OSError]) -> None:
        gone = f"; left out: {counted(left)}" if left else ""
        if not kinds:
            what = "to read" if folder.format == "auto" else f"of the format {folder.format}"
            why = "".join(f"; {error.filename}: {error.strerror}" for error in broken)
            raise ConfigError(f"{folder.path} has no file {what}{gone}{why}; --include PATTERN reads others")
        hint = " (--include PATTERN reads them)" if left else ""
        self._note(str(folder.path), f"{folder.path}: reading {counted(kinds)}{gone}{hint}")

    def _file(self, file: File) -> Iterator[Row | Rejected]:
        line, texts, rows = 0, False, 0
        try:
            for item in self._rows(file):
                line = item.line or line
                if isinstance(item, Row):
                    rows, texts = rows + 1, texts or bool(item.document.text)
                yield item
        except streams.damage() as error:
            where = place(file.path, line + 1)
            id = file.id if file.format in WHOLE_FILES else None
            yield Rejected(where, _about(error), UNREADABLE, file=file.path, line=line + 1, id=id)
        except ConfigError as error:
            if not file.found:
                raise
            yield Rejected(place(file.path, 1), str(error), WRONG_COLUMNS, file=file.path, line=1)
        if rows and not texts and file.format not in WHOLE_FILES:
            wanted = " or ".join(map(repr, self._fields.text))
            self._note("texts", f"{file.path}: no row has a text ({wanted}), only titles are there: --text-field NAME?")

    def _rows(self, source: File) -> Iterator[Row | Rejected]:
        path = Path(source.path)
        if source.found and not path.is_file() and path.exists():  # a pipe would never end
            raise streams.DamagedError("is not a regular file")
        if source.format == "parquet":
            yield from parquet_rows(path, self._fields, self._on_bytes_read, self._note)
            return
        with streams.open_stream(source.path, self._on_bytes_read, note=partial(self._note, source.path)) as file:
            if source.format in WHOLE_FILES:
                is_markdown = source.format == "text" and suffix(path) in MARKDOWN
                kind = "markdown" if is_markdown else source.format
                yield text_document(file, source.path, self._fields, id=source.id, kind=kind)
                return
            foreign = streams.foreign(streams.peek(file))
            if foreign is not None:
                raise streams.DamagedError(f"is {foreign}")
            yield from LINE_FORMATS[source.format](file, source.path, self._fields, self._note)


def _about(error: Exception) -> str:
    if isinstance(error, streams.DamagedError):
        return f"the file {error}"
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be read on from here: {why}"


def _unlisted(error: OSError) -> Rejected:
    name = str(error.filename)
    return Rejected(name, f"the folder cannot be listed: {error.strerror}", UNREADABLE, file=name)


def _source(path: str, *, format: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> File | Folder:
    place = Path(path)
    if path == streams.STDIN or (place.exists() and not place.is_dir() and not place.is_file()):
        known = "jsonl" if format == "auto" else format
        if known not in LINE_FORMATS:
            what = "standard input" if path == streams.STDIN else path
            raise ConfigError(f"{what} cannot be {format}: expected {', '.join(LINE_FORMATS)}")
        return File(path, known)
    if place.is_dir():
        return _folder(place, format, include, exclude)
    if not place.is_file():
        raise ConfigError(f"{path} is not a file or folder: expected a corpus, or - for standard input")
    by_suffix = SUFFIXES.get(suffix(place), "jsonl" if path.startswith("/dev/") else "")
    known = by_suffix if format == "auto" else format
    if not known:
        raise ConfigError(
            f"{path}: the suffix says no format; expected {', '.join(SUFFIXES)} (also .gz, .zst), or --format"
        )
    if not is_readable(known):
        raise MissingExtraError(f"{path} ({_NAMES[known]})", extra="readers")
    return File(path, "jsonl" if known == "beir" else known, place.name)


def _folder(path: Path, format: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> File | Folder:
    if is_collection(path):
        raise ConfigError(f"{path} is a collection, not a corpus: m3-vdb backfill reads one into another")
    beir = next((path / f"{_BEIR}{end}" for end in PACKED if (path / f"{_BEIR}{end}").is_file()), None)
    if format == "beir" and beir is None:
        raise ConfigError(f"{path} has no {_BEIR}: expected a BEIR collection")
    if beir is not None and format in ("auto", "beir"):
        return File(str(beir), "jsonl")
    return Folder(path, format, include, exclude)


def _typed(row: Row, types: Mapping[str, str]) -> Row | Rejected:
    """A row of cells with those values that typed indexes hold; an empty cell is a missing field.

    Args:
        row: its payload is text.
        types: field → type of its index.
    """
    payload: dict[str, Any] = {}
    for name, cell in row.document.payload.items():
        kind = types.get(name)
        value = cell if kind is None else _cell_value(cell, kind)
        if value is not None:
            payload[name] = value
        elif kind is not None and cell.strip():
            expected = _EXPECTED[kind]
            return reject(row, WRONG_TYPE, f"column {name!r} is indexed as {kind}: expected {expected}, got {cell!r}")
    return replace(row, document=replace(row.document, payload=payload))


def _cell_value(cell: str, kind: str) -> Any:  # noqa: ANN401 - a JSON value
    text = cell.strip()
    if kind == "integer":
        value = int(text.partition(".")[0]) if len(text) < 40 and _INTEGER.fullmatch(text) else None
        return value if value is not None and -(2**63) <= value < 2**63 else None
    if kind == "float":
        return number if _FLOAT.fullmatch(text) and abs(number := float(text)) < float("inf") else None
    if kind == "datetime":
        return text if read_date(text) is not None else None
    return _BOOLS.get(text.lower()) if kind == "bool" else cell or None
