"""One page of the hits that an engine fuses: by score, and of equal ones by id.

Engines return hits of equal scores in any order, another one for every request. So one hit before the page and one
behind it are asked for too. If no two equal hits lie on both sides of an edge, the page holds what it must and is only
sorted. Else the ids and scores of all candidates are asked for, and the page is cut here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from m3_vdb.stores.search import Search
from m3_vdb.types import Scores


@dataclass(frozen=True, slots=True)
class Found:
    """A hit as an engine gives it.

    Attributes:
        id: the user's.
        score: fused.
        payload: of the point, with as much as was asked for.
        parts: raw scores, if they were asked for.
    """

    id: str
    score: float
    payload: Mapping[str, Any]
    parts: Scores | None = None


def read_page(
    search: Search,
    most: int,
    ask: Callable[[int, int, bool], Sequence[Found]],
    payloads: Callable[[Sequence[str]], Mapping[str, Mapping[str, Any]]] | None,
) -> list[Found]:
    """The hits of a page, best first.

    Args:
        search: which hits to return.
        most: candidates that there may be.
        ask: gives hits by (offset, limit, whether their ids will do), best first.
        payloads: gives the payloads of ids that still exist; None if ids are all that is wanted.
    """
    start, stop = max(search.offset - 1, 0), min(search.offset + search.limit + 1, most)
    if search.offset >= most:
        return []
    found = ask(start, stop - start, payloads is None)
    first, last = search.offset - start, search.offset - start + search.limit
    if not _cuts_tie(found, first) and not _cuts_tie(found, last):
        return _sorted(found[first:last])
    page = _sorted(ask(0, most, True))[search.offset : search.offset + search.limit]
    if payloads is None:
        return page
    kept = payloads([one.id for one in page])
    return [replace(one, payload=kept[one.id]) for one in page if one.id in kept]


def _cuts_tie(found: Sequence[Found], at: int) -> bool:
    return 0 < at < len(found) and found[at - 1].score == found[at].score


def _sorted(found: Sequence[Found]) -> list[Found]:
    return sorted(found, key=lambda one: (-one.score, one.id))
