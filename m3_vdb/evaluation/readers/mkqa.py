"""MKQA: questions in 26 languages over one English corpus, judged by English answers; one collection.

``mkqa.jsonl`` of github.com/apple/ml-mkqa, and the corpus of BEIR's NQ: ``corpus.jsonl`` beside it or in a sub-folder
(both also as ``.gz``). All languages share the corpus, so that it is encoded once. This follows the evaluation of the
paper, which is that of Contriever: the answers are the English ones whatever the language of the question; a question
is dropped if its last English answer is unanswerable, binary or long (6,619 stay); passages are read in lower case
with plain quotes, hyphens and slashes. The paper's mean is of the 25 languages other than English.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.evaluation.collection import Collection, Query
from m3_vdb.evaluation.readers._documents import jsonl_documents
from m3_vdb.evaluation.readers._files import find_file, has_file, identifier, read_objects, strings
from m3_vdb.evaluation.readers._layout import Languages, Layout, folders_in
from m3_vdb.evaluation.readers._tables import add_query

QUESTIONS_FILE: Final = "mkqa.jsonl"
CORPUS_FILE: Final = "corpus.jsonl"
NO_ANSWER: Final = ("unanswerable", "binary", "long_answer")
PLAIN: Final = str.maketrans(
    dict.fromkeys("‐‑⁃‒–—―−－⁻", "-")
    | dict.fromkeys("“”„‟", '"')
    | dict.fromkeys("‘’‚‛՚Ꞌꞌ＇`´′‵", "'")
    | dict.fromkeys("⁄∕", "/")
    | {"″": "''", "‶": "''", "‴": "'''", "‷": "'''", "⁗": "''''", "…": "...", "\u00ad": None}
    | dict.fromkeys("\v\f\u0085", " ")
    | dict.fromkeys(map(chr, [*range(1, 9), 14, 15, *range(17, 28)]), None)
)
"""What the paper's evaluation replaces in a passage."""


def recognise(folder: Path) -> bool:
    """Whether a folder looks like MKQA."""
    return has_file(folder, QUESTIONS_FILE)


def read(folder: Path, split: str, langs: Languages) -> list[Collection]:
    """The collection in a folder; there is but one split.

    Raises:
        ConfigError: a file is missing, or no question is left.
        DocumentError: a line of the questions is malformed.
    """
    source = find_file(folder, QUESTIONS_FILE, expected=LAYOUT.expected)
    queries: dict[str, Query] = {}
    answers: dict[str, tuple[str, ...]] = {}
    for index, fields in read_objects(source):
        where = f"{source}, line {index + 1}"
        if accepted := _answers(fields, where, index):
            question = identifier(fields.get("example_id"))
            for lang, text in _wordings(fields, where, index).items():
                if langs is None or lang in langs:
                    name = f"{question}-{lang}" if question else ""
                    add_query(queries, name, text, where, index, lang=lang, question=question)
                    answers[name] = accepted
    documents = jsonl_documents([_corpus(folder)], rewrite=plain)
    return [Collection("mkqa", documents, queries, answers=answers, lang="en")] if queries else []


def plain(text: str) -> str:
    """A passage as the paper's evaluation reads it."""
    return text.lower().translate(PLAIN).replace(" . . . ", " ... ")


def _answers(fields: Mapping[str, Any], where: str, index: int) -> tuple[str, ...]:
    """The accepted answers, aliases among them; () if the question is dropped."""
    by_language = fields.get("answers")
    english = by_language.get("en") if isinstance(by_language, dict) else None
    if not isinstance(english, list) or not all(isinstance(answer, dict) for answer in english):
        raise DocumentError(
            f'{where}: expected {{"answers": {{"en": [{{"type", "text", "aliases"?}}, …]}}}}', index=index
        )
    kept = [answer for answer in english if answer.get("type") not in NO_ANSWER]
    if not kept or kept[-1] is not english[-1]:
        return ()
    if not all(isinstance(answer.get("text"), str) for answer in kept):
        raise DocumentError(f"{where}: 'text' of an answer must be a string", index=index)
    return tuple(text for answer in kept for text in (*strings(answer, "aliases", where, index), answer["text"]))


def _wordings(fields: Mapping[str, Any], where: str, index: int) -> dict[str, str]:
    wordings = fields.get("queries")
    if not isinstance(wordings, dict) or not wordings or not all(isinstance(text, str) for text in wordings.values()):
        raise DocumentError(f'{where}: expected {{"queries": {{LANG: str, …}}}}', index=index)
    return wordings


def _corpus(folder: Path) -> Path:
    if has_file(folder, CORPUS_FILE):
        return find_file(folder, CORPUS_FILE, expected=LAYOUT.expected)
    places = [place for place in folders_in(folder) if has_file(place, CORPUS_FILE)]
    if len(places) != 1:
        there = ", ".join(place.name for place in places) or "none"
        raise ConfigError(f"{folder}: expected {CORPUS_FILE} of BEIR's NQ here or in one sub-folder, found {there}")
    return find_file(places[0], CORPUS_FILE, expected=LAYOUT.expected)


LAYOUT: Final = Layout(
    "mkqa",
    "mkqa.jsonl, and corpus.jsonl of BEIR's NQ beside it or in a sub-folder, also as .gz",
    "test",
    recognise,
    read,
)
