"""TREC's mark-up: documents between ``<DOC>`` and ``</DOC>``, topics between ``<top>`` and ``</top>``.

It is SGML that no parser accepts: elements may be left open, and ``<`` and ``&`` may stand for themselves.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from m3_vdb.evaluation.files import read_text
from m3_vdb.jsonl import line_error
from m3_vdb.types import Document

DOCNO: Final = re.compile(r"<docno>\s*([^\s<]+)\s*</docno>", re.IGNORECASE)
TITLE: Final = re.compile(r"<(title|headline|head|hl)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
TEXT: Final = re.compile(r"<text>(.*?)</text>", re.IGNORECASE | re.DOTALL)
TAG: Final = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>]*>", re.DOTALL)
NUMBER: Final = re.compile(r"<num>\s*(?:number:)?\s*([^\s<]+)", re.IGNORECASE)
TOPIC: Final = re.compile(r"<title>\s*(?:topic:)?\s*([^<]*)", re.IGNORECASE)


def read_documents(path: Path) -> Iterator[tuple[int, Document]]:
    """(line number from 0, document) of every block.

    The id is that of ``<DOCNO>``, the title of ``<TITLE>`` or ``<HEADLINE>``, the text of ``<TEXT>`` or all the rest.

    Raises:
        ConfigError: the file cannot be read.
        DocumentError: something stands outside of documents, or one is not closed or has no id.
    """
    for index, block in _blocks(path, "DOC"):
        number = DOCNO.search(block)
        if number is None:
            raise line_error(path, index, "a <DOC> without <DOCNO>…</DOCNO>")
        title = TITLE.search(block)
        texts = TEXT.findall(block) or [TITLE.sub(" ", DOCNO.sub(" ", block), count=1)]
        yield index, Document(number[1], _plain("\n".join(texts)), _plain(title[2]) if title else "")


def read_topics(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number from 0, id from ``<num>``, query from ``<title>``) of every topic.

    Raises:
        ConfigError: the file cannot be read.
        DocumentError: something stands outside of topics, or one is not closed or lacks a part.
    """
    for index, block in _blocks(path, "top"):
        number, title = NUMBER.search(block), TOPIC.search(block)
        if number is None or title is None or not title[1].strip():
            raise line_error(path, index, "a <top> without <num> or <title>")
        yield index, number[1], _plain(title[1])


def _blocks(path: Path, tag: str) -> Iterator[tuple[int, str]]:
    """(number of the line where it begins, what is between the tags) of every block."""
    opening = re.compile(rf"\s*<{tag}(?:\s[^>]*)?>", re.IGNORECASE)
    closing = re.compile(rf"</{tag}>\s*", re.IGNORECASE)
    start, lines = -1, list[str]()
    for index, line in read_text(path):
        begins = opening.match(line)
        if (start < 0) != bool(begins):
            found = f"a second <{tag}> before </{tag}>" if begins else f"{line.strip()[:60]!r} outside of <{tag}>"
            raise line_error(path, index, f"{found}")
        if begins:
            start, lines = index, []
        head, *rest = closing.split(line[begins.end() :] if begins else line, maxsplit=1)
        lines.append(head)
        if rest:
            if rest[0]:
                raise line_error(path, index, f"{rest[0][:60]!r} behind </{tag}>")
            yield start, "\n".join(lines)
            start = -1
    if start >= 0:
        raise line_error(path, start, f"a <{tag}> without </{tag}>")


def _plain(text: str) -> str:
    """Text without tags, entities and surplus white space, in its lines."""
    lines = html.unescape(TAG.sub(" ", text)).splitlines()
    return "\n".join(short for line in lines if (short := " ".join(line.split())))
