"""MCP: a collection as tools of an assistant: ``find``, and ``store`` where writing is allowed.

``m3-vdb mcp`` runs this server over stdio or HTTP. Each call encodes one text in one pass and sends one request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final

from m3_vdb.async_index import AsyncHybridIndex
from m3_vdb.errors import M3Error, MissingExtraError
from m3_vdb.types import Document
from m3_vdb.weights import Weights, WeightsLike

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
    from pydantic import Field
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("mcp", "pydantic"):
        raise
    raise MissingExtraError("m3-vdb mcp", extra="mcp") from error

MAX_HITS: Final = 50
_FILTER: Final = (
    'Conditions on the payload that must all hold: {"lang": "de"}, {"lang": ["de", "fr"]}, {"year": {"$gte": 2000}}, '
    '{"$or": [{…}, {…}]}, {"$not": {…}}.'
)
_BOOSTS: Final = (
    "Fields of the payload that move documents up; scores lie between 0 and about 2. FIELD:WEIGHT for true or a number "
    "(official:0.1), FIELD:WEIGHT:HALF for a date (modified:0.2:30d, half of it at that age) or a large number "
    "(clicks:0.2:1000, half of it at that value)."
)


@dataclass(frozen=True, slots=True)
class Found:
    """One result of ``find``.

    Attributes:
        id: the document's id.
        score: relevance, comparable within one answer.
        title: its title, "" without one.
        text: its text; of a long document, the best passage.
        payload: its other fields.
    """

    id: str
    score: float
    title: str
    text: str
    payload: dict[str, Any]


def make_server(
    index: AsyncHybridIndex, *, about: str = "", weights: WeightsLike = "default", allow_writing: bool = False
) -> MCPServer:
    """An MCP server over an open collection; ``run`` serves it, and whoever opened the index closes it.

    Args:
        index: the collection.
        about: what it holds, for the assistant that decides whether to search it.
        weights: of the parts of the score, for every search.
        allow_writing: offer ``store``, too.
    """
    fusion = Weights.parse(weights)
    holds = f" It holds: {about}." if about else ""
    server = MCPServer("m3-vdb", instructions=f"Search in a collection of documents.{holds}", log_level="WARNING")

    async def find(
        query: Annotated[str, Field(description="A question or some words, in any language.")],
        limit: Annotated[int, Field(ge=1, le=MAX_HITS, description="Number of documents.")] = 5,
        filter: Annotated[dict[str, Any] | None, Field(description=_FILTER)] = None,
        boosts: Annotated[list[str] | None, Field(description=_BOOSTS)] = None,
    ) -> list[Found]:
        with _errors_told():
            hits = await index.query(query, limit=limit, weights=fusion, filter=filter, boosts=boosts or ())
        return [
            Found(hit.document.id, hit.score, hit.document.title, hit.document.text, dict(hit.document.payload))
            for hit in hits
        ]

    async def store(
        text: Annotated[str, Field(description="The text to find later.")],
        title: Annotated[str, Field(description="Searched together with the text.")] = "",
        payload: Annotated[dict[str, Any] | None, Field(description="Further JSON fields, for filters.")] = None,
        id: Annotated[
            str | None, Field(description="Replaces the document with this id. Default: made from it.")
        ] = None,
    ) -> str:
        name = id or hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16]
        with _errors_told():
            await index.add([Document(name, text, title=title, payload=payload or {})])
        return name

    server.add_tool(
        find,
        description=f"Find documents by meaning and by exact words, best first.{holds}",
        annotations=ToolAnnotations(title="Find documents", read_only_hint=True, open_world_hint=False),
    )
    if allow_writing:
        server.add_tool(
            store,
            description="Store a document in the collection, and return its id.",
            annotations=ToolAnnotations(
                title="Store a document", read_only_hint=False, idempotent_hint=True, open_world_hint=False
            ),
        )
    return server


@contextmanager
def _errors_told() -> Iterator[None]:
    """Tell the assistant what was wrong, in one line."""
    try:
        yield
    except M3Error as error:
        raise ToolError(str(error)) from error
