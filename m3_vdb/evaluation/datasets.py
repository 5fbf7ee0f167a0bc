"""Test collections on disk: one reader per layout, and ``open_collections``, which finds out which layout it is.

BEIR is the form inside: every layout gives documents ``(id, title, text)``, queries ``(id, text, language)`` and
judgements ``query → document → grade``. Queries and judgements are read at once, documents when they are needed. Every
file may end in ``.gz``. An error names file and line. A document without text is kept: it is part of the corpus.
TREC's markup is in ``sgml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any, Final, TypeAlias

from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import sgml
from m3_vdb.evaluation.collection import Collection, Query
from m3_vdb.evaluation.files import (
    FileDocuments,
    Place,
    Qrels,
    check_strings,
    find_file,
    has_file,
    identifier,
    jsonl_documents,
    read_jsonl,
    read_placed,
    read_qrels,
    read_text,
    strings,
)
from m3_vdb.jsonl import line_error
from m3_vdb.types import Document

Languages: TypeAlias = Set[str] | None
"""The query languages that are wanted; None for all."""
Reader: TypeAlias = Callable[[Path, str, Languages], list[Collection]]
QueryRow: TypeAlias = tuple[Place, object, object, str, str]
"""Place, id, text, language and, where several languages share it, the question's id."""

CORPUS_FILE: Final = "corpus.jsonl"
ISO_639_1: Final = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st "
    "su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
LANGUAGE_TAG: Final = re.compile(r"([a-z]{2})(?:[-_](?:[A-Za-z]{2}|hans|hant|latn|cyrl|Hans|Hant|Latn|Cyrl))?")
MIRACL: Final = "miracl-v1.0-"
MIRACL_CORPUS: Final = "miracl-corpus-v1.0-"
MLDR: Final = "mldr-v1.0-"
MLDR_GRADES: Final = (("negative_passages", 0), ("positive_passages", 1))
"""The later one wins where a passage is both."""
MKQA_FILE: Final = "mkqa.jsonl"
MKQA_WITHOUT_ANSWER: Final = ("unanswerable", "binary", "long_answer")
MKQA_PLAIN: Final = str.maketrans(
    dict.fromkeys("‐‑⁃‒–—―−－⁻", "-")
    | dict.fromkeys("“”„‟", '"')
    | dict.fromkeys("‘’‚‛՚Ꞌꞌ＇`´′‵", "'")
    | dict.fromkeys("⁄∕", "/")
    | {"″": "''", "‶": "''", "‴": "'''", "‷": "'''", "⁗": "''''", "…": "...", "\u00ad": None}
    | dict.fromkeys("\v\f\u0085", " ")
    | dict.fromkeys(map(chr, [*range(1, 9), 14, 15, *range(17, 28)]), None)
)
"""What the paper's evaluation replaces in a passage."""
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


