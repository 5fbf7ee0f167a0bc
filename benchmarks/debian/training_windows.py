"""Training rows with parts of long texts: a heading, and a window of the text in which its section begins.

Of a text of 5,000 tokens (:mod:`.training_long`) a training that cuts at 2,000 often loses the very section that is
asked for. A window holds it, at a place and of a length that vary: what a model learns from such rows holds for long
texts, at a fraction of their cost.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log

from .pool import HeldOut, Shelf
from .records import digest, estimate_tokens, key
from .training import Row
from .training_long import Trainable, in_order, make_row, questions, trainable

SHORTEST, LONGEST = 350, 1_700
"""Estimated tokens of a window; lengths between are drawn so that each doubling is as frequent."""

LATEST = 0.7
"""Where in its window a section begins at the latest, as a share."""

MAX_ROWS = 120
"""Rows per language and source."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A window to cut out, both drawn by hash.

    Attributes:
        tokens: estimated tokens, at least; the last line is whole.
        before: share of them that comes before the section.
    """

    tokens: float
    before: float


def draw(*parts: str) -> Frame:
    """The frame of a row."""
    size, place = (digest(*parts, name) % 10_000 / 10_000 for name in ("size", "place"))
    return Frame(exp(log(SHORTEST) + size * (log(LONGEST) - log(SHORTEST))), place * LATEST)


def cut(lines: Sequence[str], begins: int, frame: Frame) -> str:
    """The window of ``lines`` in which line number ``begins`` is the section's first."""
    sizes = [estimate_tokens(line) for line in lines]
    first, left = begins, frame.tokens * frame.before
    while first and left >= sizes[first - 1]:
        first -= 1
        left -= sizes[first]
    last, left = first, frame.tokens
    while last < len(lines) and (left > 0 or last <= begins):
        left -= sizes[last]
        last += 1
    while first and left >= sizes[first - 1]:  # the text has ended before the window has
        first -= 1
        left -= sizes[first]
    return "\n".join(lines[first:last])


def lines_of(text: Trainable, asked: str, held: HeldOut) -> Iterator[tuple[str, str]]:
    """Concept and line for all lines of a text that a row may show: neither the query nor what is held out."""
    for section in text.sections:
        for line in (section.heading, *section.text.split("\n")):
            if line and key(line) != key(asked) and key(line) not in held.queries:
                yield section.concept_id, line


def shelf_rows(shelf: Shelf, held: HeldOut) -> Iterator[Row]:
    """The rows of one language."""
    texts = trainable(shelf, held)
    taken: dict[str, int] = {}
    for name, asked in questions(texts, held, shelf.lang):
        text = texts[name]
        marked = list(lines_of(text, asked.query, held))
        begins = next((at for at, (concept, _) in enumerate(marked) if concept == asked.concept_id), None)
        if begins is None or taken.get(text.source, 0) >= MAX_ROWS:
            continue
        taken[text.source] = taken.get(text.source, 0) + 1
        window = cut([line for _, line in marked], begins, draw("window", shelf.lang, asked.concept_id))
        yield make_row(asked, shelf.lang, text.source, window, ())


def rows(shelves: Sequence[Shelf], held: HeldOut) -> list[Row]:
    """The rows of all languages."""
    return in_order(row for shelf in shelves for row in shelf_rows(shelf, held))
