"""Test collections in BEIR layout: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv``, whole or thinned.

Queries, judgements and the choice of a thinner collection are those of ``m3_vdb.evaluation``; here is what a trainer
needs beyond it, random access to the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import choose
from m3_vdb.evaluation.datasets import CORPUS_FILE, find_folders, read_judged
from train.retrieval.corpus import Corpus
from train.retrieval.options import EvaluateOptions


@dataclass(frozen=True, slots=True)
class Collection:
    """Passages, queries and judgements.

    Attributes:
        name: of the folder.
        corpus: passages with unique ids.
        queries: id → text, of the judged queries.
        qrels: query id → passage id → grade; above 0 is relevant.
    """

    name: str
    corpus: Corpus
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def find_collections(places: Iterable[str | Path]) -> dict[str, Path]:
    """Name → folder of every collection, in the order given; the name is the whole path where it is not unique.

    Args:
        places: folders in BEIR layout, folders of such folders, or glob patterns of either.

    Raises:
        ConfigError: a place holds no collection.
    """
    folders: dict[Path, None] = {}
    for place in places:
        found = find_folders(place, lambda folder: (folder / CORPUS_FILE).is_file())
        if not found:
            raise ConfigError(
                f"no collection in {place}: expected a folder with {CORPUS_FILE}, queries.jsonl and qrels/, a folder "
                f"of such folders, or a glob pattern"
            )
        folders |= dict.fromkeys(found)
    names = [folder.resolve().name for folder in folders]
    return {
        name if names.count(name) == 1 else folder.as_posix(): folder
        for name, folder in zip(names, folders, strict=True)
    }


def read_collection(folder: Path, *, name: str, options: EvaluateOptions) -> Collection:
    """Read a collection and thin it as the options say: to the same queries and documents on every machine.

    Raises:
        ConfigError: a file is missing, or says something impossible.
        DocumentError: a line of the corpus or the queries is malformed; file and line are in the message.
    """
    queries, qrels = read_judged(folder, options.split)
    kept = sorted(qrels) if options.max_queries is None else choose(qrels, options.max_queries, options.seed)
    qrels = {query: qrels[query] for query in kept}
    corpus = Corpus.read(folder / CORPUS_FILE)
    if len(set(corpus.ids)) < len(corpus) or "" in corpus.ids:
        raise ConfigError(f"{folder / CORPUS_FILE}: expected an '_id' on every line, each once")
    if options.max_documents is not None and options.max_documents < len(corpus):
        judged = {passage for grades in qrels.values() for passage in grades} & set(corpus.ids)
        others = choose(set(corpus.ids) - judged, max(0, options.max_documents - len(judged)), options.seed)
        chosen = judged.union(others)
        corpus = corpus.select(row for row, passage in enumerate(corpus.ids) if passage in chosen)
    return Collection(name, corpus, {query: queries[query].text for query in kept}, qrels)
