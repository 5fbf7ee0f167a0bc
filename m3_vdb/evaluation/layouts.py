"""One reader for each layout of test collections on disk.

BEIR is the form inside: every layout gives documents ``(id, title, text)``, queries ``(id, text, language)`` and
judgements ``query → document → grade``. Queries and judgements are read at once, documents when they are needed. Every
file may end in ``.gz``. An error names file and line. A document without text is kept: it is part of the corpus.
TREC's markup is in ``sgml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import sgml
from m3_vdb.evaluation.answers import mkqa_passage
from m3_vdb.evaluation.collection import Collection
from m3_vdb.evaluation.files import (
    FileDocuments,
    Place,
    Qrels,
    QueryRow,
    find_file,
    has_file,
    identifier,
    jsonl_documents,
    language_of,
    read_jsonl,
    read_placed,
    read_qrels,
    read_queries,
    read_text,
    read_topics,
    strings,
)
from m3_vdb.jsonl import line_error
from m3_vdb.types import Document

Languages: TypeAlias = Set[str] | None
"""The query languages that are wanted; None for all."""
Reader: TypeAlias = Callable[[Path, str, Languages], list[Collection]]
CORPUS_FILE: Final = "corpus.jsonl"
MIRACL: Final = "miracl-v1.0-"
MIRACL_CORPUS: Final = "miracl-corpus-v1.0-"
MLDR: Final = "mldr-v1.0-"
MLDR_GRADES: Final = (("negative_passages", 0), ("positive_passages", 1))
"""The later one wins where a passage is both."""
MKQA_FILE: Final = "mkqa.jsonl"
MKQA_WITHOUT_ANSWER: Final = ("unanswerable", "binary", "long_answer")
TREC_SPLITS: Final = frozenset({"train", "dev", "test"})


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which collections lie in a folder.

    Attributes:
        name: what ``layout=`` calls it.
        expected: the files, in words, for messages.
        split: what is read if no split is asked for: the one that is usually reported.
        recognise: whether a folder looks like it; reads file names and nothing else.
        read: folder, split and languages → the collections in it that have a query in the languages.
    """

    name: str
    expected: str
    split: str
    recognise: Callable[[Path], bool]
    read: Reader


LAYOUTS: Final[dict[str, Layout]] = {}
"""By name, in the order in which messages list them."""


def _layout(
    name: str, expected: str, recognise: Callable[[Path], bool], *, split: str = "test"
) -> Callable[[Reader], Reader]:
    def register(read: Reader) -> Reader:
        LAYOUTS[name] = Layout(name, expected, split, recognise, read)
        return read

    return register


def _judged(
    name: str,
    documents: FileDocuments,
    rows: Iterable[QueryRow],
    qrels: Qrels,
    files: tuple[Path, Path],
    lang: str = "",
) -> Collection:
    """The collection of the queries that were judged, in their order; ``files`` are those of queries and judgements."""
    queries = read_queries(rows)
    if unknown := sorted(qrels.keys() - queries.keys()):
        raise ConfigError(f"{files[1]}: the judged query {unknown[0]!r} is not in {files[0].name}")
    return Collection(name, documents, {one: queries[one] for one in queries if one in qrels}, qrels, lang=lang)


def _in_languages(collection: Collection, langs: Languages) -> list[Collection]:
    """The collection with its queries in these languages; none where no query is left."""
    kept = collection.only(name for name, query in collection.queries.items() if langs is None or query.lang in langs)
    return [kept] if kept.queries else []


# BEIR: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. A query's language is its field ``lang``, or that of its
# ``metadata``, or the folder's name if that is a language tag (de, pt-br, zh_CN), which is the documents' language too.