def open_collections(
    places: str | Path | Iterable[str | Path],
    *,
    layout: str = "auto",
    split: str | None = None,
    lang: str | Sequence[str] | None = None,
) -> list[Collection]:
    """The collections at one place or several.

    Args:
        places: each a folder in one of the layouts, a folder of such folders, or a glob pattern of either.
        layout: name of the layout; "auto" goes by the files that are there.
        split: of the judgements, e.g. "dev"; None is what the layout usually reports ("dev" for MIRACL, else "test").
        lang: one language or several, as the collections write them; only queries in these are kept. None keeps all.

    Returns:
        The collections in the order of the folders, with queries. A name is the folder's, or ``miracl-LANG``,
        ``mldr-LANG``, ``mkqa``; where two would be equal, they have their folder's path before them.

    Raises:
        ConfigError: a place has no collection, a folder could be of two layouts, a file is missing or wrong as a
            whole, or there are no queries in a language.
        DocumentError: a line of the queries is malformed; file and line are in the message.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"layout={layout!r}: expected auto, {', '.join(LAYOUTS)}")
    candidates = list(LAYOUTS.values()) if layout == "auto" else [LAYOUTS[layout]]
    langs = None if lang is None else frozenset([lang] if isinstance(lang, str) else lang)
    places = [places] if isinstance(places, (str, Path)) else list(places)
    found: list[tuple[Path, Collection]] = []
    for folder in dict.fromkeys(folder for place in places for folder in _find_folders(place, candidates)):
        first, *others = [one for one in candidates if one.recognise(folder)]
        if others:
            several = ", ".join(one.name for one in (first, *others))
            raise ConfigError(f"{folder} could be of several layouts ({several}): choose one with layout=")
        found += [(folder, collection) for collection in first.read(folder, split or first.split, langs)]
    there = {query.lang for _, collection in found for query in collection.queries.values()}
    if missing := sorted((langs or frozenset()) - there):
        raise ConfigError(
            f"no queries in {', '.join(map(repr, missing))} in {', '.join(map(str, places))}: "
            f"lang= takes what is written there"
        )
    names = [one.name for _, one in found]
    return [
        one
        if names.count(one.name) == 1
        else replace(one, name=(folder if folder.name == one.name else folder / one.name).as_posix())
        for folder, one in found
    ]


def _find_folders(place: str | Path, layouts: Sequence[Layout]) -> list[Path]:
    """The folders at a place that look like collections: itself, else its sub-folders; a pattern may match several."""

    def recognised(folder: Path) -> bool:
        return any(layout.recognise(folder) for layout in layouts)

    matches = [Path(place)] if Path(place).exists() else [Path(match) for match in sorted(glob(str(place)))]
    found: dict[Path, None] = {}
    for match in filter(Path.is_dir, matches):
        found |= dict.fromkeys([match] if recognised(match) else filter(recognised, _folders_in(match)))
    if not found:
        expected = "; ".join(f"{one.name}: {one.expected}" for one in layouts)
        raise ConfigError(
            f"no collection in {place}: expected a folder, a folder of such folders, or a glob pattern – {expected}"
        )
    return list(found)


def _queries(rows: Iterable[QueryRow]) -> dict[str, Query]:
    queries: dict[str, Query] = {}
    for place, name, text, lang, question in rows:
        key = identifier(name)
        if not key or not isinstance(text, str):
            raise line_error(
                *place, f"expected a query's id (a string or a whole number) and its text, got {name!r} and {text!r}"
            )
        if key in queries:
            raise line_error(*place, f"the query id {key!r} is not unique")
        check_strings([key, text], f"{place[0]}, line {place[1] + 1}", place[1])
        queries[key] = Query(text, lang, question)
    return queries


def _topics(path: Path, lang: str) -> Iterator[QueryRow]:
    """Query id and text, a tab between them."""
    for index, line in read_text(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise line_error(path, index, f"expected query id, tab and text, got {line!r}")
        yield (path, index), fields[0], fields[1], lang, ""


def _judged(queries: dict[str, Query], qrels: Qrels, source: Path, judgements: Path) -> dict[str, Query]:
    """The queries that were judged, in their order."""
    if unknown := sorted(qrels.keys() - queries.keys()):
        raise ConfigError(f"{judgements}: the judged query {unknown[0]!r} is not in {source.name}")
    return {name: query for name, query in queries.items() if name in qrels}


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

    qrels = read_qrels(judgements)
    queries = _judged(_queries(rows()), qrels, source, judgements)
    documents = jsonl_documents([find_file(folder, CORPUS_FILE, expected=LAYOUTS["beir"].expected)])
    collection = Collection(folder.resolve().name, documents, queries, qrels, lang=language_of(folder))
    return _in_languages(collection, langs)


def language_of(folder: Path) -> str:
    """The name of a folder if it is a language tag, else ""."""
    name = folder.resolve().name
    tag = LANGUAGE_TAG.fullmatch(name)
    return name if tag and tag[1] in ISO_639_1.split() else ""


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
        queries = _judged(_queries(_topics(source, lang)), qrels, source, judgements)
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
        found.append(Collection(f"miracl-{lang}", jsonl_documents(files, name=name), queries, qrels, lang=lang))
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
        queries = _queries(_mldr_rows(source, lang, qrels))
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
    places = [one for one in (folder, *_folders_in(folder)) if has_file(one, CORPUS_FILE)]
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

    queries = _queries(rows())
    documents = jsonl_documents([corpus], rewrite=mkqa_passage)
    return [Collection("mkqa", documents, queries, answers=accepted, lang="en")] if queries else []


def mkqa_passage(text: str) -> str:
    """A passage as the paper's evaluation reads it."""
    return text.lower().translate(MKQA_PLAIN).replace(" . . . ", " ... ")


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
    rows = _sgml_topics(source, lang) if _is_sgml(source) else _topics(source, lang)
    qrels = read_qrels(judgements, trec=True)
    queries = _judged(_queries(rows), qrels, source, judgements)
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

    name = folder.resolve().name
    return _in_languages(Collection(name, FileDocuments(documents, str(folder)), queries, qrels, lang=lang), langs)


def _sgml_topics(path: Path, lang: str) -> Iterator[QueryRow]:
    for index, number, title in sgml.read_topics(path):
        yield (path, index), number, title, lang, ""


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
    queries = _queries((place, row.get("id"), row.get("text"), lang, "") for place, row in read_placed(source))
    qrels: Qrels = {}
    for place, fields in read_placed(judgements):
        query, document, grade = identifier(fields.get("qid")), identifier(fields.get("docid")), fields.get("relevance")
        if not query or not document or not isinstance(grade, int):
            raise line_error(*place, 'expected {"qid": str, "docid": str, "relevance": int}')
        qrels.setdefault(query, {})[document] = grade
    if not qrels:
        raise ConfigError(f"{judgements} holds no judgements")
    queries = _judged(queries, qrels, source, judgements)
    documents = jsonl_documents([find_file(folder, CORPUS_FILE, expected=LAYOUTS["flagembedding"].expected)])
    return _in_languages(Collection(folder.resolve().name, documents, queries, qrels, lang=lang), langs)


def _by_language(folder: Path, prefix: str, langs: Languages = None) -> list[tuple[str, Path]]:
    """(language, folder) of ``PREFIXLANG`` in a folder, or of the folder itself; none if it is of another layout."""
    here = folder.resolve().name.startswith(prefix)
    folders = [folder.resolve()] if here else _folders_in(folder, f"{prefix}*")
    by_language = {path.name.removeprefix(prefix): path for path in folders}
    return [(lang, path) for lang, path in by_language.items() if langs is None or lang in langs]


def _folders_in(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_dir())


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())
