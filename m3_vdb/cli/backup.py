"""``m3-vdb backup`` and ``restore``: a collection into a folder, and back into any store; the work is the stores'."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from m3_vdb.cli.options import GrpcOption, StoreOption
from m3_vdb.cli.output import say
from m3_vdb.cli.run import kept_place
from m3_vdb.errors import ConfigError
from m3_vdb.notices import counted
from m3_vdb.stores import open_store
from m3_vdb.stores.backup import backup, check_backup, restore
from m3_vdb.stores.options import STORAGES

_WITHOUT: Final = {
    "bm25": "--no-bm25",
    "full_text": "--no-full-text",
    "tenant": "--no-tenant",
    "storage": "--storage float32",
}
"""Option of a backup that a store may lack → what leaves it out."""
_REFUSED: Final = re.compile(rf"\b({'|'.join(_WITHOUT)})(?: \(given|=)")
"""How errors name the option that a store lacks."""


def backup_command(
    folder: Annotated[Path, typer.Argument(help="New folder for the backup.")],
    store: StoreOption,
    grpc: GrpcOption = None,
) -> None:
    """Write a collection into a folder: documents, payloads, vectors, the model's identity, indexes, checksums."""
    kept_place(store)
    with open_store(store, identity=None, create=False, prefer_grpc=grpc) as opened:
        made = backup(opened, folder)
    say(f"{folder}: {counted(made.documents, 'document')} of {store}, model {made.identity.name}")


def restore_command(
    folder: Annotated[Path, typer.Argument(help="Folder that m3-vdb backup has written.")],
    store: StoreOption,
    check: Annotated[bool, typer.Option("--check", help="Only check that the backup is whole.")] = False,
    into_existing: Annotated[
        bool, typer.Option("--into-existing", help="The collection may hold documents; the same ids are replaced.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(help=f"Storage of multi-vectors instead of the backup's: {', '.join(STORAGES)}.")
    ] = None,
    bm25: Annotated[
        bool | None, typer.Option("--bm25/--no-bm25", help="Keep exact words, or not, whatever the backup has.")
    ] = None,
    full_text: Annotated[
        bool | None, typer.Option("--full-text/--no-full-text", help="Index the words of texts, or not.")
    ] = None,
    no_tenant: Annotated[bool, typer.Option("--no-tenant", help="Without the mark of the tenant's field.")] = False,
    grpc: GrpcOption = None,
) -> None:
    """Make a collection from a backup, on any store; nothing is encoded. A damaged backup is refused before that."""
    kept_place(store)
    if check:
        whole = check_backup(folder)
        held = counted(whole.documents, "document")
        say(f"{folder} is whole: {held}, model {whole.identity.name}, made {whole.time}")
        return
    changed: dict[str, Any] = {"storage": storage, "bm25": bm25, "full_text": full_text}
    options = {name: value for name, value in changed.items() if value is not None}
    if no_tenant:
        options["tenant"] = None
    try:
        made = restore(folder, store, options=options, into_existing=into_existing, prefer_grpc=grpc)
    except ConfigError as error:
        refused = _REFUSED.search(str(error))
        advice = f"; {_WITHOUT[refused[1]]} restores without it" if refused else ""
        raise ConfigError(f"{error}{advice}") from None
    say(f"{store}: {counted(made.documents, 'document')} from {folder}, model {made.identity.name}")