@_layout(
    "beir",
    "corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, each also as .gz",
    lambda at: has_file(at, CORPUS_FILE) and (has_file(at, "queries.jsonl") or (at / "qrels").is_dir()),
)
def _read_beir(folder: Path, split: str, langs: Languages) -> list[Collection]:
    source = find_file(folder, "queries.jsonl", expected=LAYOUTS["beir"].expected)
    judgements = find_file(folder / "qrels", f"{split}.tsv", expected="the judgements of the split")

    def rows() -> Iterator[QueryRow]:
        for place, fields in read_placed(source):
            about = fields.get("metadata")
            lang = fields.get("lang") or (about.get("lang") if isinstance(about, dict) else None) or ""
            if not isinstance(lang, str):
                raise line_error(*place, f"'lang' must be a string, got {lang!r}")
            yield place, fields.get("_id"), fields.get("text"), lang or language_of(folder), ""

    documents = jsonl_documents([find_file(folder, CORPUS_FILE, expected=LAYOUTS["beir"].expected)])
    name, lang = folder.resolve().name, language_of(folder)
    return _in_languages(_judged(name, documents, rows(), read_qrels(judgements), (source, judgements), lang), langs)


# MIRACL as it is on Hugging Face, one collection per language. Topics and corpus are two repositories: their folders
# may lie in one folder, or in the folders ``miracl`` and ``miracl-corpus`` beside each other.


@_layout(
    "miracl",
    "miracl-v1.0-LANG/ with topics/ and qrels/, and miracl-corpus-v1.0-LANG/docs-*.jsonl.gz",
    lambda at: bool(_by_language(at, MIRACL)),
    split="dev",
)
def _read_miracl(folder: Path, split: str, langs: Languages) -> list[Collection]:
    found = []
    for lang, place in _by_language(folder, MIRACL, langs):
        end = f"{place.name}-{split}.tsv"
        source = find_file(place / "topics", f"topics.{end}", expected="the queries of the split")
        judgements = find_file(place / "qrels", f"qrels.{end}", expected="the judgements of the split")
        qrels = read_qrels(judgements, trec=True)
        name, above = f"{MIRACL_CORPUS}{lang}", place.parent
        for parent in (above, above / "miracl-corpus", above.parent / "miracl-corpus"):
            files = sorted(p for p in parent.glob(f"{name}/docs-*.jsonl*") if p.suffix in (".gz", ".jsonl"))
            if files:
                break
        else:
            raise ConfigError(
                f"{place} has no corpus: expected {name}/docs-*.jsonl.gz beside it, or in a folder miracl-corpus "
                f"beside {above.name}; lang= reads fewer languages"
            )
        documents, rows = jsonl_documents(files, name=name), read_topics(source, lang)
        found.append(_judged(f"miracl-{lang}", documents, rows, qrels, (source, judgements), lang))
    return found


# MLDR as it is on Hugging Face, one collection per language: SPLIT.jsonl.gz holds the queries and the passages judged
# for them, whose texts are those of the corpus and are not read. What FlagEmbedding makes of it is ``flagembedding``.


@_layout("mldr", "mldr-v1.0-LANG/ with SPLIT.jsonl.gz and corpus.jsonl.gz", lambda at: bool(_by_language(at, MLDR)))
def _read_mldr(folder: Path, split: str, langs: Languages) -> list[Collection]:
    found = []
    for lang, place in _by_language(folder, MLDR, langs):
        source = find_file(place, f"{split}.jsonl", expected="the queries of the split")
        corpus = find_file(place, CORPUS_FILE, expected=LAYOUTS["mldr"].expected)
        qrels: Qrels = {}
        queries = read_queries(_mldr_rows(source, lang, qrels))
        if not queries:
            raise ConfigError(f"{source} holds no queries")
        found.append(Collection(f"mldr-{lang}", jsonl_documents([corpus]), queries, qrels, lang=lang))
    return found


def _mldr_rows(source: Path, lang: str, qrels: Qrels) -> Iterator[QueryRow]:
    """The queries one by one, as a file with its passages may be larger than memory; fills ``qrels``."""
    for place, fields in read_placed(source):
        name = fields.get("query_id")
        yield place, name, fields.get("query"), lang, ""
        qrels[identifier(name)] = _mldr_grades(fields, place)


