"""A choice of training rows, by source and language, with a limit for each kind.

Files are read twice, so that memory holds a few numbers per row and never the texts. Whether a row is taken depends on
its own query and positives, the seed, and the rows of its kind; not on the order of files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import ConfigError
from m3_vdb.jsonl import read_objects
from train.retrieval.data import parse_row, write_rows

CROSS_LINGUAL: Final = "cross-lingual"
"""``source`` of joined rows."""


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


@dataclass(frozen=True, slots=True)
class Kind:
    """What a row is counted by: languages of query and passages, and source; "" where the row does not say."""

    lang: str
    doc_lang: str
    source: str


def kind_of(fields: Mapping[str, Any]) -> Kind:
    """The kind of a row; of a joined one, what it was before."""
    source, lang = ("origin", "query_lang") if fields.get("source") == CROSS_LINGUAL else ("source", "lang")
    asked = str(fields.get(lang) or "")
    return Kind(asked, str(fields.get("doc_lang") or asked), str(fields.get(source) or ""))


def select(config: SelectConfig, *, report: Callable[[str], None]) -> int:
    """Write the chosen rows in the order of the files; returns how many there are.

    Args:
        config: files and choice.
        report: told which names of the settings no row has, since a misspelt one would hold nothing out; then the
            result.

    Raises:
        ConfigError: ``out`` exists, a file cannot be read, or no row is left.
        DocumentError: a line is not a row; file and line are in the message.
    """
    if config.out.exists():
        raise ConfigError(f"{config.out} exists: give a new file, or remove it")
    seen: Counter[Kind] = Counter()
    draws: dict[Kind, list[tuple[bytes, int]]] = defaultdict(list)
    for number, fields in enumerate(_rows(config)):
        kind = kind_of(fields)
        seen[kind] += 1
        if _wanted(kind, config):
            # Its negatives do not matter, so a mined row is drawn as it was before.
            text = "\0".join([str(config.seed), fields["query"], *fields["pos"]])
            draws[kind].append((blake2b(text.encode(), digest_size=8).digest(), number))
    for line in _unknown(config, seen):
        report(f"warning: {line}")
    chosen = {n for drawn in draws.values() for _, n in (sorted(drawn)[: config.cap] if config.cap else drawn)}
    if not chosen:
        raise ConfigError(f"none of {seen.total():,} rows is left: look at sources and languages")
    taken = (fields for number, fields in enumerate(_rows(config)) if number in chosen)
    write_rows((joined(fields, config.join) for fields in taken), config.out)
    report(f"{config.out}: {len(chosen):,} of {seen.total():,} rows, {len(draws)} of {len(seen)} kinds")
    return len(chosen)


def joined(fields: Mapping[str, Any], join: Collection[str]) -> dict[str, Any]:
    """The row, in the data set of all that ask for passages of its language in others, if that is wanted."""
    kind = kind_of(fields)
    if kind.doc_lang not in join or kind.lang == kind.doc_lang:
        return dict(fields)
    data_set = {"source": CROSS_LINGUAL, "lang": kind.doc_lang, "doc_lang": kind.doc_lang}
    return {**fields, **data_set, "origin": kind.source, "query_lang": kind.lang}


def _rows(config: SelectConfig) -> Iterator[dict[str, Any]]:
    for path in config.data:
        for index, fields in read_objects(path):
            parse_row(fields, where=f"{path}, line {index + 1}", index=index)
            yield fields


def _wanted(kind: Kind, config: SelectConfig) -> bool:
    both = {kind.lang, kind.doc_lang}
    return (
        (not config.sources or kind.source in config.sources)
        and kind.source not in config.drop_sources
        and (not config.languages or both <= set(config.languages))
        and not both & set(config.drop_languages)
    )


def _unknown(config: SelectConfig, seen: Collection[Kind]) -> Iterator[str]:
    languages = {language for kind in seen for language in (kind.lang, kind.doc_lang)}
    sources = {kind.source for kind in seen}
    for option in ("sources", "drop_sources", "languages", "drop_languages", "join"):
        known = sources if "sources" in option else languages
        if missing := [name for name in getattr(config, option) if name not in known]:
            yield f"{option}: no row has {', '.join(missing)}; there are {', '.join(sorted(known)) or 'none'}"
