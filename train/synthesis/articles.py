"""Long articles: a streaming reader, and a sample that depends on nothing but the seed and the articles' ids.

A line is ``{"text", "id"?, "title"?, "lang"?}``, as ``m3-vdb ingest`` takes it; further fields are ignored. The files
are read again whenever the articles are needed, so memory holds a number for each and no text.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from m3_vdb.errors import ConfigError, DocumentError
from train.data.lines import check_strings, parse_object, read_lines
from train.synthesis.config import SynthesizeConfig


@dataclass(frozen=True, slots=True)
class Article:
    """One article.

    Attributes:
        id: unique among all articles.
        text: the body, from which passages are drawn.
        title: may be empty.
        lang: language code, empty if unknown.
    """

    id: str
    text: str
    title: str = ""
    lang: str = ""

    @property
    def document(self) -> str:
        """What a search engine indexes: the title above the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Sample:
    """The articles that were chosen.

    Attributes:
        chosen: their ranks in the draw.
        read: articles read, left-out ones included.
        rejected: reason → lines that were left out; articles that merely were not drawn are not among them.
    """

    chosen: frozenset[int]
    read: int
    rejected: Mapping[str, int]

    def articles(self, config: SynthesizeConfig) -> Iterator[Article]:
        """The chosen articles, in the order of the files."""
        return (article for rank, article in _read(config, Counter()) if rank in self.chosen)


def digest(*parts: object) -> int:
    """64 bits that depend on all parts and on nothing else; the same on every machine."""
    data = json.dumps([str(part) for part in parts]).encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def draw_sample(config: SynthesizeConfig) -> Sample:
    """Choose articles of suitable length; which ones does not depend on the order of files and lines.

    Raises:
        DocumentError: a line is not an article or repeats an id, and ``on_bad_row`` is "stop".
        ConfigError: a file cannot be read, or no article is left.
    """
    read, rejected, suitable = 0, Counter[str](), list[int]()
    for rank, article in _read(config, rejected):
        read += 1
        if len(article.text) < config.min_characters:
            rejected["article below min_characters"] += 1
        elif len(article.text) > config.max_characters:
            rejected["article above max_characters"] += 1
        else:
            suitable.append(rank)
    if not suitable:
        raise ConfigError(
            f"no article of {config.min_characters} to {config.max_characters} characters among {read}: "
            f"check min_characters and max_characters"
        )
    drawn = heapq.nsmallest(config.max_articles, suitable) if config.max_articles else suitable
    return Sample(frozenset(drawn), read, rejected)


def parse_article(line: bytes, path: Path, index: int) -> Article:
    """Read one line.

    Raises:
        DocumentError: it is not an article; file and line are in the message.
    """
    fields = parse_object(line, path, index)
    where = f"{path}, line {index + 1}"
    text, title, lang = fields.get("text"), fields.get("title") or "", fields.get("lang") or ""
    if not isinstance(text, str) or not text.strip() or not isinstance(title, str) or not isinstance(lang, str):
        raise DocumentError(
            f'{where}: expected {{"text": str}} that is not blank, with optional strings "id", "title" and "lang"',
            index=index,
        )
    name = fields.get("id", fields.get("_id"))  # "_id" is BEIR's name for it
    if name is None:
        name = f"{digest(title, text, lang):016x}"
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name:
        raise DocumentError(f"{where}: 'id' must be a non-empty string or a whole number, got {name!r}", index=index)
    check_strings([name, title, lang, text], where, index)
    return Article(name, text, title, lang)


def _read(config: SynthesizeConfig, rejected: Counter[str]) -> Iterator[tuple[int, Article]]:
    """(rank in the draw, article) of every good line."""
    seen: set[int] = set()
    for path in config.articles:
        for index, line in read_lines(path):
            try:
                article = parse_article(line, path, index)
                rank = digest("article", config.seed, article.id)
                if rank in seen:
                    reason = f"id {article.id!r} was used before: ids are unique over all files"
                    raise DocumentError(f"{path}, line {index + 1}: {reason}", index=index)
            except DocumentError as error:
                if config.on_bad_row == "stop":
                    raise DocumentError(f"{error} (on_bad_row=skip leaves such lines out)", index=index) from None
                rejected["bad row"] += 1
                continue
            seen.add(rank)
            yield rank, article
