"""``python -m benchmarks.ingest``: what an ingest of a corpus costs, and which side of it is slow.

Three figures that no other benchmark has: the share of the time in which the encoder works (the aim is 0.9 and more:
reading, preparing and storing hide behind it), the rows/s that are read without an encoder, and the rows/s of a second
run over what is stored already. The last line is one JSON object.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.common import CORPUS, MACHINE
from m3_vdb import M3EmbeddingFunction, open_store
from m3_vdb.ingest import Corpus, ingest


def reading_rate(corpus: Path) -> float:
    """Rows/s of the reader alone."""
    begun = time.perf_counter()
    rows = sum(1 for _ in Corpus([corpus]))
    return rows / (time.perf_counter() - begun)


def main(
    corpus: Annotated[Path, typer.Option(help="Any corpus that m3-vdb ingest takes.")] = CORPUS,
    store: Annotated[str | None, typer.Option(help="URL of a new collection. Default: a temporary folder.")] = None,
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of one forward pass. Default: all cores.")] = None,
) -> None:
    """Ingest a corpus twice and report."""
    embed = M3EmbeddingFunction(model, runtime=runtime, threads=threads, on_truncate="ignore")
    embed.encode_documents(["warm up"])
    folder = Path(tempfile.mkdtemp(prefix="m3-ingest-"))
    try:
        with open_store(store or str(folder / "x.qdrant"), identity=embed.identity) as opened:
            before = opened.count()
            first = ingest(Corpus([corpus]), embed, opened, checkpoint=folder / "checkpoint")
            second = ingest(Corpus([corpus]), embed, opened, checkpoint=folder / "checkpoint")
            size = opened.disk_bytes()
            held = opened.count()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = first.as_dict() | {
        "rows_read_per_s": round(reading_rate(corpus), 1),
        "unchanged_per_s": round(second.unchanged / max(second.seconds, 1e-9), 1),
        "bytes_per_document": None if size is None or not held else round(size / held),
        "store_was_empty": before == 0,
        "runtime": embed.session.description,
        "machine": MACHINE,
    }
    for name, value in result.items():
        typer.echo(f"{name:28} {value}")
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
