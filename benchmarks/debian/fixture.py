"""``python -m benchmarks.debian.fixture``: the small multilingual text file that is committed with the tests.

Help pages of LibreOffice (MPL-2.0), the same pages in every language where they exist, and the articles of the
Declaration of Human Rights (package ``udhr``, MIT) for languages that LibreOffice does not speak. Package
descriptions state no licence and are never in it. All help pages are of the test side of the split, so that a model
trained on this package's rows has not read them. Lines: ``{"id", "lang", "title", "text", "source"}``.
"""

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from . import udhr
from .fetch import FetchError
from .help_pages import LIBREOFFICE
from .records import Record, digest, is_query, key, side_of, weight
from .sources import SOURCES
from .tasks import write_jsonl

HELP_LANGUAGES = (
    *("cs", "de", "el", "en", "es", "fr", "hu", "id", "it", "ja", "km", "ko", "nl", "pl", "pt-br", "ru", "tr"),
    *("vi", "zh-cn"),
)

UDHR_LANGUAGES = ("ar", "bn", "en", "fa", "he", "hi", "sw", "th", "zh-cn")

PAGES = 36
"""Pages per language; with fewer, chance rankings look good, and more would not fit the size limit."""

MAX_CHARS = 500
MIN_WEIGHT, MAX_WEIGHT = 160, 1_600
"""Pages to choose from: long enough to say something, short enough that little is cut off."""

MAX_BYTES = 900_000

_HELP = next(source for source in SOURCES if source.name == LIBREOFFICE.name)
_SENTENCE_END = re.compile("[.!?\u061f](?=\\s)|[\u3002\uff01\uff1f\u0964\u17d4]|\n")
"""Full stops and the like: Latin and Arabic ones before a blank, then Chinese, Devanagari and Khmer ones."""


def cut(text: str, limit: int = MAX_CHARS) -> str:
    """``text`` up to the last end of a sentence within ``limit`` characters, or of a word if there is none."""
    if len(text) <= limit:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, limit + 1) if match.end() <= limit]
    if ends and ends[-1] >= limit // 3:
        return text[: ends[-1]].rstrip()
    blank = text.rfind(" ", 0, limit)
    return text[: blank if blank > 0 else limit].rstrip()


def choose_pages(by_lang: Mapping[str, Mapping[str, Record]]) -> dict[str, list[Record]]:
    """Per language the test pages that most languages share, no two with the same title."""
    shared = Counter(
        concept
        for pages in by_lang.values()
        for concept, page in pages.items()
        if side_of(concept) == "test" and is_query(page.title) and MIN_WEIGHT <= weight(page.text) <= MAX_WEIGHT
    )
    order = sorted(shared, key=lambda concept: (-shared[concept], digest("fixture", concept)))
    chosen: dict[str, list[Record]] = {}
    for lang, pages in by_lang.items():
        titles: dict[str, Record] = {}
        for concept in order:
            page = pages.get(concept)
            if page is not None and is_query(page.title) and weight(page.text) >= MIN_WEIGHT:
                titles.setdefault(key(page.title), page)
        chosen[lang] = sorted(list(titles.values())[:PAGES], key=lambda page: page.concept_id)
    return chosen


def help_lines(cache: Path) -> Iterator[dict[str, object]]:
    """The fixture's lines from the LibreOffice help."""
    editions = _HELP.editions(cache, HELP_LANGUAGES)
    by_lang = {edition.lang: {record.concept_id: record for record in edition.records} for edition in editions}
    for lang, chosen in choose_pages(by_lang).items():
        for page in chosen:
            identifier = f"lo/{lang}/{page.concept_id.removeprefix('lo/')}"
            line = {"id": identifier, "lang": lang, "title": page.title, "text": cut(page.text)}
            yield {**line, "source": LIBREOFFICE.name}


def udhr_lines(package: Mapping[str, bytes]) -> Iterator[dict[str, object]]:
    """The fixture's lines from the Declaration of Human Rights."""
    for lang in UDHR_LANGUAGES:
        articles = udhr.parse_articles(package[f"declaration/{udhr.EDITIONS[lang]}.html"])
        for number, (title, text) in sorted(articles.items()):
            line = {"id": f"udhr/{lang}/{number:02}", "lang": lang, "title": title, "text": cut(text)}
            yield {**line, "source": "udhr"}


def notice(versions: Mapping[str, str], udhr_licence: str) -> str:
    """The NOTICE that belongs beside the fixture: where each line comes from, and under which terms."""
    listed = "\n".join(f"  {name} {version}" for name, version in versions.items())
    return (
        "multilingual.jsonl is made by `python -m benchmarks.debian.fixture` from other people's text:\n\n"
        '* Lines with "source": "libreoffice" are excerpts of the LibreOffice help, copyright the LibreOffice\n'
        "  contributors, under the Mozilla Public License 2.0 (https://www.mozilla.org/MPL/2.0/). The excerpts were\n"
        "  taken out of the HTML pages, cleaned of markup and shortened; they remain under MPL-2.0. The source form\n"
        "  is at https://git.libreoffice.org/help. They were read from these Debian packages:\n"
        f"{listed}\n\n"
        '* Lines with "source": "udhr" are articles of the Universal Declaration of Human Rights (United Nations,\n'
        f"  1948), some shortened, as packaged in the npm package udhr {udhr.VERSION}\n"
        "  (https://github.com/wooorm/udhr), under the licence that comes with it:\n\n"
        f"{textwrap.indent(udhr_licence, '    ')}"
    )


def main(
    out: Annotated[Path, typer.Option(help="The file to write; a NOTICE is written beside it.")] = Path(
        "tests/fixtures/multilingual.jsonl"
    ),
    cache: Annotated[Path, typer.Option(help="Folder for fetched packages.")] = Path("data/cache"),
) -> None:
    """Make the committed fixture anew."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        declaration = udhr.read_package(cache)
        lines = [*help_lines(cache), *udhr_lines(declaration)]
        versions = _HELP.versions(cache, HELP_LANGUAGES)
    except FetchError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    write_jsonl(out, lines)
    licence = declaration["license"].decode("utf-8")  # has to accompany copies
    out.with_name("NOTICE").write_text(notice(versions, licence), encoding="utf-8", newline="\n")
    size = out.stat().st_size
    typer.echo(f"{out}: {len(lines)} lines, {size} bytes; {dict(Counter(str(line['lang']) for line in lines))}")
    if size > MAX_BYTES:
        typer.echo(f"error: more than {MAX_BYTES} bytes", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
