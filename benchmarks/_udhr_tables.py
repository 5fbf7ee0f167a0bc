"""Accuracy@1 of every language before and after training, as figures and tables; see ``benchmarks.udhr``."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, Final, TypeAlias

from benchmarks._table import markdown_table
from m3_vdb.evaluation import Mode

BASE: Final = "base"
MODES: Final[tuple[Mode, ...]] = ("dense", "all")
SYSTEMS: Final = (BASE, *MODES)
KNOWN: Final = 0.5
"""A language is one that the base had from this accuracy on; chance is 1/30."""
LOST: Final = 0.1
"""A loss that is more than this is one."""
Figures: TypeAlias = Mapping[str, Mapping[str, float]]
"""Language → system → accuracy@1."""


def change(figures: Mapping[str, float], mode: Mode) -> float:
    """After − before; rounded, since 0.8 − 0.7 is more than 0.1 in binary."""
    return round(figures[mode] - figures[BASE], 6)


def summarise(figures: Figures) -> dict[str, Any]:
    """Means over all languages and over those that the base had, and which of these were lost."""
    known = {lang: of for lang, of in figures.items() if of[BASE] >= KNOWN}

    def means(some: Figures) -> dict[str, float]:
        return {system: round(fmean(of[system] for of in some.values()), 4) for system in SYSTEMS} if some else {}

    return {
        "languages": len(figures),
        "mean": means(figures),
        "known": len(known),
        "mean_of_known": means(known),
        "lost": {mode: sorted(lang for lang, of in known.items() if change(of, mode) < -LOST) for mode in MODES},
        "gained": {mode: sum(change(of, mode) > LOST for of in figures.values()) for mode in MODES},
    }


def rows(figures: Figures) -> list[list[str]]:
    """A line a language, the greatest loss of "all" first."""
    order = sorted(figures, key=lambda lang: (change(figures[lang], "all"), lang))
    lines = [
        [
            lang,
            *(f"{figures[lang][system]:.2f}" for system in SYSTEMS),
            *(f"{change(figures[lang], mode):+.2f}" for mode in MODES),
        ]
        for lang in order
    ]
    return [["language", *SYSTEMS, *(f"{mode} − {BASE}" for mode in MODES)], *lines]


def markdown(figures: Figures) -> str:
    """The summary, and the languages that were lost in either mode."""
    found = summarise(figures)
    lost = {lang for langs in found["lost"].values() for lang in langs}
    head = ["", "languages", *SYSTEMS, *(f"lost more than {LOST:g}, {mode}" for mode in MODES)]
    lines = [head]
    for label, count, mean in (
        ("all languages", "languages", "mean"),
        (f"base at {KNOWN:g} or more", "known", "mean_of_known"),
    ):
        means = [f"{found[mean][system]:.3f}" if found[mean] else "" for system in SYSTEMS]
        counts = [str(len(found["lost"][mode])) if count == "known" else "" for mode in MODES]
        lines.append([label, str(found[count]), *means, *counts])
    tables = [markdown_table(lines)]
    if lost:
        tables.append(markdown_table(rows({lang: figures[lang] for lang in lost})))
    return "\n\n".join(tables) + "\n"
