r"""Manual pages as long documents: packages ``manpages``, ``manpages-dev`` and the translations ``manpages-{lang}``.

A page's first section names it and says in one line what it is for. That line is the query; the section is not part
of the text. Of troff, man(7) and mdoc(7) as much is understood as reading prose takes: headings, paragraphs, tagged
lists, fonts and special characters. Definitions of macros, conditions and the layout of tables are left out: in manual
pages they serve typesetting, not the text.
"""

import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from .pages import Page, PageSource, by_page, number_blocks, parse_each
from .records import flow, tidy

_ENGLISH = ("manpages", "manpages-dev")
_TRANSLATED = ("de", "es", "fr", "ja", "pl", "ru", "uk", "zh")
"""What follows ``manpages-`` in the name of a package."""
# The traditional script of Chinese is converted from the simplified one: the same text twice.
_FILE = re.compile(r"usr/share/man/(?!zh_TW/)(?:(?P<lang>[^/]+)/)?man\d\w*/(?P<path>[^/]+)\.gz$")
_DASH = re.compile(r"\s(?:-+|\u2013|\u2014|\u2212)\s+")

_SPECIAL = {
    **{"lq": "\u201c", "rq": "\u201d", "oq": "\u2018", "cq": "\u2019", "dq": '"', "aq": "'", "Fo": "\u00ab"},
    **{"Fc": "\u00bb", "em": "\u2014", "en": "\u2013", "hy": "-", "mi": "-", "bu": "\u2022", "co": "\u00a9"},
    **{"rg": "\u00ae", "tm": "\u2122", "ti": "~", "ha": "^", "rs": "\\", "ga": "`", "sl": "/", "ba": "|"},
    **{"mu": "\u00d7", "di": "\u00f7", "+-": "\u00b1", "->": "\u2192", "<-": "\u2190", ">=": "\u2265"},
    **{"<=": "\u2264", "de": "\u00b0", "ss": "\u00df", ":a": "\u00e4", ":o": "\u00f6", ":u": "\u00fc", "'e": "\u00e9"},
    **{"Bq": "\u201e", "bq": "\u201a", "sc": "\u00a7", "12": "\u00bd", "/o": "\u00f8", "oa": "\u00e5"},
}
"""The named characters that manual pages use (groff_char(7)); others leave nothing."""
_ESCAPE = re.compile(
    r"\\(?:"
    r"f(?:\(..|\[[^]]*\]|.)"  # font
    r"|s(?:\[[^]]*\]|[-+]?\d{1,2}|[-+]?\(..)"  # size
    r"|\*(?:\((?P<string2>..)|\[(?P<string>[^]]*)\]|.)"  # a string that somebody defined
    r"|\((?P<char2>..)|\[(?P<char>[^]]*)\]"  # special character
    r"|[hvwmMlLDoRSXZbAB](?:'[^']*'|\[[^]]*\]|\(..)"  # motions, colours, drawings
    r"|[ngkF](?:\(..|\[[^]]*\]|[-+]?.)"  # registers
    r"|(?P<plain>.)|$)"
)
_PLAIN = {"-": "-", "e": "\\", "\\": "\\", " ": " ", "~": " ", "0": " ", "t": "\t", "'": "'", "`": "`", ".": "."}
_COMMENT = re.compile(r"(?<!\\)\\[\"#].*")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')
_REQUEST = re.compile(r"[.'][ \t]*([^\s\\]{0,20})[ \t]*(.*)")

_HEADINGS = {"SH", "Sh", "SS", "Ss"}
_BREAKS = {
    *("PP", "P", "LP", "sp", "br", "RS", "RE", "HP", "TQ", "nf", "fi", "EX", "EE", "Pp", "Bl", "El", "Bd", "Ed"),
    *("bp", "ce", "ti", "in", "Sp", "Vb", "Ve"),
}
_JOINED = {"BR", "BI", "IR", "RB", "RI", "IB"}
_FONTS = {"B", "I", "R", "SM", "SB"}
_MDOC = {
    *("Ar", "Op", "Pa", "Em", "Li", "Cm", "Dv", "Va", "Sy", "Ev", "Er", "Fa", "Fn", "Ft", "Ic", "Ql", "Dq", "Sq", "Pq"),
    *("Bq", "Aq", "Qq", "Tn", "An", "Nd", "Sm", "Ns", "No", "Vt", "Ad", "At", "Bx", "Fx", "Nx", "Ox", "Ux", "Ms", "Rv"),
    *("St", "Oc", "Oo", "Nm", "Fl", "Xr", "Xo", "Xc"),
}
"""Macros of mdoc(7) whose arguments are part of the sentence; among the arguments there may be more of them."""


def parse_page(path: str, content: bytes) -> Page | None:
    """Read one compressed page, or return ``None`` if it has no line that says what it is for."""
    source = gzip.decompress(content)
    try:
        sections = sections_of(source.decode("utf-8"))
    except UnicodeDecodeError:  # a few old pages; a wrong letter in a name does no harm
        sections = sections_of(source.decode("latin-1"))
    headed = [(heading, paragraphs) for heading, paragraphs in sections if heading]
    parts = _DASH.split(" ".join(headed[0][1]), maxsplit=1) if headed else []
    if len(parts) < 2:
        return None
    texts = [text for heading, paragraphs in headed[1:] for text in (heading, *paragraphs)]
    return Page(path, parts[1], (), number_blocks(texts))


