"""``python -m tests.ingest._victim SOURCE FOLDER N``: an ingest that kills itself (SIGKILL) at its N-th event.

The source is a file, or the URL of a collection.

Events are the moments around which something could be lost or done twice: before and after an upsert, in the middle of
a write to the dead letters, before and after a commit of the checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m3_vdb.ingest import Corpus, SourceCollection, SourceFields, ingest
from m3_vdb.ingest.commit import DeadLetters
from m3_vdb.ingest.ledger import Ledger
from m3_vdb.stores.qdrant.embedded import QdrantEdgeStore
from tests.ingest._fakes import IDENTITY, HashEmbed

BATCH = 6
FIELDS = SourceFields(text=("page_content",), payload="metadata")


def run(source: Path | str, folder: Path) -> Any:
    with QdrantEdgeStore(folder / "x.qdrant", identity=IDENTITY) as store:
        return ingest(
            SourceCollection(str(source), fields=FIELDS) if "://" in str(source) else Corpus([source]),
            HashEmbed(),
            store,
            batch_documents=BATCH,
            checkpoint=folder / "checkpoint",
            rejected=folder / "rejected.jsonl",
            resume=True,
        )


def main() -> None:
    left = int(sys.argv[3])

    def event() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            event()
            result = work(*args)
            event()
            return result

        return call

    def torn(self: DeadLetters, rejected: list[Any]) -> None:
        for one in rejected:
            half = len(one.reason) // 2
            if left == 1 and self._path is not None:
                with self._path.open("ab") as file:
                    file.write(b'{"file": "' + one.reason[:half].encode())
            event()
        write(self, rejected)

    write = DeadLetters.write
    DeadLetters.write = torn  # type: ignore[method-assign]
    QdrantEdgeStore.upsert = watched(QdrantEdgeStore.upsert)  # type: ignore[method-assign]
    Ledger.commit = watched(Ledger.commit)  # type: ignore[method-assign]
    run(sys.argv[1], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
