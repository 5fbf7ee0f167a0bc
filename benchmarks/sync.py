"""What it costs to keep a collection in step with a folder of short files, as a share of the first run.

``python -m benchmarks.sync`` writes 20,000 files, syncs them with the shipped model, and then measures a sync of
nothing new, of 1 % changed, and of 1 % moved. Each opens the corpus and the collection anew, as the command does; the
model stays loaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.common import CORPUS, text_table
from m3_vdb import M3EmbeddingFunction
from m3_vdb.ingest import Corpus, SyncReport, sync
from m3_vdb.stores import open_store

WORDS = 20
"""Of a text, at most."""


def main() -> None:
    """Sync four times, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    args = parser.parse_args()
    texts = [json.loads(line)["text"].split()[:WORDS] for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    embed = M3EmbeddingFunction()
    embed.encode_documents(["warm"])
    with tempfile.TemporaryDirectory() as folder:
        files, url = Path(folder) / "files", f"{folder}/notes.qdrant"

        def path(i: int) -> Path:
            return files / f"{i // 200:03}" / f"{i:06}.txt"

        def write(i: int, mark: str) -> None:
            path(i).parent.mkdir(parents=True, exist_ok=True)
            path(i).write_text(f"{' '.join(texts[i % len(texts)])} {mark} {i}", encoding="utf-8")

        def timed() -> tuple[SyncReport, float, float]:
            begun, worked = time.perf_counter(), time.process_time()
            with open_store(url, embed) as store:
                report = sync(Corpus([files]), embed, store, source="files")
            return report, time.perf_counter() - begun, time.process_time() - worked

        for i in range(args.files):
            write(i, "first")
        first = timed()
        rows = [("sync", "encoded", "seconds", "of the first", "CPU", "of the first"), _row("first", first, first)]
        rows.append(_row("nothing new", timed(), first))
        some = range(0, args.files, 100)
        for i in some:
            write(i, "second")
        rows.append(_row("1 % changed", timed(), first))
        for i in some:
            path(i).rename(path(i).with_suffix(".text"))
        rows.append(_row("1 % moved", timed(), first))
        print(
            f"{args.files:,} files, {first[0].ingest.tokens / args.files:.0f} tokens each, {embed.session.description}"
        )
        print(text_table(rows))


def _row(name: str, run: tuple[SyncReport, float, float], first: tuple[SyncReport, float, float]) -> tuple[str, ...]:
    times = [part for now, then in zip(run[1:], first[1:], strict=True) for part in (f"{now:.1f}", f"{now / then:.1%}")]
    return name, f"{run[0].plan.to_encode:,}", *times


if __name__ == "__main__":
    main()