def sections_of(source: str) -> list[tuple[str, list[str]]]:
    """Heading and paragraphs of every section of a manual page; what stands before the first heading has none."""
    reader = _Reader()
    for line in _without_code(_without_comments(source.splitlines())):
        request = _REQUEST.match(line)
        if request:
            reader.request(
                request[1],
                [unescape(quoted.replace('""', '"') or word) for quoted, word in _ARGUMENT.findall(request[2])],
            )
        else:
            reader.text(unescape(line).replace("T{", ""))
    reader.end_paragraph()
    return reader.sections


def unescape(text: str) -> str:
    r"""``text`` without troff's escapes: ``\fBbold\fP \(em`` becomes ``bold —``."""

    def replace(match: re.Match[str]) -> str:
        name = match["char2"] or match["char"] or match["string2"] or match["string"]
        if not name:
            return _PLAIN.get(match["plain"] or "", "")
        return chr(int(name[1:], 16)) if re.fullmatch(r"u[0-9A-F]{4,6}", name) else _SPECIAL.get(name, "")

    return _ESCAPE.sub(replace, text)


class _Reader:
    """Gathers lines into paragraphs and paragraphs into sections."""

    def __init__(self) -> None:
        self.sections: list[tuple[str, list[str]]] = [("", [])]
        self._name = ""
        self._lines: list[str] = []
        self._heading_follows = False
        self._tag_follows = False

    def end_paragraph(self) -> None:
        text = flow("\n".join(self._lines))
        self._lines.clear()
        if text:
            self.sections[-1][1].append(text)

    def text(self, line: str) -> None:
        """Take a line of text, which may be a heading or the tag of a list."""
        if self._heading_follows:
            self._heading(line)
        elif not line.strip():
            self.end_paragraph()
        else:
            self._lines.append(line)
            if self._tag_follows:
                self._tag_follows = False
                self.end_paragraph()

    def request(self, macro: str, arguments: Sequence[str]) -> None:
        """Take a line that starts with a macro."""
        if macro in _HEADINGS:
            self._heading(" ".join(arguments))
        elif macro in {"IP", "It"}:
            self.end_paragraph()
            self.text(" ".join(arguments[:1]) if macro == "IP" else self._sentence("It", arguments))
            self.end_paragraph()
        elif macro in _BREAKS or macro == "TP":
            self.end_paragraph()
            self._tag_follows = self._tag_follows or macro == "TP"
        elif macro in _JOINED:
            self.text("".join(arguments))
        elif macro in _FONTS and arguments:
            self.text(" ".join(arguments))
        elif macro in _MDOC and (said := self._sentence(macro, arguments)):
            self.text(said)

    def _heading(self, text: str) -> None:
        self.end_paragraph()
        self._heading_follows = not text.strip()
        if text.strip():
            self.sections.append((tidy(text), []))

    def _sentence(self, macro: str, arguments: Sequence[str]) -> str:
        """What a macro of mdoc and its arguments say; ``Nm`` alone stands for the name that its first use gave."""
        said: list[str] = []
        for i, word in enumerate((macro, *arguments)):
            following = arguments[i] if i < len(arguments) else ""
            if word == "Nm":
                self._name = self._name or following
                said += [] if following and following not in _MDOC else [self._name]
                macro = word
            elif word in _MDOC or i == 0:
                said += ["\u2013"] if word == "Nd" else []
                macro = word
            elif macro == "Xr" and said and word[0].isdigit():
                said[-1] += f"({word})"
            else:
                said.append(f"-{word}" if macro == "Fl" else word)
        return " ".join(said)


def _without_comments(lines: Iterable[str]) -> Iterator[str]:
    """Lines without what follows a comment's sign; a line that is nothing else ends no paragraph."""
    for line in lines:
        said = _COMMENT.sub("", line)
        if said == line or said.strip(" .'"):
            yield said


def _without_code(lines: Iterable[str]) -> Iterator[str]:
    """Lines without definitions of macros, conditions and the layout of tables."""
    end = ""
    depth = 0
    for line in lines:
        bare = line.replace(" ", "")
        if end:
            if bare.startswith(end) or (end == "layout" and bare.rstrip().endswith(".")):
                end = ""
        elif depth or bare.startswith((".if", ".ie", ".el", "'if", "'ie", "'el", ".while")):
            depth += line.count("\\{") - line.count("\\}")
        elif bare.startswith((".de", ".am", ".ig", "'de")):
            end = ".."
        elif bare.startswith(".TS"):
            end = "layout"
        elif not bare.startswith((".TE", "T}")):
            yield line


def _packages(languages: Sequence[str]) -> list[str]:
    known = {lang.split("-")[0] for lang in languages}
    return [*_ENGLISH, *(f"manpages-{lang}" for lang in _TRANSLATED if lang in known)]


MANPAGES = PageSource(
    "manpages",
    "man",
    _packages,
    _FILE,
    partial(parse_each, parse_page),
    grouping=by_page,
    title_apart=True,
    has_records=False,
)
