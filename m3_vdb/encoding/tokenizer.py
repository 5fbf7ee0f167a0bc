"""Text → token ids, for serving, training and export.

A thread-safe layer over the ``tokenizers`` library. It gives the same ids as Hugging Face's tokenizer, added tokens
included, with one exception: text that spells ``<s>``, ``</s>``, ``<pad>`` or ``<mask>`` stays plain text (a pad id
inside a text would shift all later positions). It reports truncation, names bad items by index, and tokenizes only as
much of a long text as is kept. For MCLS (docs/numerics.md) it inserts further ``<s>`` into long texts; no text contains
their id. Shapes: n texts, T tokens of all texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tokenizers
from numpy.typing import NDArray

from m3_vdb.encoding.model_files import brief, read_text_file
from m3_vdb.errors import BundleError
from m3_vdb.inputs import read_text, read_texts, whole_number
from m3_vdb.types import IntArray, OffsetArray

TOKENIZER: Final = "tokenizer.json"
CLS, PAD, SEP, UNK = 0, 1, 2, 3
"""Ids of ``<s>``, ``<pad>``, ``</s>`` and ``<unk>`` in every XLM-RoBERTa vocabulary."""
SPECIAL_IDS: Final = (CLS, PAD, SEP, UNK)
CONTROL_PIECES: Final = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MCLS_EVERY: Final = 256
"""Tokens of the text between two ``<s>`` in the paper's MCLS (appendix B.2)."""
HIDING: Final = "\0"
"""Prefix of control pieces in the vocabulary, so that no text spells them; NUL in a text is read as ``STAND_IN``."""
HIDDEN_PIECES: Final = {piece: HIDING + piece for piece in CONTROL_PIECES if piece != "<unk>"}
STAND_IN: Final = "\U0010fffd"
"""A private-use character that, like NUL, no vocabulary contains."""
# No piece of an XLM-R vocabulary is longer than 16 characters, so this many characters hold at least one token, and
# more than enough to fill a length unless the text is mostly white space (then the whole text is tokenized).
CHARACTERS_PER_TOKEN: Final = 24
# White space that every XLM-R normaliser keeps as a boundary between words (nmt_nfkc deletes some of str.isspace()).
WORD_BOUNDARIES: Final = (" ", "\n", "\u3000")
# Normaliser steps that read one character (with its marks) at a time, so they never reach across white space.
LOCAL_NORMALIZERS: Final = frozenset({"Precompiled", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "StripAccents"})
SQUEEZED_BLANKS: Final = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids of n texts, packed.

    Attributes:
        ids: int32 [T]; every text begins with ``<s>`` and ends with ``</s>``. Any other ``<s>`` was inserted (MCLS).
        offsets: int64 [n + 1].
        truncated: bool [n], True where tokens were cut off.
    """

    ids: IntArray
    offsets: OffsetArray
    truncated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.truncated)

    @property
    def lengths(self) -> IntArray:
        """int32 [n], tokens to compute per text, with inserted ``<s>``."""
        return np.diff(self.offsets).astype(np.int32)

    @property
    def text_lengths(self) -> IntArray:
        """int32 [n], tokens per text with its own ``<s>`` and ``</s>`` but without inserted ``<s>``."""
        inserted = np.add.reduceat(self.ids == CLS, self.offsets[:-1], dtype=np.int32) - 1 if len(self) else 0
        return (self.lengths - inserted).astype(np.int32)

    def padded(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(input_ids, attention_mask), each int64 [len(rows), longest], padded on the right with ``<pad>``."""
        lengths = self.lengths[rows]
        input_ids = np.full((len(rows), lengths.max()), PAD, dtype=np.int64)
        mask = np.arange(input_ids.shape[1]) < lengths[:, None]
        input_ids[mask] = np.concatenate([self.ids[self.offsets[r] : self.offsets[r + 1]] for r in rows])
        return input_ids, mask.astype(np.int64)


