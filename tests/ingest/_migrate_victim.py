"""A migration in a process of its own that kills itself (SIGKILL) at its N-th event.

Events are the moments before and after each change of a collection, a marker, an alias or a pointer. The processes are
forked from one that has the modules imported and nothing open.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

from m3_vdb.ingest import MigrationReport, drop_old, migrate
from m3_vdb.stores import ModelIdentity
from m3_vdb.stores.base import VectorStore
from m3_vdb.stores.milvus.aliases import MilvusAliases
from m3_vdb.stores.qdrant.aliases import QdrantAliases
from m3_vdb.stores.succession import folder
from tests.ingest._fakes import HashEmbed

NEW = ModelIdentity("new", "0123abcd4567", dense_dim=8, multi_vector_dim=4)
_WATCHED = (
    (VectorStore, ("upsert", "update_payloads", "delete")),
    (QdrantAliases, ("mark", "point", "drop")),
    (MilvusAliases, ("mark", "point", "drop")),
    (folder, ("write_metadata",)),
    (folder.shutil, ("rmtree",)),
    (folder.FolderSuccession, ("finish",)),
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__])


def run(url: str, **options: Any) -> MigrationReport:
    """A migration of few rows at a time, without an interruption."""
    return migrate(
        url, HashEmbed(identity=NEW), alias="live" if url.endswith("/notes") else None, batch_documents=3, **options
    )


def killed(url: str, event: int, *, drop: bool = False) -> bool:
    """Run in another process, until the event; False if there were fewer, and it ended well."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_victim, args=(url, event, drop, theirs))
    process.start()
    theirs.close()
    try:
        ended = bool(ours.recv())
    except EOFError:
        ended = False
    process.join(120)
    assert process.exitcode == (0 if ended else -signal.SIGKILL)
    return not ended


def _victim(url: str, event: int, drop: bool, tell: Any) -> None:
    seen = 0

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            happened()
            result = work(*args, **options)
            happened()
            return result

        return call

    def happened() -> None:
        nonlocal seen
        seen += 1
        if seen == event:
            os.kill(os.getpid(), signal.SIGKILL)

    for owner, names in _WATCHED:
        for name in names:
            setattr(owner, name, watched(getattr(owner, name)))
    if drop:
        drop_old(url)
    else:
        run(url)
    tell.send(True)
    tell.close()
