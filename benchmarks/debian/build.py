"""From sources to files: pools, held-out queries, collections, training rows, manifest.

Deterministic: the same packages give the same bytes, whatever the machine and however often it runs. A task that was
completed from the same inputs is not built again.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import (
    cross_lingual,
    long_documents,
    pairs,
    parallel,
    questions,
    same_language,
    training,
    training_long,
    training_windows,
    udhr,
)
from .beir import write_jsonl, write_text
from .parsed import code_key, file_sha256
from .pool import HeldOut, Pool, Shelf, hold_out, make_pool, make_shelf
from .records import Record
from .sources import SOURCES, Source
from .texts import LongText, Translation

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that the sources have, by language in alphabetical order, and what may not be trained on."""

    pools: Sequence[Pool]
    shelves: Sequence[Shelf]
    paragraphs: Mapping[str, Sequence[Translation]]
    messages: Mapping[str, Sequence[Translation]]
    held: HeldOut


def gather(cache: Path, languages: Sequence[str], sources: Sequence[Source], report: Report) -> Gathered:
    """Read every source."""
    records: dict[str, list[Record]] = {}
    long_texts: dict[str, list[LongText]] = {}
    paragraphs: dict[str, list[Translation]] = {}
    messages: dict[str, list[Translation]] = {}
    for source in sources:
        counts: Counter[str] = Counter()
        for edition in source.editions(cache, languages):
            records.setdefault(edition.lang, []).extend(edition.records)
            long_texts.setdefault(edition.lang, []).extend(edition.long_texts)
            paragraphs.setdefault(edition.lang, []).extend(edition.paragraphs)
            messages.setdefault(edition.lang, []).extend(edition.messages)
            counts["records"] += len(edition.records)
            counts["long texts"] += len(edition.long_texts)
            counts["translations"] += len(edition.paragraphs) + len(edition.messages)
        report(f"{source.name}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    pools = [make_pool(lang, records.pop(lang)) for lang in sorted(records) if records[lang]]
    shelves = [make_shelf(lang, long_texts[lang]) for lang in sorted(long_texts) if long_texts[lang]]
    return Gathered(pools, shelves, paragraphs, messages, hold_out(pools, shelves))


def _write_rows(rows: Sequence[training.Row], path: Path) -> dict[str, int]:
    """Write training rows; return how many there are by source and languages."""
    write_jsonl(path, rows)
    kinds = Counter(f"{row['source']} {row['lang']}>{row['doc_lang']}" for row in rows)
    return {"total": len(rows), **dict(sorted(kinds.items()))}


Task = Callable[[Gathered, Path, Path], object]
"""Writes one part of the result, given everything, the folder for results and the cache; returns its counts."""

TASKS: dict[str, Task] = {
    "same_language": lambda gathered, out, _: same_language.write(gathered.pools, out),
    "cross_lingual": lambda gathered, out, _: cross_lingual.write(gathered.pools, out),
    "long_documents": lambda gathered, out, _: long_documents.write(gathered.shelves, out),
    "udhr": lambda _, out, cache: udhr.write(udhr.read_all(udhr.fetch(cache)), out),
    "train.jsonl": lambda gathered, out, _: _write_rows(
        training.rows(gathered.pools, gathered.held), out / "train.jsonl"
    ),
    "train_long.jsonl": lambda gathered, out, _: _write_rows(
        training_long.rows(gathered.shelves, gathered.held), out / "train_long.jsonl"
    ),
    "train_windows.jsonl": lambda gathered, out, _: _write_rows(
        training_windows.rows(gathered.shelves, gathered.held), out / "train_windows.jsonl"
    ),
    "questions.jsonl": lambda gathered, out, _: _write_rows(
        questions.rows(gathered.pools, gathered.held), out / "questions.jsonl"
    ),
    "pairs.jsonl": lambda gathered, out, _: _write_rows(
        pairs.rows(gathered.pools, gathered.paragraphs, gathered.held), out / "pairs.jsonl"
    ),
    "parallel.jsonl": lambda gathered, out, _: _write_rows(
        parallel.paragraph_rows(gathered.paragraphs, gathered.held), out / "parallel.jsonl"
    ),
    "messages.jsonl": lambda gathered, out, _: _write_rows(
        parallel.message_rows(gathered.messages, gathered.held), out / "messages.jsonl"
    ),
}
"""Name of a file or folder under the results to what writes it."""


def _checksums(out: Path, name: str) -> dict[str, str]:
    paths = [out / name] if (out / name).is_file() else sorted((out / name).rglob("*.*"))
    return {path.relative_to(out).as_posix(): file_sha256(path) for path in paths if path.suffix != ".partial"}


def _is_complete(out: Path, name: str, inputs: str) -> bool:
    """Whether a task was finished from the same inputs and nobody has touched its files since."""
    done = out / ".done" / f"{name}.json"
    if not done.is_file():
        return False
    state = json.loads(done.read_text(encoding="utf-8"))
    return bool(state["inputs"] == inputs and state["sha256"] == _checksums(out, name))


def _write_manifest(out: Path, versions: Mapping[str, object], tasks: Iterable[str]) -> dict[str, object]:
    states = {name: json.loads((out / ".done" / f"{name}.json").read_text(encoding="utf-8")) for name in tasks}
    manifest: dict[str, object] = {
        "versions": versions,
        "counts": {name: state["counts"] for name, state in states.items()},
        "sha256": {path: value for state in states.values() for path, value in state["sha256"].items()},
    }
    write_text(out / "manifest.json", [json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"])
    return manifest


def build(
    out: Path,
    cache: Path,
    languages: Sequence[str],
    *,
    sources: Sequence[Source] = SOURCES,
    tasks: Mapping[str, Task] = TASKS,
    report: Report = lambda line: None,
) -> dict[str, object]:
    """Write the collections, the training rows and ``manifest.json`` under ``out``; return the manifest.

    Args:
        out: folder for the results; files of the same name are replaced.
        cache: folder for what is fetched and parsed; a filled one makes a run need no network.
        languages: language tags to ask the sources for.
        sources: where the texts come from.
        tasks: what to write.
        report: called with a line of progress now and then.

    Raises:
        FetchError: something could not be fetched; the message says what to do.
    """
    out.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    versions = {source.name: dict(source.versions(cache, languages)) for source in sources}
    if "udhr" in tasks:
        versions["udhr"] = udhr.versions(cache)
    code = [path.stem for path in Path(__file__).parent.glob("*.py")]
    inputs = code_key(code, *languages, json.dumps(versions))
    report(f"packages: {sum(map(len, versions.values()))}")
    missing = {name: task for name, task in tasks.items() if not _is_complete(out, name, inputs)}
    if missing:
        gathered = gather(cache, languages, sources, report)
        for name, task in missing.items():
            counts = task(gathered, out, cache)
            state = {"inputs": inputs, "counts": counts, "sha256": _checksums(out, name)}
            write_text(out / ".done" / f"{name}.json", [json.dumps(state, ensure_ascii=False)])
            report(name)
    return _write_manifest(out, versions, tasks)
