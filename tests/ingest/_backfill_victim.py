"""``python -m tests.ingest._backfill_victim SOURCE FOLDER N``: a backfill that kills itself (SIGKILL) at event N.

Events are before and after each upsert and each commit of the checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m3_vdb.ingest import SourceCollection, SourceFields, ingest
from m3_vdb.ingest.ledger import Ledger
from m3_vdb.stores.qdrant.embedded import QdrantEdgeStore
from tests.ingest._fakes import IDENTITY, HashEmbed

FIELDS = SourceFields(text=("page_content",), payload="metadata")


def run(source: str, folder: Path) -> Any:
    with QdrantEdgeStore(folder / "x.qdrant", identity=IDENTITY) as store:
        return ingest(
            SourceCollection(source, fields=FIELDS),
            HashEmbed(),
            store,
            batch_documents=6,
            checkpoint=folder / "checkpoint",
            rejected=folder / "rejected.jsonl",
            resume=True,
        )


def main() -> None:
    left = int(sys.argv[3])

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal left
            for step in (lambda: work(*args), lambda: None):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = step() or None
            return result

        return call

    QdrantEdgeStore.upsert = watched(QdrantEdgeStore.upsert)  # type: ignore[method-assign]
    Ledger.commit = watched(Ledger.commit)  # type: ignore[method-assign]
    run(sys.argv[1], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
