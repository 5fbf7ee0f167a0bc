"""From a matplotlib figure to SVG that belongs into a page: its font, its colours, no ids that clash, no metadata."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

from m3_vdb.evaluation.report.palette import INKS, KNOWN, SPARE

FONT: Final = "DejaVu Sans"
NUMBER: Final = re.compile(r"-?\d+\.\d+")
VARIABLES: Final = {style.light: f"var(--{style.name}, {style.light})" for style in (*INKS, *KNOWN.values(), *SPARE)}
DROPPED: Final = ("metadata", "style")
"""``style`` holds a rule for every element, which would reach out of the chart into the page."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart: SVG markup, its width on a screen in CSS pixels, what it shows in a few words."""

    svg: str
    width: int
    caption: str


def draw(width: int, height: int, paint: Callable[[Figure], None], *, name: str, caption: str = "") -> Picture:
    """A chart of so many CSS pixels; ``name`` has to be unique in the page and makes its ids."""
    with _settings(name):
        figure = Figure(figsize=(width / 72, height / 72))  # SVG of matplotlib has 72 units to the inch
        paint(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root)
    root.attrib = {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": caption or name}
    return Picture(ElementTree.tostring(root, encoding="unicode", method="html"), width, caption)


@contextmanager
def _settings(name: str) -> Iterator[None]:
    """The same settings whatever the user's are: text stays text, and ids depend on nothing but the chart."""
    ours: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": FONT, "text.parse_math": False}
    defaults = {key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith(("backend", "date."))}
    with warnings.catch_warnings(), mpl.rc_context({**defaults, **ours}):
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has its own fonts
        yield


def _clean(element: ElementTree.Element, *, shared: bool = False) -> None:
    """Make it HTML: no namespaces, short numbers, our colours; only what is referred to keeps its id."""
    element.tag = _local(element.tag)
    shared = shared or element.tag == "defs"
    attributes = {_local(key): value for key, value in element.attrib.items()}
    element.attrib.clear()
    for key, value in attributes.items():
        if key == "style":
            element.set(key, _restyle(value))
        elif key == "transform" and value.startswith("rotate(-0"):
            continue
        elif key != "id" or shared:
            element.set(key, NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value))
    if element.tag == "path":
        element.set("d", " ".join(element.get("d", "").split()))
    for child in list(element):
        if _local(child.tag) in DROPPED:
            element.remove(child)
        else:
            _clean(child, shared=shared)
            child.tail = None
    if element.tag != "text":
        element.text = None


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _restyle(style: str) -> str:
    style = style.replace(f"'{FONT}'", "system-ui, sans-serif")
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, variable)
    return style
