"""What ``m3-vdb search --explain`` prints for each hit."""

from __future__ import annotations

from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from m3_vdb.bm25 import bm25_tokens
from m3_vdb.cli.output import printable
from m3_vdb.types import Explanation, Hit, Token

_AROUND: Final = 12
"""Characters shown before and after a token."""
_PLACES: Final = 3
"""Places shown of a token that a document has more often."""


def explained(rank: int, hit: Hit, explanation: Explanation) -> RenderableType:
    """The terms of a hit's scores, to read."""
    parts = explanation.parts
    where = f", passage {hit.passage.number} of {hit.passage.count}" if hit.passage else ""
    blocks: list[RenderableType] = [
        Text(f"\n{rank}  {printable(hit.document.id)}{where}", style="bold"),
        Text(f"dense {parts.dense:.3f}, one vector per text"),
        Text(f"sparse {parts.sparse:.3f}, the sum of weight in the query × weight in the document"),
    ]
    lexical = _columns()
    for match in explanation.lexical:
        product = f"{match.query_weight:.3f} × {match.document_weight:.3f} = {match.product:.3f}"
        lexical.add_row(_shown(match.query[0]), product, _places(explanation.document, match.document))
    blocks += [_indented(lexical)] if explanation.lexical else []
    blocks.append(Text(f"multi-vector {parts.multi_vector:.3f}, the mean of each token's best similarity"))
    alignment = _columns()
    for pair in explanation.alignment:
        there = _in_context(explanation.document, pair.document)
        alignment.add_row(_shown(pair.query), f"{pair.similarity:.3f}", there)
    blocks.append(_indented(alignment))
    if parts.bm25 is not None:
        held = set(bm25_tokens(explanation.document))
        words = ", ".join(dict.fromkeys(token for token in bm25_tokens(explanation.query) if token in held))
        blocks.append(Text(f"bm25 {parts.bm25:.3f}, exact words: {printable(words) or 'none'}"))
    if parts.boost is not None:
        blocks.append(Text(f"boost {parts.boost:.3f}, from the payload"))
    blocks += [Text(f"note: {note}") for note in explanation.notes]
    return Group(*blocks)


def _columns() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    return table


def _indented(table: Table) -> Padding:
    return Padding(table, (0, 0, 0, 2))


def _shown(token: Token) -> str:
    return printable(token.text) or token.piece


def _places(text: str, tokens: tuple[Token, ...]) -> Text:
    shown = Text("\n").join(_in_context(text, token) for token in tokens[:_PLACES])
    more = len(tokens) - _PLACES
    return shown.append(f"\n… {more} more", style="dim") if more > 0 else shown


def _in_context(text: str, token: Token) -> Text:
    """The characters around a token, which is bold and in brackets; on one line."""
    before = text[max(token.start - _AROUND, 0) : token.start]
    after = text[token.stop : token.stop + _AROUND]
    marked = f"[{_one_line(_shown(token))}]"
    return Text.assemble((_one_line(before), "dim"), (marked, "bold"), (_one_line(after), "dim"))


def _one_line(text: str) -> str:
    return printable("".join(" " if character.isspace() else character for character in text))
