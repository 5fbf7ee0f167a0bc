"""Training rows of long texts: a heading, and the text that it was taken from or a window of it.

* :func:`whole_rows`: the whole text, and other long texts as negatives
* :func:`window_rows`: a part of the text in which the heading's section begins, at a place and of a length that vary,
  without negatives. Of a text of 5,000 tokens a training that cuts at 2,000 often loses the very section that is asked
  for; what a model learns from windows holds for long texts, at a fraction of their cost.

The texts are put together from training-side sections alone. A chapter of which some sections are held out appears
without them, and no text shows a held-out query as a line, so that no row shows what is held out even in passing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

from m3_vdb.evaluation.bm25 import BM25

from .pages import MIN_TOKENS
from .pool import HeldOut, Pool
from .records import Section, digest, estimate_tokens, key
from .training import FIRST_RANK, LAST_RANK, Row, in_order, make_row

MAX_TEXT_CHARS = 40_000
"""About 8,192 tokens of XLM-R, the longest text that the model takes, and some to spare."""
MAX_ROWS = 60
"""Rows per language and source: a row weighs as much as a hundred of the short ones."""
MAX_ROWS_PER_TEXT = 3
NEGATIVES = 4

SHORTEST, LONGEST = 350, 1_700
"""Estimated tokens of a window; lengths between are drawn so that each doubling is as frequent."""
LATEST = 0.7
"""Where in its window a section begins at the latest, as a share."""
MAX_WINDOWS = 120
"""Windows per language and source."""


@dataclass(frozen=True, slots=True)
class Trainable:
    """What training may see of a long text.

    Attributes:
        source: name of the source.
        sections: the training-side sections.
        lines: section's concept, form under which strings are compared, and line; without held-out queries.
    """

    source: str
    sections: Sequence[Section]
    lines: Sequence[tuple[str, str, str]]

    def body(self, asked: str = "") -> str:
        """The text, without the lines that repeat the query."""
        hidden = key(asked)
        return "\n".join(line for _, form, line in self.lines if form != hidden)


def trainable(pool: Pool, held: HeldOut) -> dict[str, Trainable]:
    """Identifier to text, where enough of the text is left."""
    found: dict[str, Trainable] = {}
    for text in pool.long_texts:
        sections = [section for section in text.sections if not held.touches_concept(section.concept_id)]
        lines = [(section.concept_id, key(line), line) for section in sections for line in section.lines]
        kept = [line for line in lines if line[1] not in held.queries]
        if sum(estimate_tokens(line) for *_, line in kept) >= MIN_TOKENS:
            found[text.identifier] = Trainable(text.source, sections, kept)
    return found


def questions(texts: Mapping[str, Trainable], held: HeldOut, lang: str) -> Iterator[tuple[str, Section]]:
    """Identifier and section asked for, in an order fixed by hash, a few per text; no query has two answers."""
    named: dict[str, list[tuple[str, Section]]] = {}
    for identifier, text in texts.items():
        for section in text.sections:
            named.setdefault(key(section.query), []).append((identifier, section))
    taken = Counter[str]()
    unique = [found[0] for query, found in named.items() if query and len(found) == 1]
    for identifier, section in sorted(unique, key=lambda pair: digest("long row", lang, pair[1].concept_id)):
        if not held.owns(section.query) and taken[identifier] < MAX_ROWS_PER_TEXT:
            taken[identifier] += 1
            yield identifier, section


def whole_rows(pools: Sequence[Pool], held: HeldOut) -> list[Row]:
    """Rows of whole texts in an order fixed by hash."""
    return in_order((row for pool in pools if pool.long_texts for row in _whole(pool, held)), "concept", "lang")


def _whole(pool: Pool, held: HeldOut) -> Iterator[Row]:
    texts = trainable(pool, held)
    names = list(texts)
    bodies = {name: text.body() for name, text in texts.items()}
    index = BM25(list(bodies.values()))
    taken = Counter[str]()
    for name, asked in questions(texts, held, pool.lang):
        text = texts[name]
        if taken[text.source] >= MAX_ROWS:
            continue
        ranked = [names[position] for position, _ in index.search(asked.query, LAST_RANK)][FIRST_RANK - 1 :]
        wrong = [other for other in ranked if other != name]
        drawn = sorted(wrong, key=lambda other: digest("negative", pool.lang, asked.concept_id, other))[:NEGATIVES]
        if len(drawn) == NEGATIVES:
            taken[text.source] += 1
            yield _row(asked, pool.lang, text.source, text.body(asked.query), [bodies[other] for other in drawn])


def window_rows(pools: Sequence[Pool], held: HeldOut) -> list[Row]:
    """Rows of windows in an order fixed by hash."""
    return in_order((row for pool in pools for row in _windows(pool, held)), "concept", "lang")


def _windows(pool: Pool, held: HeldOut) -> Iterator[Row]:
    texts = trainable(pool, held)
    taken = Counter[str]()
    for name, asked in questions(texts, held, pool.lang):
        text, hidden = texts[name], key(asked.query)
        lines = [(concept, line) for concept, form, line in text.lines if form != hidden]
        begins = next((at for at, (concept, _) in enumerate(lines) if concept == asked.concept_id), None)
        if begins is not None and taken[text.source] < MAX_WINDOWS:
            taken[text.source] += 1
            # Both drawn by hash: estimated tokens of the window, and the share of them that comes before the section.
            size, place = (
                digest("window", pool.lang, asked.concept_id, what) % 10_000 / 10_000 for what in ("size", "place")
            )
            tokens = exp(log(SHORTEST) + size * (log(LONGEST) - log(SHORTEST)))
            window = cut([line for _, line in lines], begins, tokens=tokens, before=place * LATEST)
            yield _row(asked, pool.lang, text.source, window, [])


def cut(lines: Sequence[str], begins: int, *, tokens: float, before: float) -> str:
    """The window of ``lines`` in which line number ``begins`` is the section's first.

    Args:
        lines: of the text.
        begins: must be in the window.
        tokens: estimated tokens of the window, at least; the last line is whole.
        before: share of them that comes before the section.
    """
    sizes = [estimate_tokens(line) for line in lines]
    first, left = begins, tokens * before
    while first and left >= sizes[first - 1]:
        first -= 1
        left -= sizes[first]
    last, left = first, tokens
    while last < len(lines) and (left > 0 or last <= begins):
        left -= sizes[last]
        last += 1
    while first and left >= sizes[first - 1]:  # the text has ended before the window has
        first -= 1
        left -= sizes[first]
    return "\n".join(lines[first:last])


def _row(asked: Section, lang: str, source: str, positive: str, negatives: list[str]) -> Row:
    return make_row(asked.query, [positive], negatives, (lang, lang), (source, asked.concept_id), MAX_TEXT_CHARS)
