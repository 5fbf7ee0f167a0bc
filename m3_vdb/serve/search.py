"""``/search``, ``/count``, ``/explain`` and ``/documents``: the collection."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response

from m3_vdb.async_index import AsyncHybridIndex
from m3_vdb.boosts import read_boosts
from m3_vdb.conditions import parse_conditions
from m3_vdb.filter_parser import parse_filter
from m3_vdb.serve.answers import RequestError, json_answer, refusals
from m3_vdb.serve.service import service_of
from m3_vdb.serve.tei import WeightsField
from m3_vdb.stores.options import DEFAULT_CANDIDATES, DEFAULT_SOURCE, Fusion, Source
from m3_vdb.types import Document, Explanation, Filter, Hit
from m3_vdb.weights import Weights


class _IdConvertor(StringConvertor):
    """Ids may hold anything, also slashes and line breaks."""

    regex = r"[\s\S]*"


register_url_convertor("document_id", _IdConvertor())
router = APIRouter(tags=["collection"])

FilterField = Annotated[
    dict[str, Any] | str | list[str] | None,
    Field(
        description='Conditions as JSON, {"lang": "de", "year": {"$gte": 2000}}, or as on the command line, "lang=de"; '
        "all of a list must hold.",
        examples=[{"lang": "de"}, ["lang=de", "year>=2000"]],
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchRequest(_Strict):
    """What to search for."""

    query: str = Field(max_length=10_000)
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=10_000)
    candidates: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description=f"Documents that are scored per list; {DEFAULT_CANDIDATES}, or limit if more.",
    )
    source: Source = Field(DEFAULT_SOURCE, description="Where candidates come from.")
    fusion: Fusion = Field("weighted_sum", description="weighted_sum is the M3 score.")
    weights: WeightsField = "default"
    filter: FilterField = None
    boosts: list[str] = Field(
        [],
        description="Fields of the payload that add to the score, FIELD:WEIGHT or FIELD:WEIGHT:HALF.",
        examples=[["official:0.1", "modified:0.2:30d"]],
    )
    score_threshold: float | None = None
    explain: bool = Field(False, description="Also return the parts of each score.")


class Passage(BaseModel):
    """Which passage of a document that was split, and where it is in the text, in characters."""

    document: str
    number: int
    count: int
    start: int
    stop: int


class ExplainRequest(_Strict):
    """Which hit to explain."""

    query: str = Field(max_length=10_000)
    id: str = Field(min_length=1)
    passage: Passage | None = Field(None, description="As in the hit.")


class Parts(BaseModel):
    """The raw scores, without weights."""

    dense: float
    sparse: float
    multi_vector: float
    bm25: float | None = Field(None, description="Exact words; absent in a collection without them.")
    boost: float | None = Field(None, description="What boosts add, weights included; absent without boosts.")


class Found(BaseModel):
    """A document that was found."""

    id: str
    score: float
    title: str
    text: str
    payload: dict[str, Any]
    passage: Passage | None = None
    parts: Parts | None = None


class Hits(BaseModel):
    """Documents, best first."""

    hits: list[Found]


class CountRequest(_Strict):
    """What to count."""

    filter: FilterField = None


class Count(BaseModel):
    """How many match."""

    count: int = Field(description="Documents; of those that were split, passages.")


class NewDocument(_Strict):
    """A document to add."""

    id: str = Field(min_length=1)
    text: str = ""
    title: str = ""
    payload: dict[str, Any] = Field(default_factory=dict)


class NewDocuments(_Strict):
    """Documents to add; what was stored under their ids is replaced."""

    documents: list[NewDocument]


class Added(BaseModel):
    """What was stored."""

    documents: int
    passages: int = Field(description="As how many passages; more than documents where long ones were split.")
    long_documents: int
    truncated: int = Field(description="Documents that were cut to the model's maximum length.")
    tokens: int


class StoredDocument(BaseModel):
    """A document."""

    id: str
    title: str
    text: str
    payload: dict[str, Any]


class Change(_Strict):
    """A new payload."""

    payload: dict[str, Any] = Field(description="Replaces the whole payload; vectors and text stay.")


class Removal(_Strict):
    """What to delete: ids, or a filter."""

    ids: list[str] | None = None
    filter: FilterField = None


def _index(request: Request) -> AsyncHybridIndex:
    index = service_of(request).index
    assert index is not None, "these routes exist only with a store"
    return index


async def _may_write(request: Request) -> None:
    if not service_of(request).allow_writing:
        raise RequestError(403, "forbidden", "this server only reads: start it with --allow-writing")


_FAILURES = (422, 502, 503)
_WRITING: Any = {"dependencies": [Depends(_may_write)]}


@router.post("/search", response_model=Hits, responses=refusals(429, *_FAILURES), summary="Search")
async def search(body: SearchRequest, request: Request) -> Response:
    """The best documents for a query by the fused M3 score, which the store computes."""
    weights, condition = Weights.parse(body.weights), _filter(body.filter)
    parse_filter(condition)  # refused before anything is encoded
    boosts = read_boosts(body.boosts)
    hits = await _index(request).query(
        body.query,
        weights=weights,
        limit=body.limit,
        offset=body.offset,
        candidates=body.candidates or max(body.limit, DEFAULT_CANDIDATES),
        source=body.source,
        fusion=body.fusion,
        score_threshold=body.score_threshold,
        filter=condition,
        boosts=boosts,
        explain=body.explain,
    )
    return json_answer({"hits": [_found(hit) for hit in hits]})


@router.post("/count", response_model=Count, responses=refusals(*_FAILURES), summary="Count")
async def count(body: CountRequest, request: Request) -> Response:
    """How many documents match a filter, or there are."""
    return json_answer({"count": await _index(request).count(_filter(body.filter))})


@router.post(
    "/explain", response_model=Explanation, responses=refusals(404, 429, *_FAILURES), summary="Explain a score"
)
async def explain(body: ExplainRequest, request: Request) -> Response:
    """Which tokens of a query and of a hit match, and what each adds to the score; both are encoded again."""
    document = await _existing(request, body.id)
    if body.passage:
        document = replace(document, text=document.text[body.passage.start : body.passage.stop])
    return json_answer(await _index(request).explain(body.query, Hit(document, score=0.0)))


@router.post(
    "/documents",
    response_model=Added,
    responses=refusals(403, 413, 429, *_FAILURES),
    summary="Add documents",
    **_WRITING,
)
async def add(body: NewDocuments, request: Request) -> Response:
    """Encode and store documents in batches; after an error the batches before it are stored, and may be sent again."""
    service_of(request).check_count(len(body.documents))
    documents = [Document(one.id, one.text, one.title, one.payload) for one in body.documents]
    return json_answer(asdict(await _index(request).add(documents)))


@router.get(
    "/documents/{id:document_id}", response_model=StoredDocument, responses=refusals(404, *_FAILURES), summary="Get"
)
async def get(id: str, request: Request) -> Response:
    """A document by its id, whole if it was split."""
    one = await _existing(request, id)
    return json_answer({"id": one.id, "title": one.title, "text": one.text, "payload": dict(one.payload)})


@router.patch(
    "/documents/{id:document_id}",
    response_model=StoredDocument,
    responses=refusals(403, 404, *_FAILURES),
    summary="Replace a payload",
    **_WRITING,
)
async def change(id: str, body: Change, request: Request) -> Response:
    """Replace the payload of a document; nothing is encoded."""
    await _existing(request, id)
    await _index(request).update([id], body.payload)
    return await get(id, request)


@router.delete("/documents", status_code=204, responses=refusals(403, *_FAILURES), summary="Delete several", **_WRITING)
async def delete_several(body: Removal, request: Request) -> Response:
    """Delete documents by their ids or by a filter; unknown ids are ignored."""
    await _index(request).delete(body.ids, filter=_filter(body.filter))
    return Response(status_code=204)


@router.delete(
    "/documents/{id:document_id}", status_code=204, responses=refusals(403, *_FAILURES), summary="Delete", **_WRITING
)
async def delete(id: str, request: Request) -> Response:
    """Delete a document; nothing happens if there is none."""
    await _index(request).delete([id])
    return Response(status_code=204)


async def _existing(request: Request, id: str) -> Document:
    found = await _index(request).get([id])
    if not found:
        raise RequestError(404, "not_found", f"no document {id!r}")
    return found[0]


def _filter(given: dict[str, Any] | str | list[str] | None) -> Filter | None:
    if given is None or isinstance(given, dict):
        return given
    return parse_conditions([given] if isinstance(given, str) else given, name="filter")


def _found(hit: Hit) -> dict[str, Any]:
    document = hit.document
    return {
        "id": document.id,
        "score": hit.score,
        "title": document.title,
        "text": document.text,
        "payload": dict(document.payload),
        "passage": hit.passage and asdict(hit.passage),
        "parts": hit.parts and hit.parts.as_dict(),
    }
