"""Paths → one stream of rows: which files, in which order, of which format."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from m3_vdb.errors import ConfigError
from m3_vdb.ingest import streams
from m3_vdb.ingest.csv_rows import csv_rows, tsv_rows
from m3_vdb.ingest.parquet import parquet_rows, require_parquet
from m3_vdb.ingest.readers import Reader, jsonl_rows, text_document
from m3_vdb.ingest.rows import UNREADABLE, Fields, Rejected, Row, place
from m3_vdb.inputs import read_paths

LINE_FORMATS: Final[dict[str, Reader]] = {"jsonl": jsonl_rows, "csv": csv_rows, "tsv": tsv_rows}
SUFFIXES: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}
FORMATS: Final = ("auto", "jsonl", "csv", "tsv", "parquet", "text", "beir")
_BEIR: Final = "corpus.jsonl"
_PACKED: Final = ("", ".gz", ".zst")
_DEFAULT: Final = Fields()


@dataclass(frozen=True, slots=True)
class _Source:
    """One file, or one folder of texts."""

    path: str
    format: str


class Corpus:
    """The rows of files and folders, in the order given; folders in the order of their names. Read as often as liked.

    A file that cannot be read to its end costs one rejection; the files after it are read.

    Args:
        paths: files; ``-`` for standard input; folders of texts (one document a file, its id the relative path), or of
            a BEIR collection (``corpus.jsonl``), or, with a format named, of files of that format.
        format: one of ``FORMATS``; "auto" goes by the suffix, of standard input it is "jsonl".
        fields: which fields of a row make the document.

    Raises:
        ConfigError: a path does not exist or is not one, or its format is unknown.
        MissingExtraError: a format needs a package that is not installed.

    Attributes:
        total_bytes: size of all files as they lie on disk; None if it is not known.
        bytes_read: bytes taken so far.
    """

    def __init__(
        self, paths: Iterable[str | os.PathLike[str]], *, format: str = "auto", fields: Fields = _DEFAULT
    ) -> None:
        if format not in FORMATS:
            raise ConfigError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
        self._fields = fields
        self._sources = [source for path in read_paths("paths", paths) for source in _sources(path, format)]
        if not self._sources:
            raise ConfigError("no path is given: expected files or folders, or - for standard input")
        for source in self._sources:
            _check(source)
        self.bytes_read = 0
        self.total_bytes: int | None = _total(self._sources)

    def __iter__(self) -> Iterator[Row | Rejected]:
        self.bytes_read = 0
        for source in self._sources:
            if source.format == "text" and Path(source.path).is_dir():
                yield from self._texts(Path(source.path))
            else:
                yield from self._file(source)

    def _told(self, count: int) -> None:
        self.bytes_read += count

    def _file(self, source: _Source) -> Iterator[Row | Rejected]:
        line = 0
        try:
            for item in self._rows(source):
                line = item.line or line
                yield item
        except streams.damage() as error:
            yield _unreadable(source.path, line + 1, error)

    def _rows(self, source: _Source) -> Iterator[Row | Rejected]:
        path = Path(source.path)
        if source.format == "parquet":
            yield from parquet_rows(path, self._fields, self._told)
            return
        with streams.open_stream(source.path, self._told) as file:
            if source.format == "text":
                yield text_document(file, source.path, self._fields, id=path.name)
            else:
                yield from LINE_FORMATS[source.format](file, source.path, self._fields)

    def _texts(self, folder: Path) -> Iterator[Row | Rejected]:
        for path in _files(folder):
            name = str(path)
            try:
                if not path.is_file():  # a pipe would never end
                    raise streams.DamagedError("no regular file")
                with streams.open_stream(path, self._told) as file:
                    yield text_document(file, name, self._fields, id=path.relative_to(folder).as_posix())
            except streams.damage() as error:
                yield _unreadable(name, 1, error)


def _unreadable(name: str, line: int, error: Exception) -> Rejected:
    about = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Rejected(place(name, line), f"cannot be read on from here: {about}", UNREADABLE, file=name, line=line)


def _sources(path: str, format: str) -> list[_Source]:
    if path == streams.STDIN:
        known = "jsonl" if format == "auto" else format
        if known not in LINE_FORMATS:
            raise ConfigError(f"standard input cannot be {format}: expected {', '.join(LINE_FORMATS)}")
        return [_Source(path, known)]
    if Path(path).is_dir():
        return _folder_sources(Path(path), format)
    if not Path(path).is_file():
        raise ConfigError(f"{path} is no file or folder: expected a corpus, or - for standard input")
    return [_Source(path, _format_of(path) if format == "auto" else "jsonl" if format == "beir" else format)]


def _folder_sources(folder: Path, format: str) -> list[_Source]:
    beir = next((folder / f"{_BEIR}{end}" for end in _PACKED if (folder / f"{_BEIR}{end}").is_file()), None)
    if format == "beir" and beir is None:
        raise ConfigError(f"{folder} has no {_BEIR}: expected a BEIR collection")
    if beir is not None and format in ("auto", "beir"):
        return [_Source(str(beir), "jsonl")]
    if format in ("auto", "text"):
        return [_Source(str(folder), "text")]
    found = [path for path in _files(folder) if path.is_file() and SUFFIXES.get(_suffix(path)) == format]
    if not found:
        raise ConfigError(f"{folder} has no file of the format {format}")
    return [_Source(str(path), format) for path in found]


def _format_of(path: str) -> str:
    found = SUFFIXES.get(_suffix(Path(path)))
    if found is None:
        raise ConfigError(
            f"{path}: the suffix says no format; expected {', '.join(SUFFIXES)} (also .gz, .zst), or --format"
        )
    return found


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in _PACKED[1:] else path.suffix


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder and not hidden, sorted, so that every run reads the same order."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in sorted(names) if not name.startswith("."))


def _check(source: _Source) -> None:
    if source.path == streams.STDIN or Path(source.path).is_dir():
        return
    if source.format == "parquet":
        require_parquet()
    if Path(source.path).suffix == ".zst":
        streams.require_zstd()
    try:
        with Path(source.path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{source.path} cannot be read: {error.strerror}") from None


def _total(sources: list[_Source]) -> int | None:
    if any(source.path == streams.STDIN or Path(source.path).is_dir() for source in sources):
        return None
    return sum(map(os.path.getsize, (source.path for source in sources)))
