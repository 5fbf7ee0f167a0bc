"""Keeps what the parsers made of a package, so that a second build reads it instead of parsing again.

A package's pages are stored under a name that depends on the package's content and on the parser's source code: a
new version of either is parsed anew, and nothing has to be deleted by hand. Packages are parsed on all cores.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from .fetch import read_package
from .pages import Page, Pages

Files = Iterable[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Parser:
    """How a package is read.

    Attributes:
        suffix: the end of the names of the files in it that are wanted.
        parse: turns these files into language and page.
        code: the source files that the result depends on.
    """

    suffix: str
    parse: Callable[[Files], Iterator[tuple[str, Page]]]
    code: tuple[str, ...]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def code_key(names: Iterable[str], *inputs: str) -> str:
    """A short name for ``inputs`` as read by the given modules of this package."""
    digest = hashlib.sha256("\x00".join(inputs).encode())
    for name in sorted(names):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def write_rows(path: Path, rows: Iterable[object]) -> None:
    """Write one JSON value per line."""
    with path.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def _parse_into(deb: Path, folder: Path, parser: Parser) -> None:
    """Parse one package into a file per language; the folder appears when it is complete."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    by_lang: dict[str, list[object]] = {}
    for lang, page in parser.parse(read_package(deb, parser.suffix)):
        by_lang.setdefault(lang, []).append([page.path, page.title, page.keywords, dict(page.blocks)])
    for lang, rows in by_lang.items():
        write_rows(partial / f"{lang}.jsonl", rows)
    partial.replace(folder)


def parse_packages(cache: Path, debs: Sequence[Path], parser: Parser) -> list[Path]:
    """Parse packages that are not in the cache yet; return the folder of each."""
    folders = [cache / "parsed" / f"{deb.name.split('_')[0]}-{code_key(parser.code, file_sha256(deb))}" for deb in debs]
    missing = [(deb, folder) for deb, folder in zip(debs, folders, strict=True) if not folder.is_dir()]
    if len(missing) == 1:
        _parse_into(*missing[0], parser)
    elif missing:
        with ProcessPoolExecutor(min(len(missing), os.cpu_count() or 1)) as pool:
            list(pool.map(_parse_into, *zip(*missing, strict=True), repeat(parser)))
    return folders


def languages(folders: Iterable[Path]) -> list[str]:
    """The languages that the parsed packages have."""
    return sorted({path.stem for folder in folders for path in folder.glob("*.jsonl")})


def load(folders: Iterable[Path], lang: str) -> Pages:
    """The pages of one language in all parsed packages."""
    pages: dict[str, Page] = {}
    for folder in folders:
        path = folder / f"{lang}.jsonl"
        if not path.is_file():
            continue
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                name, title, keywords, blocks = json.loads(line)
                pages.setdefault(name, Page(name, title, tuple(keywords), blocks))
    return pages
