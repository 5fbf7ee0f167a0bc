"""Exact words: the tokens and vectors of the optional bm25 part, by rules that need no language label.

A text becomes a sparse vector of token ids, which the engine's inverted index keeps; the engine multiplies by the
tokens' inverse document frequencies, so nothing has to be counted here. ``m3_vdb.scoring.bm25_score`` defines the
score. The vector's name, ``bm25``, stands for these rules: stored vectors are by them, so others need another name.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Final
from zlib import crc32

import numpy as np

from m3_vdb.types import SparseVector

K1: Final = 1.2
B: Final = 0.75
"""Lucene's defaults (BM25Similarity)."""
AVERAGE_TOKENS: Final = 100
"""The length that counts as average, in tokens. Fixed, because the engines' IDF knows no average length."""

_IGNORED: Final = re.compile("[\u00ad\u200c-\u200f\u2060\ufeff]")
"""Soft hyphens, joiners and marks of direction: a word is the same with and without."""
_NO_SPACES: Final = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")
"""First words of the Unicode names of characters whose words are not told apart by spaces; and Hangul, whose words
have many endings."""
_LEVELS: Final = ("/\\\\:@&", "\\-+~", ".,'", "_")
"""What joins words to a compound, the loosest first; for a regular expression."""
_SAME: Final = {"’": "'", "‐": "-", "−": "-"}  # typographic forms of what joins words


class _Kinds(dict[int, str]):
    """Code point → what it is, found when it is first met.

    U upper case, l another letter, d number, m mark, c of a script without spaces, a character that joins words, or a
    blank for anything else.
    """

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        kind = {"L": "l", "N": "d", "M": "m"}.get(category[0], " ")
        if category in ("Lu", "Lt"):
            kind = "U"
        elif char in "/\\:@&-+~.,'_":
            kind = char
        elif kind in "ld" and re.split("[ -]", unicodedata.name(char, ""))[0] in _NO_SPACES:
            kind = "c"
        self[code] = kind
        return kind


_KINDS: Final = _Kinds()
_WORD: Final = "[Uld][Uldm]*"
_JOINS: Final = f"[{''.join(_LEVELS)}]"
_RUN: Final = re.compile(f"(?P<pairs>c[cm]*)|{_WORD}(?:{_JOINS}{{1,2}}{_WORD})*")
_CHARACTER: Final = re.compile("cm*")
_SPLITS: Final = [re.compile(f"{_JOINS}*[{joins}]{_JOINS}*") for joins in _LEVELS]
_HUMP: Final = re.compile("(?<=[ld])(?=U)|(?<=U)(?=Ul)")
"""Where a word in camelCase may be cut: before an upper case letter after a lower case one, and before the last of
several upper case letters."""


def bm25_tokens(text: str) -> list[str]:
    r"""The tokens of a text, in their order, each as often as it occurs.

    - Unicode NFKC and case folding; digits of all scripts are 0 to 9. Nothing is stemmed, no word is left out.
    - A word is a run of letters, digits and marks.
    - Words that ``/ \ : @ & - + ~ . , ' _`` join without a blank are one token together, and one each, as are the
      compounds between: ``AB-1234/5`` gives itself, ``ab-1234``, ``ab``, ``1234`` and ``5``. ``camelCase`` gives
      itself, ``camel`` and ``case``.
    - Scripts without spaces (Han, kana, Thai, Lao, Khmer, Burmese), and Hangul: overlapping pairs of characters; one
      character alone stands for itself.
    """
    text = _IGNORED.sub("", unicodedata.normalize("NFKC", text))
    for written, plain in _SAME.items():
        text = text.replace(written, plain)
    kinds = text.translate(_KINDS)
    tokens: list[str] = []
    for run in _RUN.finditer(kinds):
        start, stop = run.span()
        if run["pairs"]:
            tokens += _pairs(text[start:stop], run["pairs"])
        else:
            tokens += map(_folded, _compound(text[start:stop], kinds[start:stop]))
    return tokens


def _pairs(text: str, kinds: str) -> list[str]:
    """Overlapping pairs of characters with their marks."""
    characters = [text[slice(*one.span())] for one in _CHARACTER.finditer(kinds)]
    return list(map("".join, pairwise(characters))) if len(characters) > 1 else characters


def _compound(text: str, kinds: str, level: int = 0) -> Iterator[str]:
    """A compound and its parts; each once, though several levels may find it."""
    if level == len(_LEVELS):
        yield text
        cuts = [0, *(cut.start() for cut in _HUMP.finditer(kinds)), len(text)]
        if len(cuts) > 2:
            yield from (text[start:stop] for start, stop in pairwise(cuts))
        return
    joins = [one.span() for one in _SPLITS[level].finditer(kinds)]
    if joins:
        yield text
    start = 0
    for stop, after in [*joins, (len(text), 0)]:
        yield from _compound(text[start:stop], kinds[start:stop], level + 1)
        start = after


def _folded(token: str) -> str:
    if token.isascii():
        return token.lower()
    folded = unicodedata.normalize("NFKC", token.casefold())
    return "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in folded)


def token_id(token: str) -> int:
    """The id of a token: the low 31 bits of the CRC-32 of its UTF-8, so that it fits the int32 ids of ``SparseVector``.

    Different tokens may have one id: of n different tokens about n² / 2³² pairs.
    """
    return crc32(token.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF


def bm25_document(text: str) -> SparseVector:
    """The vector of a document: of every token t · (k1 + 1) / (t + k1 · (1 − b + b · length / average)).

    t is how often the token occurs, length the number of all tokens, average ``AVERAGE_TOKENS``. Empty for a text
    without words.
    """
    counts = Counter(map(token_id, bm25_tokens(text)))
    length = 1 - B + B * counts.total() / AVERAGE_TOKENS
    ids = np.array(sorted(counts), dtype=np.int32)
    times = np.array([counts[i] for i in ids.tolist()], dtype=np.float64)
    return SparseVector(ids, (times * (K1 + 1) / (times + K1 * length)).astype(np.float32))


def bm25_query(text: str) -> SparseVector:
    """The vector of a query: 1 for every different token."""
    ids = np.array(sorted({token_id(token) for token in bm25_tokens(text)}), dtype=np.int32)
    return SparseVector(ids, np.ones(len(ids), dtype=np.float32))
