"""Splits long documents into passages; ``m3_vdb.passages`` joins them again.

Texts are cut at white space if there is any in the second half of a passage. No text is lost. The first passage has the
document's id, the others ``<id>¶2``, ``<id>¶3``, …, which are refused as ids of documents. Each passage has the title,
the payload, its part of the text, and its position in ``Document.passage``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from m3_vdb.encoding.embedder import Tokenizing
from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.encoding.tokenizer import WORD_BOUNDARIES, Tokenizer, max_text_tokens
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.marks import passage_id
from m3_vdb.types import Document, OffsetArray, Passage

_MIN_TEXT_TOKENS: Final = 8
"""Minimum room for text in a passage, in tokens."""


class Splitter:
    """Splits documents into passages of at most ``max_tokens`` tokens.

    Args:
        tokenizer: the model's.
        max_tokens: maximum tokens per passage, with ``<s>``, ``</s>`` and the title.
        overlap: tokens that two neighbouring passages share.

    Raises:
        ConfigError: ``max_tokens`` is too small, or ``overlap`` is more than half of it.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_tokens: int, overlap: int = 0) -> None:
        if max_tokens < _MIN_TEXT_TOKENS + 2 or overlap > (max_tokens - 2) // 2:
            raise ConfigError(
                f"passages of {max_tokens} tokens that share {overlap}: expected at least {_MIN_TEXT_TOKENS + 2} "
                f"tokens, and an overlap of at most half a passage"
            )
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._overlap = overlap

    def split(self, document: Document, *, index: int = 0) -> list[Document]:
        """The passages of a document, or the document itself if it is short enough.

        Args:
            document: a document.
            index: its position, for error messages.

        Raises:
            TextError: its text cannot be tokenized.
            DocumentError: its title takes more than half of a passage.
        """
        if document.passage is not None and document.passage.count > 1:  # copied from another collection
            return [document]
        if int(self._tokenizer.count([document.content])[0]) <= self._max_tokens:
            return [document]
        room = self._max_tokens - 2
        if document.title:
            room -= int(self._tokenizer.count([document.title])[0]) - 2
        if room < max(_MIN_TEXT_TOKENS, (self._max_tokens - 2) // 2, 2 * self._overlap):
            raise DocumentError(
                f"document {index}: its title leaves {room} of {self._max_tokens} tokens for the text of a passage: "
                f"shorten the title, or put it into the text",
                index=index,
            )
        spans = self._cut(document.text, room)
        return [
            replace(
                document,
                id=passage_id(document.id, number),
                text=document.text[start:stop],
                passage=Passage(document.id, number, len(spans), start, stop),
            )
            for number, (start, stop) in enumerate(spans, start=1)
        ]

    def _cut(self, text: str, room: int) -> list[tuple[int, int]]:
        """(start, stop), in characters, of pieces of at most ``room`` tokens."""
        spans = self._tokenizer.spans(text)
        starts, stops = np.maximum.accumulate(spans, axis=0).T
        cuts: list[tuple[int, int]] = []
        start, first = 0, 0
        while first + room < len(starts) or self._tokens(text[start:]) > room:
            least = cuts[-1][1] if cuts else 0
            stop = self._stop(text, start, stops[first : first + room], room=room, least=least)
            if stop <= least:  # the overlap leaves no room for new text: drop the overlap
                start, first = least, int(np.searchsorted(starts, least))
                stop = self._stop(text, start, stops[first : first + room], room=room, least=least)
            cuts.append((start, stop))
            following = int(np.searchsorted(starts, stop))
            if following >= len(starts):  # only white space is left
                start = cuts.pop()[0]
                break
            start = self._start(text, start, stop, int(starts[max(first + 1, following - self._overlap)]))
            first = int(np.searchsorted(starts, start))
        return [*cuts, (start, len(text))]

    def _stop(self, text: str, start: int, stops: OffsetArray, *, room: int, least: int) -> int:
        """The end of a piece: the last white space in its second half, or else after as many tokens as fit."""
        tokens = len(stops)
        while True:
            end = max(int(stops[tokens - 1]), start + 1)
            half = max((start + end) // 2, least) + 1  # beyond the end of the piece before
            space = max(text.rfind(space, half, end + 1) for space in WORD_BOUNDARIES)
            stop = space if space > 0 else end
            # A cut can change the tokens next to it, so the piece is counted again.
            excess = self._tokens(text[start:stop]) - room
            if excess <= 0 or tokens == 1:
                return stop
            tokens = max(1, tokens - excess)

    def _start(self, text: str, before: int, stop: int, wanted: int) -> int:
        """The beginning of the next piece: ``stop``, or with an overlap the first word from ``wanted`` on."""
        if not self._overlap:
            return stop
        # From the character before: a word that follows white space is whole.
        found = [at for space in WORD_BOUNDARIES if (at := text.find(space, max(wanted - 1, 0), stop)) >= 0]
        return max(before + 1, min(found, default=min(wanted, stop)))

    def _tokens(self, text: str) -> int:
        return int(self._tokenizer.count([text])[0]) - 2


def make_splitter(embed: object, plan: LongDocuments, store_rows: int | None) -> Splitter | None:
    """The splitter for a plan, None if the plan does not split.

    A passage is as long as the embedding function's ``max_length`` and the allowed rows permit.

    Args:
        embed: the embedding function.
        plan: the plan for long documents.
        store_rows: the store's limit of rows, None for none.

    Raises:
        ConfigError: the embedding function has no tokenizer, or passages would be too short.
    """
    if not isinstance(plan, LongDocuments):
        raise ConfigError(f"long_documents={plan!r}: expected a plan, such as LongDocuments(plan='split')")
    if plan.plan != "split":
        return None
    if not isinstance(embed, Tokenizing):
        raise ConfigError(
            f"long documents are split by tokens, and {type(embed).__name__} has no tokenizer: use "
            f"M3EmbeddingFunction, split the texts yourself, or choose pool or truncate"
        )
    tokens = max_text_tokens(embed.max_length, embed.mcls_every)
    limit = plan.limit(store_rows)
    if limit is not None:
        tokens = min(tokens, int(limit * plan.pool_factor) + 1)
    return Splitter(embed.tokenizer, max_tokens=tokens, overlap=plan.overlap)
