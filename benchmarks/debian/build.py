"""From sources to files: records, pools, held-out queries, collections, training rows, manifest.

Deterministic: the same packages give the same bytes, whatever the machine and however often it runs.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from . import same_language, training
from .pool import Pool, hold_out, make_pool
from .records import Record
from .sources import SOURCES, Source, file_sha256


def read_pools(
    cache: Path, languages: Sequence[str], sources: Sequence[Source], report: Callable[[str], None]
) -> list[Pool]:
    """Read every source and gather the records by language, in alphabetical order."""
    by_lang: dict[str, list[Record]] = {}
    for source in sources:
        count = 0
        for record in source.records(cache, languages):
            by_lang.setdefault(record.lang, []).append(record)
            count += 1
        report(f"{source.name}: {count} records")
    return [make_pool(lang, by_lang.pop(lang)) for lang in sorted(by_lang)]


def build(
    out: Path,
    cache: Path,
    languages: Sequence[str],
    *,
    sources: Sequence[Source] = SOURCES,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, object]:
    """Write ``same_language/``, ``train.jsonl`` and ``manifest.json`` under ``out``; return the manifest.

    Args:
        out: folder for the results; files of the same name are replaced.
        cache: folder for what is fetched; a filled one makes a run need no network.
        languages: language tags to ask the sources for.
        sources: where records come from.
        report: called with a line of progress now and then.

    Raises:
        FetchError: something could not be fetched; the message says what to do.
    """
    out.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    pools = read_pools(cache, languages, sources, report)
    held = hold_out(pools)
    collections = same_language.write(pools, out)
    report(f"same-language collections: {len(collections)}")
    rows = training.rows(pools, held)
    same_language.write_jsonl(out / "train.jsonl", rows)
    report(f"training rows: {len(rows)}")
    kinds = Counter(f"{row['source']} {row['lang']}>{row['doc_lang']}" for row in rows)
    written = sorted({out / "train.jsonl", *(out / "same_language").rglob("*.*")})
    manifest: dict[str, object] = {
        "versions": {source.name: dict(source.versions(cache, languages)) for source in sources},
        "documents": {pool.lang: dict(sorted(Counter(r.source for r in pool.records).items())) for pool in pools},
        "same_language": collections,
        "training_rows": {"total": len(rows), **dict(sorted(kinds.items()))},
        "held_out": {"queries": len(held.queries), "concepts": len(held.concepts)},
        "sha256": {path.relative_to(out).as_posix(): file_sha256(path) for path in written},
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"
    (out / "manifest.json").write_text(text, encoding="utf-8", newline="\n")
    return manifest
