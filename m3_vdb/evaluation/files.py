"""Files line by line, plain or gzip: JSON objects, texts, judgements, for collections and training rows alike.

An error names file and line.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from m3_vdb.errors import ConfigError, DocumentError, TextError
from m3_vdb.evaluation.collection import Query
from m3_vdb.inputs import read_texts
from m3_vdb.jsonl import line_error, read_lines, read_objects
from m3_vdb.types import Document

Place: TypeAlias = tuple[Path, int]
"""File and line number from 0."""
Qrels: TypeAlias = dict[str, dict[str, int]]
QueryRow: TypeAlias = tuple[Place, object, object, str, str]
"""Place, id, text, language and, where several languages share it, the question's id."""
ID_FIELDS: Final = ("_id", "id", "docid")
"""A document's id in BEIR, in FlagEmbedding's files, and in MIRACL and MLDR."""
ISO_639_1: Final = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st "
    "su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
LANGUAGE_TAG: Final = re.compile(r"([a-z]{2})(?:[-_](?:[A-Za-z]{2}|hans|hant|latn|cyrl|Hans|Hant|Latn|Cyrl))?")
DOCUMENT_EXPECTED: Final = 'expected {"_id": str, "text": str, "title"?: str} ("id" and "docid" are ids too)'
GRADE: Final = re.compile(r"[+-]?[0-9]{1,9}")


def read_text(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 0, line without its end) of every line that is not blank.

    Raises:
        ConfigError: the file cannot be read.
        DocumentError: a line is not UTF-8.
    """
    for index, line in read_lines(path):
        try:
            yield index, line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise line_error(path, index, f"not UTF-8 at byte {error.start}") from None


def read_placed(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """``read_objects`` with the file beside each line's number."""
    return (((path, index), fields) for index, fields in read_objects(path))


def strings(fields: Mapping[str, Any], key: str, where: str, index: int) -> tuple[str, ...]:
    """A field that is a list of strings, () if it is missing or null.

    Raises:
        DocumentError: it is something else.
    """
    texts = fields.get(key)
    if texts is None:
        return ()
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DocumentError(f"{where}: {key!r} must be a list of strings", index=index)
    return tuple(texts)


def check_strings(texts: list[str], where: str, index: int) -> None:
    """Refuse lone surrogates where file and line are still known.

    Raises:
        DocumentError: one of the texts has some.
    """
    try:
        read_texts(texts)
    except TextError as error:
        raise DocumentError(f"{where}: {error}", index=index) from None


def identifier(value: object) -> str:
    """An id as a string: numbers become their digits; "" if it is neither."""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def read_queries(rows: Iterable[QueryRow]) -> dict[str, Query]:
    """Queries by id.

    Raises:
        DocumentError: an id or a text is missing, or an id repeats an earlier one.
    """
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


