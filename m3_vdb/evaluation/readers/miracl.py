"""MIRACL as it is on Hugging Face, one collection a language.

``miracl-v1.0-LANG/topics/topics.miracl-v1.0-LANG-SPLIT.tsv``, ``miracl-v1.0-LANG/qrels/qrels.miracl-…-SPLIT.tsv``
(TREC's four columns) and ``miracl-corpus-v1.0-LANG/docs-*.jsonl.gz``. The topics and the corpus are two repositories:
their folders may lie in one folder, or in the folders ``miracl`` and ``miracl-corpus`` beside each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.readers._documents import jsonl_documents
from m3_vdb.evaluation.readers._files import find_file
from m3_vdb.evaluation.readers._layout import Languages, Layout, folders_in
from m3_vdb.evaluation.readers._tables import only_judged, read_qrels, read_topics

TOPICS: Final = "miracl-v1.0-"
CORPUS: Final = "miracl-corpus-v1.0-"


def recognise(folder: Path) -> bool:
    """Whether a folder looks like MIRACL."""
    return bool(_folders(folder))


def read(folder: Path, split: str, langs: Languages) -> list[Collection]:
    """The collections in a folder, languages in order.

    Raises:
        ConfigError: a file is missing, or judges a query that is not there.
        DocumentError: a line of the topics is malformed.
    """
    folders = {path.name.removeprefix(TOPICS): path for path in _folders(folder)}
    return [_read(path, lang, split) for lang, path in folders.items() if langs is None or lang in langs]


def _folders(folder: Path) -> list[Path]:
    if folder.resolve().name.startswith(TOPICS):
        return [folder.resolve()]
    return folders_in(folder, f"{TOPICS}*")


def _read(folder: Path, lang: str, split: str) -> Collection:
    end = f"{folder.name}-{split}.tsv"
    topics = find_file(folder / "topics", f"topics.{end}", expected="the queries of the split")
    judgements = find_file(folder / "qrels", f"qrels.{end}", expected="the judgements of the split")
    qrels = read_qrels(judgements, trec=True)
    queries = only_judged(read_topics(topics, lang=lang), qrels, qrels=judgements, source=topics)
    documents = jsonl_documents(_corpus(folder, lang), name=f"{CORPUS}{lang}")
    return Collection(f"miracl-{lang}", documents, queries, qrels, lang=lang)


def _corpus(folder: Path, lang: str) -> list[Path]:
    name, above = f"{CORPUS}{lang}", folder.parent
    for place in (above, above / "miracl-corpus", above.parent / "miracl-corpus"):
        if files := sorted(path for path in place.glob(f"{name}/docs-*.jsonl*") if path.suffix in (".gz", ".jsonl")):
            return files
    raise ConfigError(
        f"{folder} has no corpus: expected {name}/docs-*.jsonl.gz beside it, or in a folder miracl-corpus beside "
        f"{above.name}; lang= reads fewer languages"
    )


LAYOUT: Final = Layout(
    "miracl",
    "miracl-v1.0-LANG/ with topics/ and qrels/, and miracl-corpus-v1.0-LANG/docs-*.jsonl.gz",
    "dev",
    recognise,
    read,
)
