"""Where words begin in a token sequence: by the piece itself, since SentencePiece writes a word's space as "▁".

NumPy only; nothing here knows a model. Legend: V pieces of the vocabulary, T tokens.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError

WORD_START = "▁"
"""U+2581, what SentencePiece puts for the space before a word."""


def word_starts(tokenizer_json: str) -> NDArray[np.bool_]:
    """Which pieces of a vocabulary begin a word.

    Scripts without spaces (Chinese, Japanese, Thai) have such pieces only after a space or at the start of a text.

    Args:
        tokenizer_json: content of Hugging Face's ``tokenizer.json`` with a Unigram vocabulary, as XLM-R has.

    Returns:
        bool [V], True where the piece of that id begins with "▁" or is a token that was added; control pieces are
        False.

    Raises:
        ConfigError: there is no Unigram vocabulary in it.
    """
    try:
        tree: Any = json.loads(tokenizer_json)
        vocabulary = tree["model"]["vocab"]
        if not isinstance(vocabulary, list):  # BPE and WordPiece keep a mapping
            raise TypeError(f"model.vocab is a {type(vocabulary).__name__}")
        starts = np.array([piece.startswith(WORD_START) for piece, _ in vocabulary], dtype=np.bool_)
        added = sum(token["id"] >= len(vocabulary) for token in tree["added_tokens"])
        return np.pad(starts, (0, added), constant_values=True)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the tokenizer has no readable Unigram vocabulary ({error!r}): give the tokenizer.json of an XLM-R model"
        ) from error


def segment_cuts(ids: NDArray[np.int32], starts: NDArray[np.bool_], parts: int) -> list[int]:
    """Positions at which to cut a token sequence into nearly equal segments, at word starts where there are any.

    A cut moves to the nearest word start that is less than half a segment away; with none so near (Chinese), it stays
    between two tokens. Hence segments are never empty, and no longer than two equal ones.

    Args:
        ids: int32 [T], without ``<s>`` and ``</s>``.
        starts: bool [V], of ``word_starts``.
        parts: segments wanted.

    Returns:
        ``parts − 1`` positions, ascending, each above 0 and below T: the segments are ids[0:cut0], ids[cut0:cut1], ….
        Fewer if T < parts.
    """
    length = len(ids)
    words = np.flatnonzero(starts[ids])
    cuts = set()
    for part in range(1, parts):
        ideal = part * length / parts
        nearest = words[np.argmin(np.abs(words - ideal))] if len(words) else np.inf
        cuts.add(int(nearest) if abs(nearest - ideal) < length / parts / 2 else round(ideal))
    return sorted(cut for cut in cuts if 0 < cut < length)