def _mldr_grades(fields: dict[str, Any], place: Place) -> dict[str, int]:
    grades: dict[str, int] = {}
    for key, grade in MLDR_GRADES:
        passages = fields.get(key) or []
        known = isinstance(passages, list) and all(isinstance(passage, dict) for passage in passages)
        ids = [identifier(passage.get("docid")) for passage in passages] if known else [""]
        if not all(ids):
            raise line_error(*place, f'{key!r} must be a list of {{"docid": str, …}}')
        grades |= dict.fromkeys(ids, grade)
    if not any(grades.values()):
        raise line_error(*place, "'positive_passages' must have at least one")
    return grades


# MKQA: mkqa.jsonl of github.com/apple/ml-mkqa, and the corpus of BEIR's NQ beside it or in a sub-folder. All languages
# share the English corpus, so it is encoded once. This follows the evaluation of the paper, which is Contriever's: the
# answers are the English ones whatever the language of the question; a question is dropped if its last English answer
# is unanswerable, binary or long (6,619 stay); passages are read in lower case with plain quotes, hyphens and slashes.
# The paper's mean is of the 25 languages other than English.


@_layout(
    "mkqa",
    "mkqa.jsonl, and corpus.jsonl of BEIR's NQ beside it or in a sub-folder, also as .gz",
    lambda at: has_file(at, MKQA_FILE),
)
def _read_mkqa(folder: Path, split: str, langs: Languages) -> list[Collection]:
    source = find_file(folder, MKQA_FILE, expected=LAYOUTS["mkqa"].expected)
    places = [one for one in (folder, *folders_in(folder)) if has_file(one, CORPUS_FILE)]
    if len(places) != 1 and places[:1] != [folder]:
        there = ", ".join(place.name for place in places) or "none"
        raise ConfigError(f"{folder}: expected {CORPUS_FILE} of BEIR's NQ here or in one sub-folder, found {there}")
    corpus = find_file(places[0], CORPUS_FILE, expected=LAYOUTS["mkqa"].expected)
    accepted: dict[str, tuple[str, ...]] = {}

    def rows() -> Iterator[QueryRow]:
        for place, fields in read_placed(source):
            answers = _mkqa_answers(fields, place)
            wordings = fields.get("queries")
            if not answers:
                continue
            if not isinstance(wordings, dict) or not wordings or not all(isinstance(w, str) for w in wordings.values()):
                raise line_error(*place, 'expected {"queries": {LANG: str, …}}')
            question = identifier(fields.get("example_id"))
            for lang, text in wordings.items():
                if langs is None or lang in langs:
                    name = f"{question}-{lang}" if question else ""
                    accepted[name] = answers
                    yield place, name, text, lang, question

    queries = read_queries(rows())
    documents = jsonl_documents([corpus], rewrite=mkqa_passage)
    return [Collection("mkqa", documents, queries, answers=accepted, lang="en")] if queries else []


def _mkqa_answers(fields: dict[str, Any], place: Place) -> tuple[str, ...]:
    """The accepted answers, aliases among them; () if the question is dropped."""
    by_language = fields.get("answers")
    english = by_language.get("en") if isinstance(by_language, dict) else None
    if not isinstance(english, list) or not all(isinstance(answer, dict) for answer in english):
        raise line_error(*place, 'expected {"answers": {"en": [{"type", "text", "aliases"?}, …]}}')
    kept = [answer for answer in english if answer.get("type") not in MKQA_WITHOUT_ANSWER]
    if not kept or kept[-1] is not english[-1]:
        return ()
    if not all(isinstance(answer.get("text"), str) for answer in kept):
        raise line_error(*place, "'text' of an answer must be a string")
    where, index = f"{place[0]}, line {place[1] + 1}", place[1]
    return tuple(text for answer in kept for text in (*strings(answer, "aliases", where, index), answer["text"]))


# TREC: topics* with <top> blocks or lines of id, tab and query; qrels* with four columns; the corpus in corpus/ or
# docs/, or files called corpus*, docs*, documents* or collection*, with <DOC> blocks or JSONL. If there are several
# topics or qrels, the split's name must be a part of theirs (qrels.dev.txt).


