r"""The text of a manual page: enough of troff, man(7) and mdoc(7) to read prose.

Headings, paragraphs, tagged lists, fonts and special characters are understood. Definitions of macros, conditions
and the layout of tables are left out: in manual pages they serve typesetting, not the text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .records import flow, tidy

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


def arguments(text: str) -> list[str]:
    """The arguments of a macro: words, or strings in double quotes."""
    return [quoted.replace('""', '"') or word for quoted, word in _ARGUMENT.findall(text)]


def unescape(text: str) -> str:
    r"""``text`` without troff's escapes: ``\fBbold\fP \(em`` becomes ``bold —``."""

    def replace(match: re.Match[str]) -> str:
        name = match["char2"] or match["char"] or match["string2"] or match["string"]
        if name:
            if re.fullmatch(r"u[0-9A-F]{4,6}", name):
                return chr(int(name[1:], 16))
            return _SPECIAL.get(name, "")
        return _PLAIN.get(match["plain"] or "", "")

    return _ESCAPE.sub(replace, text)


@dataclass(slots=True)
class Section:
    """One section: its heading and its paragraphs."""

    heading: str
    paragraphs: list[str] = field(default_factory=list)


class _Reader:
    """Gathers lines into paragraphs and paragraphs into sections."""

    def __init__(self) -> None:
        self.sections: list[Section] = [Section("")]
        self._name = ""
        self._lines: list[str] = []
        self._heading_follows = False
        self._tag_follows = False

    def close(self) -> None:
        """End the paragraph."""
        text = flow("\n".join(self._lines))
        self._lines.clear()
        if text:
            self.sections[-1].paragraphs.append(text)

    def text(self, line: str) -> None:
        """Take a line of text, which may be a heading or the tag of a list."""
        if self._heading_follows:
            self._heading(line)
        elif not line.strip():
            self.close()
        else:
            self._lines.append(line)
            if self._tag_follows:
                self._tag_follows = False
                self.close()

    def request(self, macro: str, rest: str) -> None:
        """Take a line that starts with a macro."""
        words = [unescape(word) for word in arguments(rest)]
        if macro in {"SH", "Sh", "SS", "Ss"}:
            self._heading(" ".join(words))
        elif macro == "TP":
            self.close()
            self._tag_follows = True
        elif macro in {"IP", "It"}:
            self.close()
            self.text(" ".join(words[:1]) if macro == "IP" else self._sentence("It", words))
            self.close()
        elif macro in _BREAKS:
            self.close()
        elif macro in _JOINED:
            self.text("".join(words))
        elif macro in _FONTS and words:
            self.text(" ".join(words))
        elif macro in _MDOC and (said := self._sentence(macro, words)):
            self.text(said)

    def _heading(self, text: str) -> None:
        self.close()
        self._heading_follows = not text.strip()
        if text.strip():
            self.sections.append(Section(tidy(text)))

    def _sentence(self, macro: str, words: Sequence[str]) -> str:
        """What a macro of mdoc and its arguments say; ``Nm`` alone stands for the name that its first use gave."""
        said: list[str] = []
        for i, word in enumerate((macro, *words)):
            following = words[i] if i < len(words) else ""
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


def parse(source: str) -> list[Section]:
    """The sections of a manual page; what stands before the first heading has none."""
    reader = _Reader()
    for line in _without_code(_without_comments(source.splitlines())):
        request = _REQUEST.match(line)
        if request:
            reader.request(request[1], request[2])
        else:
            reader.text(unescape(line).replace("T{", ""))
    reader.close()
    return [section for section in reader.sections if section.heading or section.paragraphs]
