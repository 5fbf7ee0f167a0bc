"""Settings of ``python -m train select``: YAML keys and command-line options are the names of these fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from m3_vdb.errors import ConfigError


# Frozen but not slotted: jsonargparse, the library of the command line, cannot read defaults of slotted classes.
@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """Choose training rows: by source and language, with a limit for each kind.

    A row's languages are "lang" (of the query) and "doc_lang" (of the passages; the same if it is missing).

    Attributes:
        data: JSONL training rows; every field is kept.
        out: JSONL file to create.
        sources: keep rows of these sources alone; none keeps all.
        drop_sources: leave out rows of these sources.
        languages: keep rows whose two languages are both among these; none keeps all.
        drop_languages: leave out rows with one of these on either side, so that a language is really held out.
        cap: most rows of one (lang, doc_lang, source), drawn by a hash; 0 takes all. A higher cap keeps what a lower
            one took.
        seed: of the draw.
        join: languages of passages, such as en: rows that ask for them in other languages become one data set
            ("cross-lingual", e.g. "en"), so that batches and mining pools mix the languages of the queries. What they
            were stays in "origin" and "query_lang".
    """

    data: list[Path]
    out: Path
    sources: list[str] = field(default_factory=list)
    drop_sources: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    drop_languages: list[str] = field(default_factory=list)
    cap: int = 0
    seed: int = 0
    join: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("data is empty: name at least one JSONL file")
        if self.cap < 0:
            raise ConfigError(f"cap={self.cap}: at least 1, or 0 for all")
        for what in ("sources", "languages"):
            if both := sorted(set(getattr(self, what)) & set(getattr(self, f"drop_{what}"))):
                raise ConfigError(f"{', '.join(both)}: both in {what} and in drop_{what}")
