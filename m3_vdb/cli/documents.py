"""``m3-vdb get``, ``count``, ``update`` and ``delete``: documents of a collection, without its model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Final

import typer

from m3_vdb.cli.options import GrpcOption, ReadOnlyOption, StoreOption
from m3_vdb.cli.output import EXIT_ERROR, out, say, write_json
from m3_vdb.cli.run import kept_place
from m3_vdb.conditions import parse_conditions, parse_value
from m3_vdb.errors import ConfigError
from m3_vdb.passages import stored_ids, whole_documents
from m3_vdb.stores import VectorStore, open_store
from m3_vdb.types import Document, Filter

AT_ONCE: Final = 256
"""Documents per request."""

Ids = Annotated[list[str], typer.Argument(metavar="IDS…", help="Ids of documents.")]
SomeIds = Annotated[list[str] | None, typer.Argument(metavar="[IDS…]", help="Ids of documents.")]
FilterOption = Annotated[
    list[str] | None,
    typer.Option("--filter", help="As of m3-vdb search: FIELD=VALUE, FIELD>=NUMBER, JSON, … All must hold."),
]
SourceOption = Annotated[str | None, typer.Option("--source", help="All documents of a source (m3-vdb sync).")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="With --filter or --source: do not ask.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say how many documents it would be.")]


def get_command(ids: Ids, store: StoreOption, grpc: GrpcOption = None, read_only: ReadOnlyOption = False) -> None:
    """Print documents, one JSON object per line: id, title, text, payload. Exit code 1 if one does not exist."""
    with _opened(store, grpc, read_only=read_only) as opened:
        found = {document.id: document for document in whole_documents(opened, list(dict.fromkeys(ids)))}
    for one in found.values():
        write_json({"id": one.id, "title": one.title, "text": one.text, "payload": dict(one.payload)})
    if _say_missing(store, [id for id in ids if id not in found]):
        raise typer.Exit(EXIT_ERROR)


def count_command(
    store: StoreOption,
    where: FilterOption = None,
    source: SourceOption = None,
    grpc: GrpcOption = None,
    read_only: ReadOnlyOption = False,
) -> None:
    """Print how many documents match a filter, or there are; of documents that were split, passages count."""
    condition = parse_conditions(where or [])
    with _opened(store, grpc, read_only=read_only) as opened:
        if source is None:
            number = opened.count(condition)
        else:
            number = sum(one.source == source for some in opened.documents(filter=condition) for one in some)
        say(str(number), console=out)


def delete_command(
    store: StoreOption,
    ids: SomeIds = None,
    where: FilterOption = None,
    source: SourceOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    grpc: GrpcOption = None,
) -> None:
    """Delete documents with all their passages, by ids, a filter or a source (these ask first)."""

    def work(opened: VectorStore, names: list[str], condition: Filter | None) -> None:
        if condition is not None:
            opened.delete(filter=condition)
        for some in _pieces(names):
            opened.delete(stored_ids(opened, some))

    _change("delete", store, grpc, ids, where, source, yes=yes, dry_run=dry_run, work=work)


def update_command(
    store: StoreOption,
    ids: SomeIds = None,
    where: FilterOption = None,
    source: SourceOption = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", help="FIELD=VALUE to set, JSON or text; other fields stay. Can be repeated."),
    ] = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", help="Field to remove. Can be repeated.")] = None,
    payload: Annotated[str | None, typer.Option("--payload", help="JSON that replaces the whole payload.")] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    grpc: GrpcOption = None,
) -> None:
    """Change the payload of documents, by ids, a filter or a source (these ask first); texts and vectors stay."""
    if (payload is None) == (not fields and not unset):
        raise ConfigError("update: expected --set FIELD=VALUE and --unset FIELD, or --payload JSON instead")
    given = dict(_field(text) for text in fields or ())
    whole = None if payload is None else _payload(payload)

    def changed(one: Document) -> Document:
        kept = {name: value for name, value in one.payload.items() if name not in (unset or ())}
        return replace(one, payload={**kept, **given} if whole is None else whole)

    def work(opened: VectorStore, names: list[str], condition: Filter | None) -> None:
        if condition is not None:  # all are found before the first is changed: a change may end the match
            stored = [one.id for some in opened.documents(filter=condition) for one in some]
        else:
            stored = [id for some in _pieces(names) for id in stored_ids(opened, some)]
        for some in _pieces(stored):
            opened.update_payloads([changed(one) for one in opened.get(some)])

    _change("update", store, grpc, ids, where, source, yes=yes, dry_run=dry_run, work=work)


def _change(
    verb: str,
    store: str,
    grpc: bool | None,
    ids: list[str] | None,
    where: list[str] | None,
    source: str | None,
    *,
    yes: bool,
    dry_run: bool,
    work: Callable[[VectorStore, list[str], Filter | None], None],
) -> None:
    """Find what is meant, ask, change it, and say how much it was."""
    condition = parse_conditions(where or [])
    given = [name for name, value in (("IDS", ids), ("--filter", condition), ("--source", source)) if value]
    if len(given) != 1:
        raise ConfigError(f"{verb}: expected IDS, --filter or --source, got {' and '.join(given) or 'nothing'}")
    with _opened(store, grpc) as opened:
        if not dry_run:
            opened.check_writable()
        names = list(dict.fromkeys(ids or ()))
        if source:
            names = [one.id for some in opened.documents() for one in some if one.source == source and _is_first(one)]
            number = len(names)
        elif condition is None:
            found = {one.id for some in _pieces(names) for one in whole_documents(opened, some)}
            _say_missing(store, [name for name in names if name not in found])
            names, number = [name for name in names if name in found], len(found)
        else:
            number = opened.count(condition)
        counted = f"{number:,} of {opened.count():,} in {store}"
        if dry_run:
            say(f"would {verb} {counted}")
            return
        if not ids and number and not yes:
            if not sys.stdin.isatty():
                raise ConfigError(f"would {verb} {counted}: add --yes to do it")
            typer.confirm(f"{verb} {counted}?", abort=True, err=True)
        if number:
            work(opened, names, condition)
        say(f"{verb}d {counted}")


@contextmanager
def _opened(store: str, grpc: bool | None, *, read_only: bool = False) -> Iterator[VectorStore]:
    kept_place(store)
    with open_store(store, identity=None, create=False, prefer_grpc=grpc, read_only=read_only) as opened:
        yield opened


def _say_missing(store: str, missing: Sequence[str]) -> bool:
    for name in missing:
        say(f"no document {name!r} in {store}", style="yellow")
    return bool(missing)


def _is_first(stored: Document) -> bool:
    return stored.passage is None or stored.passage.number == 1


def _pieces(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE))


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f'--set {text!r}: expected FIELD=VALUE, such as lang=de or \'tags=["a", "b"]\'')
    return name.strip(), parse_value(f"--set {text!r}", value.strip())


def _payload(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--payload {text!r}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f'--payload {text!r}: expected a JSON object, such as {{"lang": "de"}}')
    return value
