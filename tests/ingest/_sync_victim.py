"""``python -m tests.ingest._sync_victim CORPUS URL N``: a sync that kills itself (SIGKILL) at its N-th event.

Events are the moments before and after each change of the collection.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m3_vdb.ingest import Corpus, SyncReport, sync, syncing
from m3_vdb.stores import VectorStore, open_store
from tests.ingest._fakes import IDENTITY, HashEmbed

syncing.AT_ONCE = 3  # more requests, so more moments
WATCHED = ("upsert", "update_payloads", "delete")


def run(corpus: Path, url: str, encoded: list[str] | None = None) -> SyncReport:
    embed = HashEmbed()
    with open_store(url, IDENTITY) as store:
        report = sync(Corpus([corpus]), embed, store, source="s", max_removed="100%", batch_documents=3)
    if encoded is not None:
        encoded += embed.encoded
    return report


def on_events(event: Callable[[], None]) -> None:
    """Have a function called at each event."""

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            event()
            result = work(*args, **options)
            event()
            return result

        return call

    for name in WATCHED:
        setattr(VectorStore, name, watched(getattr(VectorStore, name)))


def main() -> None:
    left = int(sys.argv[3])

    def event() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    on_events(event)
    run(Path(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    main()
