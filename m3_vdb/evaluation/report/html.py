"""``report.html``: one file with everything in it, which escapes whatever it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from m3_vdb.evaluation.report import charts
from m3_vdb.evaluation.report.headline import Tile, headline, tiles
from m3_vdb.evaluation.report.palette import INKS, KNOWN, SPARE, Style, palette
from m3_vdb.evaluation.report.picture import Picture
from m3_vdb.evaluation.report.sections import Block, blocks, provenance, summary
from m3_vdb.evaluation.report.tables import system_name
from m3_vdb.evaluation.results import Evaluation

TEMPLATES: Final = Path(__file__).parent / "templates"
Chart: TypeAlias = Callable[[Evaluation, Mapping[str, Style], str], tuple[Picture, ...]]
BESIDE: Final[dict[str, Chart]] = {"groups": charts.dots, "weights": charts.curves, "latency": charts.latency}
"""Block → the chart beside its table."""
TOGETHER: Final = re.compile(r"\[[^\]]*\]|p [<=] [\d.]+")
PANELS_SAY: Final = "All from 0; a thin line is a 95 % confidence interval."


@dataclass(frozen=True, slots=True)
class Part:
    """A block with its charts and what their colours mean: style and name."""

    block: Block
    beside: tuple[Picture, ...]
    panels: tuple[Picture, ...]
    legend: tuple[tuple[Style, str], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One task."""

    anchor: str
    title: str
    headline: str
    tiles: tuple[Tile, ...]
    parts: tuple[Part, ...]
    provenance: tuple[tuple[str, str], ...]


def to_html(evaluations: Sequence[Evaluation]) -> str:
    """The page."""
    styles = palette(name for e in evaluations for name in (*e.systems, *(curve.weight for curve in e.curves)))
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment.get_template("report.html.jinja").render(
        title=", ".join(evaluation.task for evaluation in evaluations),
        panels_say=PANELS_SAY,
        summary=summary(evaluations),
        sections=[_section(evaluation, styles, f"task-{i}") for i, evaluation in enumerate(evaluations, start=1)],
        styles=(*INKS, *KNOWN.values(), *SPARE),
    )


def unbroken(text: str) -> str:
    """No line ends inside an interval or a p-value."""
    return TOGETHER.sub(lambda match: match[0].replace(" ", "\u00a0"), text)


def _section(evaluation: Evaluation, styles: Mapping[str, Style], anchor: str) -> Section:
    parts = tuple(_part(evaluation, block, styles, f"{anchor}-{block.key}") for block in blocks(evaluation))
    return Section(anchor, evaluation.task, headline(evaluation), tiles(evaluation), parts, provenance(evaluation))


def _part(evaluation: Evaluation, block: Block, styles: Mapping[str, Style], name: str) -> Part:
    beside = BESIDE[block.key](evaluation, styles, f"{name}-beside") if block.key in BESIDE else ()
    below = block.key == ("groups" if len(evaluation.groups) > 1 else "systems")
    panels = charts.bars(evaluation, styles, f"{name}-panel") if below else ()
    named = {"groups": evaluation.systems, "weights": [curve.weight for curve in evaluation.curves]}
    legend = tuple((styles[system], system_name(system)) for system in named.get(block.key, ()) if beside)
    return Part(block, beside, panels, legend)