def read_topics(path: Path, lang: str) -> Iterator[QueryRow]:
    """Query id and text, a tab between them."""
    for index, line in read_text(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != 2 or not all(fields):
            raise line_error(path, index, f"expected query id, tab and text, got {line!r}")
        yield (path, index), fields[0], fields[1], lang, ""


def read_qrels(path: Path, *, trec: bool = False) -> Qrels:
    """Judgements: query id, document id and grade between tabs; a heading line may come first.

    Args:
        path: the file.
        trec: TREC's columns instead: query id, an ignored word, document id, grade, between white space.

    Raises:
        ConfigError: the file cannot be read, holds no judgement, a line is malformed, or one contradicts another.
        DocumentError: a line is not UTF-8.
    """
    expected = f"query id, {'Q0, ' * trec}document id and a whole number"
    qrels: Qrels = {}
    for number, (index, line) in enumerate(read_text(path)):
        fields = line.split() if trec else [field.strip() for field in line.split("\t")]
        if len(fields) == 3 + trec and number == 0 and not any(character.isdigit() for character in line):
            continue  # the names of the columns
        if len(fields) != 3 + trec or not all(fields) or not GRADE.fullmatch(fields[-1]):
            raise ConfigError(f"{path}, line {index + 1}: expected {expected}, got {line!r}")
        query, document, grade = fields[0], fields[-2], int(fields[-1])
        earlier = qrels.setdefault(query, {}).setdefault(document, grade)
        if earlier != grade:
            raise ConfigError(
                f"{path}, line {index + 1}: {document!r} has grade {grade} for {query!r}, and {earlier} further up"
            )
    if not qrels:
        raise ConfigError(f"{path} holds no judgements: expected lines of {expected}")
    return qrels


def language_of(folder: Path) -> str:
    """The name of a folder if it is a language tag, else ""."""
    name = folder.resolve().name
    tag = LANGUAGE_TAG.fullmatch(name)
    return name if tag and tag[1] in ISO_639_1.split() else ""


def has_file(folder: Path, name: str) -> bool:
    """Whether ``folder/name`` exists, or the same with ``.gz``."""
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def find_file(folder: Path, name: str, *, expected: str) -> Path:
    """``folder/name``, or the same with ``.gz`` if only that exists.

    Raises:
        ConfigError: neither exists; the message says what was ``expected`` and names the neighbours, which are often
            another split.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    there = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
    found = f"it holds {', '.join(there[:8])}{', …' * (len(there) > 8)}" if there else "there is nothing"
    raise ConfigError(f"{folder} has no {name} or {name}.gz ({found}): expected {expected}")


class FileDocuments:
    """Documents parsed anew whenever they are read, in the order of the files.

    The first whole reading, which ``len`` also is, refuses an id that repeats an earlier one; until its end, 64 bits
    of every id are in memory.

    Args:
        read: yields the documents from the beginning, each with the line where it begins.
        name: of the corpus, for messages.
    """

    def __init__(self, read: Callable[[], Iterator[tuple[Place, Document]]], name: str) -> None:
        self._read = read
        self._name = name
        self._count: int | None = None

    def __iter__(self) -> Iterator[Document]:
        """The documents.

        Raises:
            ConfigError: a file cannot be read, or there is no document at all.
            DocumentError: a document is malformed or repeats an id; file and line are in the message.
        """
        if self._count is not None:
            yield from (document for _, document in self._read())
            return
        seen: set[int] = set()
        for place, document in self._read():
            digest = hash(document.id)  # keyed SipHash: among 33 million ids two collide with a probability of 3·10⁻⁵
            if digest in seen:
                raise line_error(*place, f"the id {document.id!r} is not unique")
            seen.add(digest)
            yield document
        if not seen:
            raise ConfigError(f"{self._name} holds no documents")
        self._count = len(seen)

    def __len__(self) -> int:
        """The number of documents; the first call reads them through, and raises as reading does."""
        if self._count is None:
            deque(self, maxlen=0)
        return self._count or 0


def jsonl_documents(paths: Sequence[Path], rewrite: Callable[[str], str] = str, name: str = "") -> FileDocuments:
    """``{"_id" (or "id", "docid"): str | int, "text": str, "title"?: str}`` per line; ``rewrite`` changes the texts."""
    return FileDocuments(lambda: (line for path in paths for line in read_jsonl(path, rewrite)), name or str(paths[0]))


def read_jsonl(path: Path, rewrite: Callable[[str], str] = str) -> Iterator[tuple[Place, Document]]:
    """The documents of one such file.

    Raises:
        ConfigError: the file cannot be read.
        DocumentError: a line is something else.
    """
    for place, fields in read_placed(path):
        document = parse_document(fields, place)
        if not document.id:
            raise line_error(*place, DOCUMENT_EXPECTED)
        yield place, replace(document, text=rewrite(document.text), title=rewrite(document.title))


def parse_document(fields: Mapping[str, Any], place: Place) -> Document:
    """A document from its fields; "" is the id of one that has none.

    Raises:
        DocumentError: a field is something else.
    """
    text, title = fields.get("text"), fields.get("title") or ""
    given = next((fields[key] for key in ID_FIELDS if key in fields), "")
    name = identifier(given)
    if (given and not name) or not isinstance(text, str) or not isinstance(title, str):
        raise line_error(*place, DOCUMENT_EXPECTED)
    check_strings([name, text, title], f"{place[0]}, line {place[1] + 1}", place[1])
    return Document(name, text, title)
