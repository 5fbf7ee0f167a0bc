"""The whole evaluation: documents into a real store, queries as the fused request, figures out.

What is measured is what is served: the model, the store and the request are those of an application. A task is one or
more collections (one a language, say); its results are plain values (``results.Evaluation``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import quote

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import REFUSE, LongDocuments
from m3_vdb.errors import BundleError, ConfigError
from m3_vdb.evaluation.bm25 import BM25
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.environment import describe_environment
from m3_vdb.evaluation.figures import (
    approximations,
    measure_groups,
    measures_of,
    tunings,
    weight_curves,
    worst_fusion_error,
)
from m3_vdb.evaluation.measuring import BM25_NAME, Asked, Progress, StoreOpener, evaluate_collection
from m3_vdb.evaluation.metrics import import_ir_measures
from m3_vdb.evaluation.protocol import MODES, PROTOCOLS, Mode, Protocol
from m3_vdb.evaluation.results import Evaluation
from m3_vdb.evaluation.search import query_encoder
from m3_vdb.evaluation.summary import summarise
from m3_vdb.evaluation.tuning import Tuned, check_dev, tune_weights
from m3_vdb.evaluation.workspace import file_name
from m3_vdb.stores import VectorStore, open_store
from m3_vdb.stores.names import SUFFIXES

PLACE: Final = "{collection}"
"""Where a collection's name goes in a store URL."""
RESULTS: Final = "results.json"


def evaluate(
    collections: Sequence[Collection],
    embed: M3EmbeddingFunction,
    store: str | StoreOpener,
    *,
    task: str = "",
    protocol: Protocol | None = None,
    modes: Sequence[Mode] = MODES,
    bm25: bool = False,
    dev: Sequence[Collection] = (),
    approximate: bool = False,
    long_documents: LongDocuments = REFUSE,
    out: Path | None = None,
    command: str = "",
    progress: Progress = lambda *_: None,
) -> Evaluation:
    """Measure a model and a store on a task.

    Args:
        collections: of one kind: all with judgements or all with answers.
        embed: the model; its maximum length is that of the passages.
        store: URL of a store, in which "{collection}" stands for the collection's name (put at the end if there are
            several collections and no such place), or a function that opens a store; ``out`` does not see when such a
            function opens another one. Documents that are there already, made by the same model, are used as they are.
        task: name for the report; by default the collections' own.
        protocol: requests and weights; by default the paper's.
        modes: rankings to measure.
        bm25: measure BM25 on the same documents, and compare with it.
        dev: the same collections with other queries: the weights of "all" and "dense_sparse" are tuned on them first.
        approximate: also measure what the engine's approximate search costs.
        long_documents: what becomes of documents with more tokens than the store takes rows; where they are split, a
            document has the score of its best passage.
        out: folder for TREC run files, ``results.json`` and what a later call needs to go on where this one stopped.
        command: the command line, for the record.
        progress: told what is going on.

    Raises:
        CollectionMismatchError: a store holds other documents, or another model's.
        ConfigError: the collections or modes do not make a task.
        MissingExtraError: ``ir-measures``, ``bm25s`` or the store's client is not installed.
        StoreError: the database failed; call again to go on.
    """
    _check(collections, modes)
    if approximate and store == "memory://":
        raise ConfigError("memory:// has no approximate search: give a folder or a server")
    if dev:
        check_dev(dev, collections, modes)
    measures = measures_of([*collections, *dev])
    import_ir_measures()  # now, and not after an hour
    if bm25:
        BM25([])
    protocol = protocol or PROTOCOLS["paper"]
    tuned: tuple[Tuned, ...] = ()
    with _folder(out) as folder:
        asked = Asked(
            embed=embed,
            query_embed=query_encoder(embed, max_length=protocol.query_max_length),
            opener=store_opener(store, embed, several=len(collections) > 1),
            store=store if isinstance(store, str) else "opened by the caller",
            protocol=protocol,
            modes=tuple(modes),
            bm25=bm25,
            approximate=approximate,
            out=folder,
            progress=progress,
            long_documents=long_documents,
        )
        if dev:
            protocol, tuned = tune_weights(dev, asked)
            asked = replace(asked, protocol=protocol, untuned=asked.protocol)
        searched = [evaluate_collection(collection, asked) for collection in collections]
    systems = [*modes, *([BM25_NAME] if bm25 else [])]
    baseline = BM25_NAME if bm25 else modes[0]
    summary = summarise(measure_groups(searched, systems, measures), systems, measures, baseline)
    evaluation = Evaluation(
        task=task or ", ".join(collection.name for collection in collections),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
        environment={**describe_environment(), "runtime": embed.session.description},
        model=_describe_model(embed),
        store=asked.store,
        protocol=protocol.describe(embed.max_length)
        | ({} if long_documents == REFUSE else {"long documents": long_documents.describe()}),
        measures=tuple(measures),
        systems=tuple(systems),
        baseline=baseline,
        groups=summary.groups,
        mean=summary.mean,
        pooled=summary.pooled,
        comparisons=summary.comparisons,
        costs={one.collection.name: one.cost for one in searched},
        approximations=approximations(searched, asked.modes, measures),
        curves=weight_curves(searched, protocol),
        tunings=tunings(searched, tuned, measures[0]),
        fusion_error=worst_fusion_error(searched, protocol),
    )
    if out is not None:
        evaluation.save(out / RESULTS)
    return evaluation


def store_opener(store: str | StoreOpener, embed: M3EmbeddingFunction, *, several: bool) -> StoreOpener:
    """How the store of each collection is opened."""
    if not isinstance(store, str):
        return store
    url = place_name(store) if several else store

    def opener(name: str, exact: bool) -> VectorStore:
        # A path is taken as it is, a URL is unquoted by ``open_store``.
        place = quote(file_name(name), safe="") if "://" in url or url.startswith("file:") else file_name(name)
        return open_store(url.replace(PLACE, place), identity=embed.identity, exact=exact)

    return opener


def place_name(url: str) -> str:
    """A store URL with a place for a collection's name: ``./e.qdrant`` becomes ``./e-{collection}.qdrant``."""
    if PLACE in url or url == "memory://":
        return url
    url = url.rstrip("/")
    suffix = next((suffix for suffix in SUFFIXES if url.lower().endswith(suffix)), "")
    stem = url[: len(url) - len(suffix)]
    return f"{stem}-{PLACE}{url[len(stem) :]}"


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """A folder for the rankings, which is gone afterwards if nobody asked for one."""
    if out is not None:
        yield out
    else:
        with TemporaryDirectory(prefix="m3-vdb-") as folder:
            yield Path(folder)


def _check(collections: Sequence[Collection], modes: Sequence[Mode]) -> None:
    if not collections or not all(collection.queries for collection in collections):
        raise ConfigError("nothing to evaluate: expected at least one collection, each with queries")
    if len({file_name(collection.name) for collection in collections}) < len(collections):
        raise ConfigError("two collections have the same name: their figures could not be told apart")
    if not modes or not set(modes) <= set(MODES) or len(set(modes)) < len(modes):
        raise ConfigError(f"modes={list(modes)}: expected one or more of {', '.join(MODES)}, each once")


def _describe_model(embed: M3EmbeddingFunction) -> dict[str, str]:
    about = {"name": embed.identity.name, "fingerprint": embed.identity.fingerprint}
    with suppress(BundleError):  # a model made from parts has no file, so no stored precision
        about["precision"] = embed.bundle.precision
    return {**about, "max_length": str(embed.max_length)}
