"""Workers for a Ray cluster that leave their process numbers in a folder, and die when they are told to, once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.ingest import Corpus, IngestReport, Retry, ingest
from m3_vdb.ingest.ray_engine import RayEngine
from m3_vdb.stores import VectorStore, open_store
from m3_vdb.types import M3Embeddings
from tests.ingest._fakes import IDENTITY, HashEmbed

PLAN = LongDocuments(plan="truncate", max_rows=1)
"""Every document of two words is too long."""


def die_once(folder: Path, name: str) -> None:
    """kill -9 of this process, if nobody has died under this name yet."""
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


class Encoding(HashEmbed):
    """Dies at a text with "die"."""

    def __init__(self, folder: Path, *, seconds: float = 0.01) -> None:
        super().__init__(seconds=seconds)
        self.folder = folder

    def encode_documents(self, texts: list[str]) -> M3Embeddings:
        (self.folder / f"encoder-{os.getpid()}").touch()
        if any("die" in text for text in texts):
            die_once(self.folder, "encoder-died")
        return super().encode_documents(texts)


def open_mortal(folder: Path, url: str) -> VectorStore:
    """A store whose process dies once, in the middle: what it was given is stored, and nobody is told."""
    store = open_store(url, identity=IDENTITY, create=False)
    upsert = store.upsert

    def mortal(documents, embeddings):
        (folder / f"writer-{os.getpid()}").touch()
        upsert(documents, embeddings)
        if any(document.id == "d110" for document in documents):
            die_once(folder, "writer-died")

    store.upsert = mortal  # type: ignore[method-assign]
    return store


def run(corpus: Path, folder: Path, url: str, *, address: str | None = None, kill_at: int = 0) -> IngestReport:
    """One run with the checkpoint in ``folder``; the driver kills itself after so many rows."""
    opener = partial(open_mortal, folder, url)

    def told(state: object) -> None:
        if kill_at and state.rows >= kill_at:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)

    with (
        open_store(url, identity=IDENTITY) as store,
        RayEngine(partial(Encoding, folder), open_store=opener, address=address, encoders=2) as engine,
    ):
        return ingest(
            Corpus([corpus]),
            HashEmbed(),
            store,
            engine=engine,
            batch_documents=6,
            checkpoint=folder / "checkpoint",
            rejected=folder / "rejected.jsonl",
            resume=True,
            progress=told,
            retry=Retry(attempts=3, first=0.01),
            long_documents=PLAN,
            stop=threading.Event(),
        )


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], address=sys.argv[4], kill_at=int(sys.argv[5]))
