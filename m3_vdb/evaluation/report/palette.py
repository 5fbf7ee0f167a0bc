"""One colour and one marker per system, the same in every chart and legend of a report.

The colours are Okabe and Ito's, which colour-blind readers can tell apart, darkened where white paper needs it; markers
differ too, so nothing depends on colour alone. A chart is drawn with the light colours, and ``picture`` turns each into
a CSS variable with that colour as its fallback: the page then swaps all of them for dark mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Style:
    """How a system is drawn.

    Attributes:
        name: of the CSS variable.
        light: colour on white.
        dark: colour in dark mode.
        marker: matplotlib's name of its shape.
        glyph: the same shape as a character, for legends.
        short: a name that fits beside a narrow chart.
    """

    name: str
    light: str
    dark: str
    marker: str = ""
    glyph: str = ""
    short: str = ""


INK: Final = Style("ink", "#1c2330", "#e6e9ef")
MUTED: Final = Style("muted", "#5c6675", "#9aa4b2")
FAINT: Final = Style("faint", "#dfe3ea", "#333a47")
PAPER: Final = Style("paper", "#fefefe", "#1b1f27")
INKS: Final = (INK, MUTED, FAINT, PAPER)

KNOWN: Final = {
    "bm25": Style("bm25", "#6f7887", "#a7b0bd", "X", "✖", "BM25"),
    "dense": Style("dense", "#0072b2", "#56b4e9", "o", "●", "dense"),
    "sparse": Style("sparse", "#c48a00", "#edbb3a", "s", "■", "sparse"),
    "multi_vector": Style("multi", "#009e73", "#2fcf9f", "^", "▲", "multi"),
    "dense_sparse": Style("pair", "#b0578d", "#e09ac4", "v", "▼", "d + s"),
    "all": Style("all", "#d04a02", "#ff8445", "D", "◆", "all"),
}
SPARE: Final = (
    Style("spare1", "#5b4bc4", "#a99dff", "P", "✚"),
    Style("spare2", "#8a6d3b", "#cdae72", "<", "◀"),
    Style("spare3", "#2f7d8c", "#6fc3d3", ">", "▶"),
    Style("spare4", "#7a2e2e", "#e38b8b", "*", "★"),
)


def palette(systems: Iterable[str]) -> dict[str, Style]:
    """The style of every system, in order of first appearance; unknown ones take the spare styles in turn."""
    styles: dict[str, Style] = {}
    spare = 0
    for system in dict.fromkeys((*systems, *KNOWN)):
        styles[system] = KNOWN.get(system, SPARE[spare % len(SPARE)])
        spare += system not in KNOWN
    return styles