class Tokenizer:
    """An XLM-RoBERTa tokenizer that can be shared between threads.

    Args:
        data: content of a ``tokenizer.json``, Hugging Face's or a bundle's.
        name: the file's name, for messages.

    Raises:
        BundleError: the content is damaged, or not an XLM-RoBERTa tokenizer with the same ids as Hugging Face's.
    """

    def __init__(self, data: str, *, name: str = TOKENIZER) -> None:
        self._nul = HIDING
        try:
            given = self._tokenizer = tokenizers.Tokenizer.from_str(data)
            given.no_truncation()
            given.no_padding()
            if self._reads_control_pieces(HIDDEN_PIECES):
                self._tokenizer = tokenizers.Tokenizer.from_str(plain_text_only(data))
        except Exception as error:  # the library raises bare Exception
            raise BundleError(
                f"{name} cannot be read as a tokenizer ({brief(error)}): export or download the model again"
            ) from error
        _require_layout(given, name)
        if self._reads_control_pieces(HIDDEN_PIECES.values()):
            self._nul = STAND_IN
        if self._reads_control_pieces([*HIDDEN_PIECES, *HIDDEN_PIECES.values()]):
            raise BundleError(f"{name} turns '<s>' in a text into a control token: is it an XLM-RoBERTa one?")
        moved = [
            token.content
            for token_id, token in given.get_added_tokens_decoder().items()
            if token.content not in CONTROL_PIECES and self._tokenizer.token_to_id(token.content) != token_id
        ]
        if moved:
            raise BundleError(
                f"{name}: {moved[0]!r} comes before a control token that the vocabulary lacks: add {moved[0]!r} last"
            )
        self._words_apart = _words_apart(self._tokenizer)

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            BundleError: the file is missing or damaged, or as ``Tokenizer``.
        """
        return cls(read_text_file(path), name=str(path))

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def to_json(self) -> str:
        """The tokenizer as used here, compact: no text spells a control piece, no padding, no truncation."""
        return str(self._tokenizer.to_str())

    def id_to_token(self, token_id: int) -> str | None:
        """The piece of an id ("▁" marks the start of a word); None if the id is not in the vocabulary."""
        piece: str | None = self._tokenizer.id_to_token(token_id)
        return piece

    def encode(self, texts: Iterable[str], *, max_length: int, mcls_every: int | None = None) -> TokenBatch:
        """Tokenize texts; each becomes ``<s> … </s>`` of at most ``max_length`` tokens.

        Args:
            texts: n strings, any iterable; "" is ``<s></s>``.
            max_length: tokens to keep per text, with every ``<s>`` and ``</s>``, at least 3. A longer text keeps the
                longest prefix that fits.
            mcls_every: insert one ``<s>`` before every N further tokens of the text
                (``<s> t1 … t256 <s> t257 … </s>`` for 256); None inserts nothing.

        Returns:
            The ids of all texts, and which texts were cut.

        Raises:
            TextError: an item is not a string or holds lone surrogates; ``index`` names it.
            ConfigError: ``max_length`` is too small to keep a token of the text, or ``mcls_every`` is below 1.
        """
        inner = max_text_tokens(max_length, mcls_every) - 2
        rows = self._encode_inner(read_texts(texts), inner)
        truncated = np.array([len(row) > inner for row in rows], dtype=np.bool_)
        rows = [row[:inner] for row in rows]
        if mcls_every is not None:
            rows = [_insert_cls(row, mcls_every) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(row) + 2 for row in rows], dtype=np.int64)]).astype(np.int64)
        ids = np.empty(offsets[-1], dtype=np.int32)
        ids[offsets[:-1]] = CLS
        for start, end, row in zip(offsets[:-1], offsets[1:], rows, strict=True):
            ids[start + 1 : end - 1] = row
        ids[offsets[1:] - 1] = SEP
        return TokenBatch(ids, offsets, truncated)

    def count(self, texts: Iterable[str]) -> IntArray:
        """Tokens of each whole text, ``<s>`` and ``</s>`` included: int32 [n].

        Raises:
            TextError: as ``encode``.
        """
        return np.array([len(row) + 2 for row in self._ids(read_texts(texts))], dtype=np.int32)

    def spans(self, text: str) -> NDArray[np.int64]:
        """The positions of the tokens of a whole text, without special tokens.

        Returns:
            int64 [T, 2], (start, stop) in characters.

        Raises:
            TextError: as ``encode``.
        """
        plain = read_text(text).replace(HIDING, self._nul)
        offsets = self._tokenizer.encode(plain, add_special_tokens=False).offsets
        return np.array(offsets, dtype=np.int64).reshape(-1, 2)

    def _encode_inner(self, texts: list[str], inner: int) -> list[list[int]]:
        """Ids without special tokens; more than ``inner`` of them if the text has more.

        The first ``inner`` ids are those of the whole text, because only whole words are dropped. If the whole words at
        the beginning do not fill the length, the whole text is tokenized (a second for 10⁶ characters).
        """
        window = (inner + 1) * CHARACTERS_PER_TOKEN
        heads = [_whole_words(text, window) for text in texts] if self._words_apart else texts
        rows = self._ids(heads)
        short = [i for i, row in enumerate(rows) if len(row) <= inner and len(heads[i]) < len(texts[i])]
        for i, row in zip(short, self._ids([texts[i] for i in short]), strict=True):
            rows[i] = row
        return rows

    def _ids(self, texts: list[str]) -> list[list[int]]:
        spelled = [text.replace(HIDING, self._nul) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(spelled, add_special_tokens=False)]

    def _reads_control_pieces(self, spelled: Iterable[str]) -> bool:
        """Whether a text with one of these pieces gets a control token."""
        pieces = [*HIDDEN_PIECES, *HIDDEN_PIECES.values()]
        control = {CLS, PAD, SEP, *map(self._tokenizer.token_to_id, pieces)}
        texts = [text for piece in spelled for text in (piece, f"a{piece}b", f"a {piece} b")]
        return any(control.intersection(ids) for ids in self._ids(texts))


def _require_layout(given: tokenizers.Tokenizer, name: str) -> None:
    """Check that the tokenizer puts ``<s>`` and ``</s>`` around a text, and their ids.

    Raises:
        BundleError: it does not, or the ids differ.
    """
    pieces = [(given.id_to_token(token_id) or "").removeprefix(HIDING) for token_id in SPECIAL_IDS]
    if tuple(pieces) != CONTROL_PIECES[: len(SPECIAL_IDS)]:
        raise BundleError(
            f"{name} has {', '.join(map(repr, pieces))} as ids 0 … 3, expected <s>, <pad>, </s>, <unk>: "
            f"give the tokenizer of an XLM-RoBERTa model"
        )
    if given.post_processor is not None:
        inner, whole = (given.encode("a", add_special_tokens=around).ids for around in (False, True))
        if whole != [CLS, *inner, SEP]:
            raise BundleError(f"{name} puts other tokens around a text than <s> and </s>: give that of an M3 model")


def _words_apart(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether the tokens before white space do not depend on the text after it."""
    splitters = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    if not splitters or splitters[0]["type"] != "WhitespaceSplit":
        return False
    normalizer = tokenizer.normalizer
    if any(
        step["type"] not in LOCAL_NORMALIZERS and step != SQUEEZED_BLANKS for step in _steps(normalizer, "normalizers")
    ):
        return False
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    matched = [*added, *(normalizer.normalize_str(text) for text in added if normalizer)]
    return all(text.split() == [text] for text in matched)  # "New York" reaches over white space


