"""The list of sources: where a new one is added.

A source is a function ``(cache, languages) -> Iterator[Edition]`` that fetches what it needs into ``cache`` and
yields what it has, language by language, and a second function that says which versions it read, for the manifest.
All sources but the package descriptions are packages full of pages, and differ only in parser and rules.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from . import catalogs, ddtp, docbook, fetch, libreoffice, mallard, manpages, parsed, texts
from .pages import Kind
from .parsed import Parser, code_key, file_sha256, write_rows
from .records import BOOK, Record
from .texts import Edition, Shelving, Translation

Versions = Mapping[str, str]

HANDBOOK = Kind("handbook", BOOK.rstrip("/"), 0.60, is_book=True)
GUIDE = Kind("installation-guide", "guide", 0.60, is_book=True)
REFERENCE = Kind("debian-reference", "reference", 0.60, is_book=True)
REFERENCE_LANGUAGES = ("de", "en", "es", "fr", "id", "it", "ja", "pt", "zh-cn")

_PAGES = ("pages", "records", "languages")
HELP_PARSER = Parser(libreoffice.SUFFIX, libreoffice.parse, ("libreoffice", *_PAGES))
MALLARD_PARSER = Parser(mallard.SUFFIX, mallard.parse, ("mallard", *_PAGES))
BOOK_PARSER = Parser(docbook.SUFFIX, docbook.parse, ("docbook", *_PAGES))
MAN_PARSER = Parser(manpages.SUFFIX, manpages.parse, ("manpages", "troff", *_PAGES))


@dataclass(frozen=True, slots=True)
class Source:
    """One source: ``editions`` yields what it has, ``versions`` names what that was read from."""

    name: str
    editions: Callable[[Path, Sequence[str]], Iterator[Edition]]
    versions: Callable[[Path, Sequence[str]], Versions]


def _fetch(cache: Path, languages: Sequence[str], wanted: Sequence[str]) -> list[Path]:
    """Those of the packages that exist, fetched."""
    fetch.fetch_indexes(cache, ddtp.codes(languages))
    known = fetch.known_packages(cache)
    return list(fetch.download(cache, [name for name in wanted if name in known]).values())


def _package_versions(debs: Sequence[Path]) -> Versions:
    return {deb.name.split("_")[0]: fetch.package_version(deb) for deb in debs}


@dataclass(frozen=True, slots=True)
class Library:
    """A source that consists of packages full of pages.

    Attributes:
        kind: name and rules.
        packages: which packages have the given languages, English always among them.
        parser: how a package is read.
        shelve: how pages become long texts, if they do.
        has_records: whether each page is also a record.
        has_paragraphs: whether the paragraphs of two languages have the same names.
    """

    kind: Kind
    packages: Callable[[Sequence[str]], Sequence[str]]
    parser: Parser
    shelve: Shelving | None = None
    has_records: bool = True
    has_paragraphs: bool = False

    def fetch(self, cache: Path, languages: Sequence[str]) -> list[Path]:
        """The packages that exist, fetched."""
        return _fetch(cache, languages, self.packages(languages))

    def editions(self, cache: Path, languages: Sequence[str]) -> Iterator[Edition]:
        """Yield what the packages have, language by language."""
        folders = parsed.parse_packages(cache, self.fetch(cache, languages), self.parser)
        english = parsed.load(folders, "en")
        for lang in sorted(set(parsed.languages(folders)) & set(languages)):
            pages = english if lang == "en" else parsed.load(folders, lang)
            shelved = texts.long_texts(pages, english, lang, self.kind, self.shelve) if self.shelve else ()
            yield Edition(
                self.kind.source,
                lang,
                list(texts.records(pages, english, lang, self.kind)) if self.has_records else [],
                list(shelved),
                list(texts.paragraphs(pages, english, self.kind)) if self.has_paragraphs and lang != "en" else [],
            )

    def versions(self, cache: Path, languages: Sequence[str]) -> Versions:
        """Package to version."""
        return _package_versions(self.fetch(cache, languages))


def help_packages(languages: Sequence[str]) -> list[str]:
    """The LibreOffice help packages of ``languages`` and of English."""
    return [libreoffice.package_name(lang) for lang in sorted({"en", *languages})]


def _reference_packages(languages: Sequence[str]) -> list[str]:
    return [f"debian-reference-{lang}" for lang in REFERENCE_LANGUAGES if lang == "en" or lang in languages]


def _man_packages(languages: Sequence[str]) -> list[str]:
    known = {lang.split("-")[0] for lang in languages}
    return [*manpages.ENGLISH, *(f"manpages-{lang}" for lang in manpages.TRANSLATED if lang in known)]


LIBRARIES = (
    Library(libreoffice.KIND, help_packages, HELP_PARSER, texts.by_volume, has_paragraphs=True),
    Library(mallard.KIND, lambda languages: [mallard.PACKAGE], MALLARD_PARSER),
    Library(HANDBOOK, lambda languages: ["debian-handbook"], BOOK_PARSER, texts.by_chapter),
    Library(GUIDE, lambda languages: ["installation-guide-amd64"], BOOK_PARSER, texts.by_chapter, has_records=False),
    Library(REFERENCE, _reference_packages, BOOK_PARSER, texts.by_chapter, has_records=False),
    Library(manpages.KIND, _man_packages, MAN_PARSER, texts.by_page, has_records=False),
)


def _ddtp_versions(cache: Path, languages: Sequence[str]) -> Versions:
    """Checksums of the index files, named by suite and language: they carry no version of their own."""
    lists = fetch.fetch_indexes(cache, ddtp.codes(languages))
    names = {code.replace("_", "%5f") for code in ddtp.codes(languages)}
    paths = [path for path in sorted(lists.glob("*_i18n_Translation-*")) if path.name.split("Translation-")[1] in names]
    paths += sorted(lists.glob("*_Packages"))
    return {path.name.partition("_dists_")[2]: file_sha256(path) for path in paths}


def _ddtp_editions(cache: Path, languages: Sequence[str]) -> Iterator[Edition]:
    lists = fetch.fetch_indexes(cache, ddtp.codes(languages))
    inputs = [*languages, *_ddtp_versions(cache, languages).values()]
    kept = cache / "parsed" / f"ddtp-{code_key(('ddtp', 'deb822', 'records'), *inputs)}.jsonl"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        write_rows(partial, map(astuple, ddtp.records(lists, languages)))
        partial.replace(kept)
    by_lang: dict[str, list[Record]] = {}
    with kept.open(encoding="utf-8") as lines:
        for concept, source, lang, title, keywords, text in map(json.loads, lines):
            by_lang.setdefault(lang, []).append(Record(concept, source, lang, title, tuple(keywords), text))
    for lang in sorted(by_lang):
        yield Edition(ddtp.SOURCE, lang, by_lang.pop(lang))


def _catalog_packages(cache: Path, languages: Sequence[str]) -> list[Path]:
    return _fetch(cache, languages, [catalogs.package_name(lang) for lang in sorted({*languages} - {"en"})])


def _catalog_editions(cache: Path, languages: Sequence[str]) -> Iterator[Edition]:
    for deb in _catalog_packages(cache, languages):
        by_lang: dict[str, list[Translation]] = {}
        for lang, message in catalogs.messages(fetch.read_package(deb, catalogs.SUFFIX)):
            by_lang.setdefault(lang, []).append(message)
        for lang in sorted(by_lang.keys() & set(languages)):
            yield Edition(catalogs.SOURCE, lang, messages=by_lang[lang])


SOURCES: tuple[Source, ...] = (
    Source(ddtp.SOURCE, _ddtp_editions, _ddtp_versions),
    Source(
        catalogs.SOURCE,
        _catalog_editions,
        lambda cache, languages: _package_versions(_catalog_packages(cache, languages)),
    ),
    *(Source(library.kind.source, library.editions, library.versions) for library in LIBRARIES),
)
