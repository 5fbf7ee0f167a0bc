"""Debian package descriptions and their translations (DDTP) as records.

A description has one short line (the query) and a long text (the document). ``Description-md5`` of the English
description is the key that joins every language to English. ``libfoo1``, ``libfoo-dev`` and ``libfoo-doc`` say
nearly the same; such families are joined and one member is kept, or half of the corpus would be false negatives.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .records import Record, flow, key, tidy, weight

SOURCE = "ddtp"
MIN_TRANSLATED = 0.95
"""Share of a translation's long text that must differ from the English text."""
MIN_TEXT_WEIGHT = 80
"""Shorter long descriptions ("This is a dummy package.") cannot be told apart by anybody."""
FAMILY_PARAGRAPH_CHARS = 60
"""A shared first paragraph joins two packages only from this length on."""
_DIGITS = re.compile(r"\d+")
_BULLET = re.compile(r"\s*[-*+o\u2022\u00b7]\s")


@dataclass(frozen=True, slots=True)
class Description:
    """One description: ``short`` is a line, ``long`` the paragraphs and list items, one string each."""

    package: str
    short: str
    long: tuple[str, ...]


def code(lang: str) -> str:
    """The code of a language in apt's file names: ``pt-br`` is ``pt_BR`` there."""
    base, _, region = lang.partition("-")
    return f"{base}_{region.upper()}" if region else base


def index_files(lists: Path, lang: str) -> list[Path]:
    """The files of apt with the descriptions in one language."""
    return sorted(lists.glob(f"*_i18n_Translation-{code(lang).replace('_', '%5f')}"))


def records(lists: Path, languages: Iterable[str]) -> Iterator[Record]:
    """Yield the descriptions in ``languages``, one member per family, from apt's ``lists`` folder.

    The member that most of ``languages`` have is kept, so that they share it with one another.

    Args:
        lists: folder with ``*_Packages`` and ``*_i18n_Translation-*`` files; English must be among them.
        languages: language tags; those without a file are skipped.
    """
    english = _read_translations(lists, "en")
    others = {lang: _read_translations(lists, lang) for lang in sorted(set(languages) - {"en"})}
    times_translated = Counter(md5 for entries in others.values() for md5 in entries)
    family_of = families(english, _read_sources(lists))
    best: dict[str, str] = {}
    for md5 in sorted(english, key=lambda md5: (-times_translated[md5], md5)):
        best.setdefault(family_of[md5], md5)
    translations = {**others, **({"en": english} if "en" in languages else {})}
    for lang, entries in sorted(translations.items()):
        for family, md5 in sorted(best.items()):
            record = make_record(f"ddtp/{family}", lang, entries[md5], english[md5]) if md5 in entries else None
            if record is not None:
                yield record


def families(english: Mapping[str, Description], package_source: Mapping[str, str]) -> dict[str, str]:
    """Map every description (by md5) to its family, named after the family's smallest md5.

    Two descriptions are of one family when they share the source package, the first paragraph (if it is long
    enough) or the short line, digits being equal to one another; the relation is closed transitively.
    """
    parent = {md5: md5 for md5 in english}

    def root(md5: str) -> str:
        while parent[md5] != md5:
            parent[md5] = parent[parent[md5]]
            md5 = parent[md5]
        return md5

    def digitless(text: str) -> str:
        return _DIGITS.sub("0", key(text))

    first_with: dict[tuple[str, str], str] = {}
    for md5, entry in english.items():
        traits = [("source", package_source.get(entry.package, entry.package)), ("short", digitless(entry.short))]
        if entry.long and len(entry.long[0]) >= FAMILY_PARAGRAPH_CHARS:
            traits.append(("paragraph", digitless(entry.long[0])))
        for trait in traits:
            one, other = root(first_with.setdefault(trait, md5)), root(md5)
            parent[max(one, other)] = min(one, other)
    return {md5: root(md5) for md5 in english}


def make_record(concept_id: str, lang: str, entry: Description, english: Description) -> Record | None:
    """A description as a record, or ``None`` if it is too short or not translated."""
    known = set(map(key, english.long)) if lang != "en" else set()
    titles = {key(entry.short), key(english.short)}
    kept = [block for block in entry.long if key(block) not in known]
    if sum(map(weight, kept)) < MIN_TRANSLATED * sum(map(weight, entry.long)):
        return None
    text = "\n".join(block for block in kept if key(block) not in titles)
    if weight(text) < MIN_TEXT_WEIGHT:
        return None
    title = "" if lang != "en" and key(entry.short) == key(english.short) else entry.short
    return Record(concept_id, SOURCE, lang, title, (), text)


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


def _read_translations(lists: Path, lang: str) -> dict[str, Description]:
    """All descriptions of one language by md5, over every archive that apt knows."""
    found: dict[str, Description] = {}
    field = f"Description-{code(lang)}"
    for path in index_files(lists, lang):
        for stanza in _stanzas(path, ["Package", "Description-md5", field]):
            if field in stanza and "Description-md5" in stanza:
                entry = parse_description(stanza[field], package=stanza.get("Package", ""))
                found.setdefault(stanza["Description-md5"], entry)
    return found


def _read_sources(lists: Path) -> dict[str, str]:
    """Binary package to source package."""
    sources: dict[str, str] = {}
    for path in sorted(lists.glob("*_Packages")):
        for stanza in filter(None, _stanzas(path, ["Package", "Source"])):
            sources[stanza["Package"]] = stanza.get("Source", stanza["Package"]).split(" ")[0]
    return sources


def _stanzas(path: Path, fields: list[str]) -> Iterator[Mapping[str, str]]:
    """The stanzas of one of apt's index files (Debian policy 5.1), with some of their fields."""
    stanza: dict[str, str] = {}
    field = ""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line[0] in " \t" and line.strip():
                stanza[field] = stanza.get(field, "") + "\n" + line.rstrip()
            elif line.strip():
                field, _, value = line.partition(":")
                stanza[field] = value.strip()
            else:
                yield {name: stanza[name] for name in fields if name in stanza}
                stanza = {}
    yield {name: stanza[name] for name in fields if name in stanza}
