"""Relevance by answers (MKQA): a passage is relevant if it contains one of the answer strings of the query.

"Contains" is that of DPR, RocketQA and the paper's evaluation: both sides are decomposed (Unicode NFD), cut into
tokens – runs of letters, numbers and marks, or one other visible character – and lower-cased; the tokens of an answer
must follow one another in the passage. "U.S." is ``u . s .``, so "U.S" is found in it and "US" is not; Chinese is
found only as a whole run; an accent counts. An answer without tokens is never found. Python's ``unicodedata`` says what
a letter is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Final
from unicodedata import category, normalize

from m3_vdb.types import Document

ASCII_TOKEN: Final = re.compile(r"[A-Za-z0-9]+|[!-~]")
WORD: Final = "word"
OTHER: Final = "other"
"""Kinds of visible characters: those that make words together, and those that are tokens alone."""


MKQA_PLAIN: Final = str.maketrans(
    dict.fromkeys("‐‑⁃‒–—―−－⁻", "-")
    | dict.fromkeys("“”„‟", '"')
    | dict.fromkeys("‘’‚‛՚Ꞌꞌ＇`´′‵", "'")
    | dict.fromkeys("⁄∕", "/")
    | {"″": "''", "‶": "''", "‴": "'''", "‷": "'''", "⁗": "''''", "…": "...", "\u00ad": None}
    | dict.fromkeys("\v\f\u0085", " ")
    | dict.fromkeys(map(chr, [*range(1, 9), 14, 15, *range(17, 28)]), None)
)
"""What the paper's evaluation replaces in a passage of MKQA's corpus."""


def mkqa_passage(text: str) -> str:
    """A passage of MKQA's corpus as the paper's evaluation reads it: lower case, plain quotes and hyphens."""
    return text.lower().translate(MKQA_PLAIN).replace(" . . . ", " ... ")


def tokens(text: str) -> str:
    r"""The tokens of a text, each after a line break, and one at the end: ``"\nto\nbe\n"``; "\n" if there are none.

    As no token holds white space, one text contains the tokens of another in sequence exactly if this string contains
    the other's.
    """
    found = [token for chunk in normalize("NFD", text).split() for token in _tokens_of(chunk)]
    return "\n".join(["", *found, ""]) if found else "\n"


class AnswerMatcher:
    """Finds any of many answers at once.

    Args:
        answers: those of one query, or of all.
    """

    def __init__(self, answers: Iterable[str]) -> None:
        self._by_first: dict[str, list[str]] = defaultdict(list)
        for pattern in {tokens(answer) for answer in answers} - {"\n"}:
            self._by_first[pattern.split("\n", 2)[1]].append(pattern)

    def found_in(self, text: str) -> bool:
        """Whether a text contains one of the answers."""
        passage = tokens(text)
        firsts = self._by_first.keys() & set(passage.split("\n"))
        return any(pattern in passage for first in firsts for pattern in self._by_first[first])


def judge(
    retrieved: Mapping[str, Iterable[str]], documents: Iterable[Document], answers: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, int]]:
    """Judgements of retrieved documents by their texts, in one pass over the documents.

    Args:
        retrieved: query id → ids of the documents to judge, e.g. the first hundred of every system.
        documents: all documents, or at least those.
        answers: query id → answer strings (``Collection.answers``).

    Returns:
        Query id → document id → 1 if the document contains an answer, else 0; every query of ``answers`` is there.
    """
    wanted: dict[str, list[str]] = defaultdict(list)
    for query in retrieved.keys() & answers.keys():
        for name in set(retrieved[query]):
            wanted[name].append(query)
    patterns = {query: tuple({tokens(answer) for answer in of_query} - {"\n"}) for query, of_query in answers.items()}
    found: dict[str, dict[str, int]] = {query: {} for query in answers}
    for document in documents:
        if queries := wanted.get(document.id):
            passage = tokens(document.content)
            for query in queries:
                found[query][document.id] = int(any(pattern in passage for pattern in patterns[query]))
    return found


def _tokens_of(chunk: str) -> Iterator[str]:
    if chunk.isalnum():  # all letters and numbers: the usual case, and a tenth of the time
        yield chunk.lower()
        return
    if chunk.isascii():
        yield from (token.lower() for token in ASCII_TOKEN.findall(chunk))
        return
    for kind, run in groupby(chunk, key=_kind):
        if kind == WORD:
            yield "".join(run).lower()  # each by itself: a final sigma depends on its neighbours
        elif kind == OTHER:
            yield from (character.lower() for character in run)


@cache
def _kind(character: str) -> str:
    kind = category(character)[0]
    return WORD if kind in "LNM" else "" if kind in "ZC" else OTHER
