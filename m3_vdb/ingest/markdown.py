"""A Markdown file → title and text: front matter is not text, and the heading that begins a text is its title."""

from __future__ import annotations

import re
from typing import Final

_FRONT_MATTER: Final = re.compile(
    r"\s*(?P<mark>---|\+\+\+)[ \t]*\r?\n(?P<fields>.*?)^(?P=mark)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE
)
"""YAML between lines of ---, or TOML between lines of +++."""
_FIELD: Final = re.compile(r"[\w.-]+[ \t]*[:=](?:[ \t]|$)|#|[ \t]|- |\[|$")
"""How a line of front matter begins; else the --- are lines of the text."""
_TITLE: Final = re.compile(r"^title[ \t]*[:=][ \t]*(?P<title>.*?)[ \t]*\r?$", re.MULTILINE | re.IGNORECASE)
_HEADING: Final = re.compile(
    r"^ {0,3}#{1,6}[ \t]+(?P<hash>.+?)(?:[ \t]+#*)?[ \t]*\r?$"
    r"|^(?P<line>[^\s#>|`*+-].*?)[ \t]*\r?\n {0,3}(?:=+|-+)[ \t]*\r?$",
    re.MULTILINE,
)
_FENCE: Final = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1|\Z)", re.DOTALL | re.MULTILINE)


def split_markdown(text: str) -> tuple[str, str]:
    """(title, text) of a Markdown file.

    The title is that of the front matter, else the first heading. Front matter is left out of the text, and so is a
    heading that is the title and begins the text: title and text are encoded together.
    """
    title, body = "", text
    front = _FRONT_MATTER.match(text)
    if front and all(map(_FIELD.match, front["fields"].splitlines())):
        body = text[front.end() :].lstrip("\r\n")
        named = _TITLE.search(front["fields"])
        title = _scalar(named["title"]) if named else ""
    heading = _HEADING.search(_FENCE.sub(lambda code: re.sub(r"[^\r\n]", "`", code[0]), body))
    if heading is None:
        return title, body
    begins = not body[: heading.start()].strip()
    found = (heading["hash"] or heading["line"]).strip()
    if begins and title in ("", found):
        body = body[heading.end() :].lstrip("\r\n")
    return title or found, body


def _scalar(text: str) -> str:
    """A YAML or TOML string; "" for what is longer than a line."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].replace("''", "'") if text[0] == "'" else re.sub(r"\\(.)", r"\1", text[1:-1])
    return "" if text.startswith(("|", ">")) else re.sub(r"\s+#.*", "", text)