def _steps(component: Any, parts: str) -> list[dict[str, Any]]:  # noqa: ANN401 - any normaliser or pre-tokenizer
    """A normaliser or pre-tokenizer as the list of its steps, in JSON's form."""

    def flat(step: dict[str, Any]) -> list[dict[str, Any]]:
        return [one for part in step[parts] for one in flat(part)] if parts in step else [step]

    return flat(json.loads(component.__getstate__())) if component else []


def max_text_tokens(max_length: int, mcls_every: int | None = None) -> int:
    """Maximum tokens of a text that is not cut, with its own ``<s>`` and ``</s>`` but without inserted ``<s>``.

    That is ``max_length``, or with MCLS the largest n + 2 with n + 2 + ⌈n / mcls_every⌉ − 1 ≤ max_length.

    Raises:
        ConfigError: ``max_length`` is below 3 or ``mcls_every`` below 1.
    """
    max_length = whole_number("max_length", max_length, least=3, expected="at least 3 (<s>, one token, </s>)")
    if mcls_every is None:
        return max_length
    mcls_every = whole_number(
        "mcls_every", mcls_every, least=1, expected=f"a number of tokens, {MCLS_EVERY} in the paper"
    )
    # Without </s> a text is blocks of one <s> and mcls_every tokens; a last <s> without a token is not written.
    blocks, rest = divmod(max_length - 1, mcls_every + 1)
    return blocks * mcls_every + max(rest - 1, 0) + 2


def _insert_cls(row: list[int], every: int) -> list[int]:
    """Insert ``<s>`` before the tokens at every, 2·every, … (not at 0)."""
    laid = row[:every]
    for start in range(every, len(row), every):
        laid += [CLS, *row[start : start + every]]
    return laid


def _whole_words(text: str, window: int) -> str:
    """The words that end within the first ``window`` characters; the text itself if it is shorter or has no boundary.

    Words are tokenized one by one, so whole words keep their ids. A word that is cut can get other ids from its first
    character on.
    """
    if len(text) <= window:
        return text
    end = max(text.rfind(space, 0, window + 1) for space in WORD_BOUNDARIES)
    return text[:end] if end > 0 else text


def plain_text_only(data: str) -> str:
    """Rewrite a ``tokenizer.json`` so that no text can produce a control token.

    ``<s>``, ``<pad>``, ``</s>`` and ``<mask>`` are both added tokens and pieces of the vocabulary, and both match in
    user text. So they are removed from the added tokens, and their pieces keep their ids under names that no text
    spells. Other added tokens are words and stay. Template, truncation and padding are removed, too:
    ``Tokenizer.encode`` does their work without shared state.
    """
    tree: dict[str, Any] = json.loads(data)
    tree.update(truncation=None, padding=None, post_processor=None)
    model, added = tree["model"], tree.get("added_tokens") or []
    tree["added_tokens"] = [token for token in added if token["content"] not in CONTROL_PIECES]
    rename_pieces(model, HIDDEN_PIECES)
    # A control token that the vocabulary lacks becomes a piece of it, so that the ids after it do not move.
    for token in sorted(added, key=lambda token: int(token["id"])):
        piece = HIDDEN_PIECES.get(token["content"])
        if isinstance(model["vocab"], dict):
            if piece is not None:
                model["vocab"].setdefault(piece, token["id"])
        elif piece is not None and token["id"] == len(model["vocab"]):
            model["vocab"].append([piece, 0.0])
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))


def rename_pieces(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename pieces in the vocabulary of a ``tokenizer.json``; their ids do not change."""
    if isinstance(model["vocab"], dict):  # BPE, WordPiece, WordLevel
        model["vocab"] = {names.get(piece, piece): token_id for piece, token_id in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
