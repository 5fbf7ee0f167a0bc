"""The sources: where a new one is added.

A source has two functions of ``(cache, languages)``: one fetches what it needs into the cache and yields what it has,
language by language, the other says which versions it read, for the manifest. Most are Debian packages full of pages,
which are parsed on all cores.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, repeat
from pathlib import Path

from . import ddtp, fetch
from .docbook import GUIDE, HANDBOOK, REFERENCE
from .help_pages import GNOME, LIBREOFFICE, STRINGS, STRINGS_PATTERN, libreoffice_strings
from .manpages import MANPAGES
from .pages import Files, Page, PageSource, edition
from .records import Edition, Translation

Languages = Sequence[str]


@dataclass(frozen=True, slots=True)
class Source:
    """One source: ``editions`` yields what it has, ``versions`` names what that was read from."""

    name: str
    editions: Callable[[Path, Languages], Iterator[Edition]]
    versions: Callable[[Path, Languages], Mapping[str, str]]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _fetch_indexes(cache: Path, languages: Languages) -> Path:
    """Apt's lists with the descriptions in ``languages`` and in English, which they are compared with."""
    return fetch.fetch_indexes(cache, [ddtp.code(lang) for lang in sorted({"en", *languages})])


def _packaged(
    name: str,
    packages: Callable[[Languages], Sequence[str]],
    read: Callable[[Sequence[Path], Languages], Iterator[Edition]],
) -> Source:
    """A source in Debian packages: ``packages`` names those of some languages, ``read`` yields what is in them."""

    def fetched(cache: Path, languages: Languages) -> list[Path]:
        _fetch_indexes(cache, languages)
        return fetch.fetch_packages(cache, packages(languages))

    return Source(
        name,
        lambda cache, languages: read(fetched(cache, languages), languages),
        lambda cache, languages: fetch.package_versions(fetched(cache, languages)),
    )


def _pages(
    deb: Path, pattern: re.Pattern[str], parse: Callable[[Files], Iterator[tuple[str, Page]]]
) -> list[tuple[str, Page]]:
    return list(parse(fetch.read_package(deb, pattern)))


def _page_editions(source: PageSource, debs: Sequence[Path], languages: Languages) -> Iterator[Edition]:
    by_lang: dict[str, dict[str, Page]] = {}
    with ProcessPoolExecutor() as pool:
        parsed = pool.map(_pages, debs, repeat(source.pattern), repeat(source.parse))
        for lang, page in chain.from_iterable(parsed):
            by_lang.setdefault(lang, {}).setdefault(page.path, page)
    english = by_lang.get("en", {})
    for lang in sorted(by_lang.keys() & set(languages)):
        yield edition(by_lang.pop(lang), english, lang, source)


def _string_editions(debs: Sequence[Path], languages: Languages) -> Iterator[Edition]:
    for deb in debs:
        by_lang: dict[str, list[Translation]] = {}
        for lang, message in libreoffice_strings(fetch.read_package(deb, STRINGS_PATTERN)):
            by_lang.setdefault(lang, []).append(message)
        for lang in sorted(by_lang.keys() & set(languages)):
            yield Edition(lang, messages=by_lang[lang])


def _description_versions(cache: Path, languages: Languages) -> dict[str, str]:
    """Checksums of the index files, named by suite and language: they carry no version of their own."""
    lists = _fetch_indexes(cache, languages)
    paths = sorted({path for lang in ("en", *languages) for path in ddtp.index_files(lists, lang)})
    paths += sorted(lists.glob("*_Packages"))
    return {path.name.partition("_dists_")[2]: file_sha256(path) for path in paths}


def _description_editions(cache: Path, languages: Languages) -> Iterator[Edition]:
    found = ddtp.records(_fetch_indexes(cache, languages), languages)
    for lang, records in groupby(found, lambda record: record.lang):
        yield Edition(lang, list(records))


SOURCES: tuple[Source, ...] = (
    Source(ddtp.SOURCE, _description_editions, _description_versions),
    _packaged(
        STRINGS,
        lambda languages: [f"libreoffice-l10n-{lang}" for lang in sorted({*languages} - {"en"})],
        _string_editions,
    ),
    *(
        _packaged(one.name, one.packages, partial(_page_editions, one))
        for one in (LIBREOFFICE, GNOME, HANDBOOK, GUIDE, REFERENCE, MANPAGES)
    ),
)
