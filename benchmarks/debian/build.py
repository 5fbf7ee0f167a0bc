"""From sources to files: pools, held-out queries, collections, training rows, manifest.

Deterministic: the same packages give the same bytes, whatever the machine and however often it runs.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import cross_lingual, long_documents, same_language, udhr
from .beir import write_text
from .long_documents import Shelf, make_shelf
from .parsed import file_sha256
from .pool import Pool, hold_out, make_pool
from .records import Record
from .sources import SOURCES, Source
from .texts import LongText, Paragraph

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Library:
    """Everything that the sources have, gathered by language in alphabetical order."""

    pools: Sequence[Pool]
    shelves: Sequence[Shelf]
    paragraphs: dict[str, list[Paragraph]]


def gather(cache: Path, languages: Sequence[str], sources: Sequence[Source], report: Report) -> Library:
    """Read every source."""
    records: dict[str, list[Record]] = {}
    long_texts: dict[str, list[LongText]] = {}
    paragraphs: dict[str, list[Paragraph]] = {}
    for source in sources:
        counts: Counter[str] = Counter()
        for edition in source.editions(cache, languages):
            records.setdefault(edition.lang, []).extend(edition.records)
            long_texts.setdefault(edition.lang, []).extend(edition.long_texts)
            paragraphs.setdefault(edition.lang, []).extend(edition.paragraphs)
            counts.update(languages=1, records=len(edition.records), long_texts=len(edition.long_texts))
        report(f"{source.name}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    return Library(
        [make_pool(lang, records[lang]) for lang in sorted(records) if records[lang]],
        [make_shelf(lang, long_texts[lang]) for lang in sorted(long_texts) if long_texts[lang]],
        paragraphs,
    )


def build(
    out: Path,
    cache: Path,
    languages: Sequence[str],
    *,
    sources: Sequence[Source] = SOURCES,
    report: Report = lambda line: None,
) -> dict[str, object]:
    """Write the collections, the training rows and ``manifest.json`` under ``out``; return the manifest.

    Args:
        out: folder for the results; files of the same name are replaced.
        cache: folder for what is fetched and parsed; a filled one makes a run need no network.
        languages: language tags to ask the sources for.
        sources: where the texts come from.
        report: called with a line of progress now and then.

    Raises:
        FetchError: something could not be fetched; the message says what to do.
    """
    out.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    library = gather(cache, languages, sources, report)
    collections: dict[str, object] = {}
    collections["same_language"] = same_language.write(library.pools, out)
    report("same_language")
    collections["cross_lingual"] = cross_lingual.write(library.pools, out)
    report("cross_lingual")
    collections["long_documents"] = long_documents.write(library.shelves, out)
    report("long_documents")
    collections["udhr"] = udhr.write(udhr.read_all(udhr.fetch(cache)), out)
    report("udhr")
    manifest: dict[str, object] = {"collections": collections}
    write_text(out / "manifest.json", [json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"])
    return manifest
