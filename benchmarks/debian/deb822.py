"""The text format of apt's index files: stanzas of fields, and the inner format of a description.

Only what the index files use (Debian policy 5.1 and 5.6.13): no comments, no signatures.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .records import flow, tidy

_BULLET = re.compile(r"\s*[-*+o\u2022\u00b7]\s")


@dataclass(frozen=True, slots=True)
class Description:
    """One description: ``short`` is a line, ``long`` the paragraphs and list items, one string each."""

    package: str
    short: str
    long: tuple[str, ...]


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the stanzas of a deb822 file as field to value; continuation lines keep their leading blank."""
    stanza: dict[str, str] = {}
    field = ""
    for raw in lines:
        line = raw.rstrip("\r\n")
        if not line.strip():
            if stanza:
                yield stanza
            stanza, field = {}, ""
        elif line[0] in " \t":
            if field:
                stanza[field] += "\n" + line
        else:
            field, _, value = line.partition(":")
            stanza[field] = value.strip()
    if stanza:
        yield stanza


def parse_description(value: str, *, package: str = "") -> Description:
    """Split a ``Description-xx`` field into its short line and its paragraphs (Debian policy 5.6.13)."""
    short, *rest = value.split("\n")
    blocks: list[str] = []
    fresh = True
    for line in rest:
        text = tidy(line)
        if text in ("", "."):
            fresh = True
            continue
        # Two leading blanks mean "display as it is": a list item or a table line, never part of the flow.
        if fresh or _BULLET.match(line) or line.startswith("  "):
            blocks.append("")
        blocks[-1] += f"\n{text}"
        fresh = False
    return Description(package, tidy(short), tuple(map(flow, blocks)))
