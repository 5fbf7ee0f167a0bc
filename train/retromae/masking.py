"""What RetroMAE hides: the encoder's masked input, and which tokens a row of the decoder cannot see.

Legend: B texts, L padded tokens, V pieces, W words of the whole batch, K hidden sets per text. *Content* is every token
but ``<s>``, ``</s>`` and padding; nothing else is masked, hidden or predicted. There is no cap on the number of masked
tokens and no loop over tokens: one text of 8192 takes milliseconds. (The public code's whole-word masking stops at 512
tokens and its per-row lists take 80 s at 8192.)
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from m3_vdb.encoding.tokenizer import CLS, PAD, SEP, UNK
from train.retromae.config import RetroMAESettings

IGNORED = -100
"""Label of a position without MLM loss."""
LONGEST_WORD = 8
"""A run of tokens longer than this is not a word but a script without spaces, a URL, …: it is cut into spans."""
SPAN = 2
"""Tokens of such a span; about a word of Chinese, Japanese or Thai in XLM-R's pieces."""
MASKED, RANDOM = 0.8, 0.1
"""Shares of the masked tokens replaced by ``<mask>`` and by a random ordinary piece; the rest stays, as in BERT."""


@dataclass(frozen=True, slots=True)
class MaskedBatch:
    """A padded batch with everything that one RetroMAE step draws at random.

    The L × L visibility of the decoder is not in it but made of it on the device: at 8192 tokens the two compact
    fields are 1 MiB a text, the matrix 64 MiB.

    Attributes:
        input_ids: int64 [B, L], the clean text.
        masked_ids: int64 [B, L], the encoder's input.
        labels: int64 [B, L], the clean id where the encoder has to predict, −100 elsewhere.
        hidden: bool [B, K, L], K hidden sets; never True outside content.
        pick: int64 [B, L], which of the K sets a decoder row uses.
    """

    input_ids: Tensor
    masked_ids: Tensor
    labels: Tensor
    hidden: Tensor
    pick: Tensor

    @property
    def mlm_count(self) -> int:
        """Positions that the encoder predicts."""
        return int((self.labels != IGNORED).sum())

    @property
    def decoder_count(self) -> int:
        """Positions that the decoder predicts."""
        return int(is_content(self.input_ids).sum())

    def to(self, device: torch.device | str) -> MaskedBatch:
        """The same batch on another device."""
        return MaskedBatch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


def is_content(input_ids: Tensor) -> Tensor:
    """bool, shaped as ``input_ids``: True for every token but ``<s>``, ``</s>`` and ``<pad>``."""
    return (input_ids != CLS) & (input_ids != SEP) & (input_ids != PAD)


def mask_batch(
    input_ids: Tensor,
    word_start: Tensor,
    settings: RetroMAESettings,
    *,
    mask_id: int,
    generator: torch.Generator,
) -> MaskedBatch:
    """Draw the masks of one step; the same generator state gives the same masks.

    The encoder's share is met text by text, to within half a word: random words, until the next would lead further
    away. A text too short for its share may have none. The decoder's sets take every word by an independent draw, so
    their share is met on average over the K sets, and single sets differ in size.

    Args:
        input_ids: int64 [B, L] on the CPU; texts ``<s> … </s>``, padded on the right with ``<pad>``.
        word_start: bool [V], which pieces begin a word (``train.words.word_starts``).
        settings: ratios, number of hidden sets, whole words or tokens.
        mask_id: id of ``<mask>``.
        generator: source of all randomness here.
    """
    content = is_content(input_ids)
    words = _words(content, word_start[input_ids]) if settings.whole_words else _number(content)
    sizes = torch.bincount(words[content], minlength=1)  # a batch without content has one word of no tokens
    masked = content & _choose(words, sizes, content, settings.encoder_mask, generator)[words]
    drawn = torch.rand(settings.decoder_masks, len(sizes), generator=generator) < settings.decoder_mask
    return MaskedBatch(
        input_ids=input_ids,
        masked_ids=_replace(input_ids, masked, len(word_start), mask_id, generator),
        labels=input_ids.masked_fill(~masked, IGNORED),
        hidden=drawn[:, words].transpose(0, 1) & content[:, None],
        pick=torch.randint(settings.decoder_masks, input_ids.shape, generator=generator),
    )


def visibility(batch: MaskedBatch) -> Tensor:
    """What the decoder's rows may attend to, made on the batch's device.

    Returns:
        bool [B, L, L], True where row i sees column j. Column 0, the CLS vector, is seen by every row; beyond it row
        i sees neither its own token i, nor the hidden set that it picked, nor padding.
    """
    texts = torch.arange(len(batch.hidden), device=batch.hidden.device)[:, None]
    shown = ~batch.hidden & (batch.input_ids != PAD)[:, None]
    seen = shown[texts, batch.pick]
    seen.diagonal(dim1=1, dim2=2).fill_(False)
    seen[:, :, 0] = True
    return seen


def _number(first: Tensor) -> Tensor:
    """int64 [B, L]: index among the batch's W words of the word that each token is in, from first tokens [B, L].

    A token before the first word gets 0 and one after a word that word's index: only content counts.
    """
    return (first.flatten().cumsum(0) - 1).clamp_(min=0).view_as(first)


def _words(content: Tensor, begins: Tensor) -> Tensor:
    """``_number`` of words, runs without spaces cut into spans; ``begins``: bool [B, L], piece starts with "▁"."""
    first = content.clone()
    first[:, 1:] &= begins[:, 1:] | ~content[:, :-1]
    words = _number(first)
    long = (torch.bincount(words[content], minlength=1) > LONGEST_WORD)[words]
    place = torch.arange(first.shape[1]).expand_as(first)
    offset = place - place.masked_fill(~first, 0).cummax(dim=1).values
    return _number(first | (content & long & (offset % SPAN == 0)))


def _choose(words: Tensor, sizes: Tensor, content: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """In each text random words that have together as nearly as possible ``ratio`` of its content: bool [W].

    All texts at once: the words are put in random order text by text, and those taken whose middle lies below the
    share, since from there on one more word leads further away.
    """
    text = torch.zeros_like(sizes)
    text[words[content]] = content.nonzero()[:, 0]
    order = (text.double() + torch.rand(len(sizes), generator=generator)).argsort()
    tokens = content.sum(1)
    before_text = tokens.cumsum(0) - tokens
    size, text = sizes[order], text[order]
    middle = size.cumsum(0) - size / 2 - before_text[text]
    return torch.zeros_like(sizes, dtype=torch.bool).scatter_(0, order, middle < ratio * tokens[text])


def _replace(ids: Tensor, masked: Tensor, pieces: int, mask_id: int, generator: torch.Generator) -> Tensor:
    """The encoder's input, int64 [B, L]."""
    draw = torch.rand(ids.shape, generator=generator)
    ordinary = torch.randint(UNK + 1, pieces - 1, ids.shape, generator=generator)
    ordinary += ordinary >= mask_id  # steps over <mask>, wherever it is
    swapped = torch.where(draw < MASKED + RANDOM, ordinary, ids)
    return torch.where(masked, torch.where(draw < MASKED, mask_id, swapped), ids)
