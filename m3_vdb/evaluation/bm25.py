r"""BM25 for every script, on top of ``bm25s``: the usual baseline of a report.

Lucene's idf, k1 = 1.2, b = 0.75. Tokens are NFKC lower-case ``\w+``; scripts that write no spaces (and Hangul,
whose words inflect heavily) are cut into character bigrams, as Lucene's CJK analyser does. Equal scores are ordered
by the document's position, so that rankings are reproducible.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

import numpy as np

from m3_vdb.errors import MissingExtraError
from m3_vdb.types import FloatArray

K1: Final = 1.2
B: Final = 0.75
"""Lucene's defaults (BM25Similarity)."""

_BIGRAM_RANGES = (
    "\\u3005-\\u3007\\u3041-\\u3096\\u309d-\\u309f\\u30a1-\\u30fa\\u30fc-\\u30ff\\u31f0-\\u31ff"  # kana
    "\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\U00020000-\\U0003134f"  # Han
    "\\u1100-\\u11ff\\u3130-\\u318f\\uac00-\\ud7af"  # Hangul
    "\\u0e01-\\u0e3a\\u0e40-\\u0e4e\\u0e50-\\u0e59"  # Thai, with its vowel signs, which \\w leaves out
    "\\u1780-\\u17d3\\u17d7\\u17dc\\u17dd\\u17e0-\\u17e9"  # Khmer, likewise; without its punctuation
)
_RUN = re.compile(f"[{_BIGRAM_RANGES}]+|[^\\W{_BIGRAM_RANGES}]+")
_BIGRAM = re.compile(f"[{_BIGRAM_RANGES}]")


def tokenize(text: str) -> list[str]:
    """Tokens of ``text``: words, or overlapping pairs of characters where the script has no spaces."""
    tokens: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).lower()):
        if len(run) > 1 and _BIGRAM.match(run):
            tokens.extend(run[i : i + 2] for i in range(len(run) - 1))
        else:
            tokens.append(run)
    return tokens


class BM25:
    """An index over a fixed list of texts.

    Args:
        texts: the documents; results name them by position.

    Raises:
        MissingExtraError: ``bm25s`` is not installed.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        try:
            import bm25s  # noqa: PLC0415 - optional
        except ImportError as error:
            raise MissingExtraError("BM25", extra="eval") from error
        # Ids in order of appearance: bm25s numbers tokens through a set, which differs from run to run.
        self._vocabulary: dict[str, int] = {}
        ids = [[self._vocabulary.setdefault(t, len(self._vocabulary)) for t in tokenize(text)] for text in texts]
        self._size = len(ids)
        self._index = bm25s.BM25(method="lucene", k1=K1, b=B)
        if self._vocabulary:
            self._index.index((ids, dict(self._vocabulary)), show_progress=False)

    def scores(self, query: str) -> FloatArray:
        """Scores ``[documents]`` of all documents; zero where no token is shared."""
        ids = [self._vocabulary[token] for token in tokenize(query) if token in self._vocabulary]
        if not ids:
            return np.zeros(self._size, dtype=np.float32)
        return np.asarray(self._index.get_scores_from_ids(ids), dtype=np.float32)

    def search(self, query: str, limit: int) -> list[tuple[int, float]]:
        """The best ``limit`` documents with a score above zero, best first, as ``(position, score)``."""
        scores = self.scores(query)
        if limit < len(scores):
            floor = np.partition(scores, len(scores) - limit)[len(scores) - limit]
            found = np.flatnonzero((scores >= floor) & (scores > 0))
        else:
            found = np.flatnonzero(scores > 0)
        order = found[np.argsort(-scores[found], kind="stable")][:limit]
        return [(int(i), float(scores[i])) for i in order]