@_layout(
    "trec",
    "topics*, qrels* and corpus/, docs/ or corpus*, with <DOC> blocks or JSONL",
    lambda at: bool(_files(at, "topics*") and _files(at, "qrels*")),
)
def _read_trec(folder: Path, split: str, langs: Languages) -> list[Collection]:
    source, judgements = (_trec_file(folder, pattern, split) for pattern in ("topics*", "qrels*"))
    lang = language_of(folder)
    rows = read_topics(source, lang)
    if _is_sgml(source):
        rows = (((source, index), number, title, lang, "") for index, number, title in sgml.read_topics(source))
    qrels = read_qrels(judgements, trec=True)
    paths = [path for name in ("corpus", "docs") for path in _files(folder / name, "**/*")]
    paths = paths or [
        p for pattern in ("corpus*", "docs*", "documents*", "collection*") for p in _files(folder, pattern)
    ]
    if not paths:
        raise ConfigError(f"{folder} has no corpus: expected {LAYOUTS['trec'].expected}")

    def documents() -> Iterator[tuple[Place, Document]]:
        for path in paths:
            if _is_sgml(path):
                yield from (((path, index), document) for index, document in sgml.read_documents(path))
            else:
                yield from read_jsonl(path)

    corpus, name = FileDocuments(documents, str(folder)), folder.resolve().name
    return _in_languages(_judged(name, corpus, rows, qrels, (source, judgements), lang), langs)


def _trec_file(folder: Path, pattern: str, split: str) -> Path:
    """The file of the split: the one with its name, or the only one if that names no other split."""
    parts = {path: set(re.split(r"[._-]", path.name)) for path in _files(folder, pattern)}
    chosen = [path for path in parts if split in parts[path]]
    chosen = chosen or [path for path in parts if not parts[path] & TREC_SPLITS]
    if len(chosen) != 1:
        there = ", ".join(path.name for path in parts)
        raise ConfigError(f"{folder}: expected one {pattern} of the split {split!r}, there are {there}")
    return chosen[0]


def _is_sgml(path: Path) -> bool:
    _, line = next(read_text(path), (0, ""))
    return line.lstrip().startswith("<")


# FlagEmbedding 1.4's form of any data set: {"id", "title"?, "text"}, {"id", "text"} and {"qid", "docid", "relevance"}.


@_layout(
    "flagembedding",
    "corpus.jsonl, SPLIT_queries.jsonl and SPLIT_qrels.jsonl, each also as .gz",
    lambda at: has_file(at, CORPUS_FILE) and any(at.glob("*_queries.jsonl*")),
)
def _read_flagembedding(folder: Path, split: str, langs: Languages) -> list[Collection]:
    source = find_file(folder, f"{split}_queries.jsonl", expected="the queries of the split")
    judgements = find_file(folder, f"{split}_qrels.jsonl", expected="the judgements of the split")
    lang = language_of(folder)
    rows = ((place, row.get("id"), row.get("text"), lang, "") for place, row in read_placed(source))
    qrels: Qrels = {}
    for place, fields in read_placed(judgements):
        query, document, grade = identifier(fields.get("qid")), identifier(fields.get("docid")), fields.get("relevance")
        if not query or not document or not isinstance(grade, int):
            raise line_error(*place, 'expected {"qid": str, "docid": str, "relevance": int}')
        qrels.setdefault(query, {})[document] = grade
    if not qrels:
        raise ConfigError(f"{judgements} holds no judgements")
    documents = jsonl_documents([find_file(folder, CORPUS_FILE, expected=LAYOUTS["flagembedding"].expected)])
    name = folder.resolve().name
    return _in_languages(_judged(name, documents, rows, qrels, (source, judgements), lang), langs)


def _by_language(folder: Path, prefix: str, langs: Languages = None) -> list[tuple[str, Path]]:
    """(language, folder) of ``PREFIXLANG`` in a folder, or of the folder itself; none if it is of another layout."""
    here = folder.resolve().name.startswith(prefix)
    folders = [folder.resolve()] if here else folders_in(folder, f"{prefix}*")
    by_language = {path.name.removeprefix(prefix): path for path in folders}
    return [(lang, path) for lang, path in by_language.items() if langs is None or lang in langs]


def folders_in(folder: Path, pattern: str = "*") -> list[Path]:
    """The sub-folders of a folder, by name."""
    return sorted(path for path in folder.glob(pattern) if path.is_dir())


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())
