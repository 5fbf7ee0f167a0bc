"""The list of sources: where a new one is added.

A source is a function ``(cache, languages) -> Iterator[Record]`` that fetches what it needs into ``cache`` and
yields its records, and a second function that says which versions it read, for the manifest.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import ddtp, fetch, libreoffice
from .records import Record


@dataclass(frozen=True, slots=True)
class Source:
    """One source: ``records`` yields its records, ``versions`` names what they were read from."""

    name: str
    records: Callable[[Path, Sequence[str]], Iterator[Record]]
    versions: Callable[[Path, Sequence[str]], Mapping[str, str]]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _indexes(cache: Path, languages: Sequence[str]) -> Path:
    # English always: it is what translations are compared with.
    return fetch.fetch_indexes(cache, [ddtp.ddtp_code(lang) for lang in sorted({"en", *languages})])


def _ddtp_records(cache: Path, languages: Sequence[str]) -> Iterator[Record]:
    return ddtp.records(_indexes(cache, languages), languages)


def _ddtp_versions(cache: Path, languages: Sequence[str]) -> dict[str, str]:
    """Checksums of the index files, named by suite and language: they carry no version of their own."""
    lists = _indexes(cache, languages)
    codes = {ddtp.ddtp_code(lang).replace("_", "%5f") for lang in {"en", *languages}}
    paths = [path for path in sorted(lists.glob("*_i18n_Translation-*")) if path.name.split("Translation-")[1] in codes]
    paths += sorted(lists.glob("*_Packages"))
    return {path.name.partition("_dists_")[2]: file_sha256(path) for path in paths}


def help_packages(cache: Path, languages: Sequence[str]) -> dict[str, Path]:
    """The LibreOffice help packages of ``languages`` (and always English), fetched; language to file."""
    _indexes(cache, languages)
    known = fetch.known_packages(cache, libreoffice.PACKAGE)
    wanted = {lang: libreoffice.package_name(lang) for lang in sorted({"en", *languages})}
    wanted = {lang: name for lang, name in wanted.items() if name in known}
    debs = fetch.download(cache, list(wanted.values()))
    return {lang: debs[name] for lang, name in wanted.items()}


def _help_records(cache: Path, languages: Sequence[str]) -> Iterator[Record]:
    debs = help_packages(cache, languages)
    english = libreoffice.parse_pages(fetch.read_package(debs["en"], ".html"))
    for lang in sorted(set(debs) & set(languages)):
        pages = english if lang == "en" else libreoffice.parse_pages(fetch.read_package(debs[lang], ".html"))
        yield from libreoffice.records(lang, pages, english)


def _help_versions(cache: Path, languages: Sequence[str]) -> dict[str, str]:
    debs = help_packages(cache, languages).values()
    return {deb.name.split("_")[0]: fetch.package_version(deb) for deb in debs}


SOURCES: tuple[Source, ...] = (
    Source(ddtp.SOURCE, _ddtp_records, _ddtp_versions),
    Source(libreoffice.SOURCE, _help_records, _help_versions),
)
