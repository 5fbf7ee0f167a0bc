"""``/embed``, ``/embed_sparse`` and ``/rerank`` in the shapes of text-embeddings-inference."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from m3_vdb.scoring import hybrid_score, score
from m3_vdb.serve.answers import RequestError, json_answer, refusals
from m3_vdb.serve.service import Service, service_of
from m3_vdb.types import M3Embeddings
from m3_vdb.weights import PRESETS, Weights

router = APIRouter(tags=["text-embeddings-inference"])
WeightsField = Annotated[
    str | list[float] | dict[str, float],
    Field(
        description=f"Three numbers (dense, sparse, multi_vector), or one of {', '.join(PRESETS)}.",
        examples=["default"],
    ),
]
_REFUSALS = refusals(413, 422, 429)


class Inputs(BaseModel):
    """Texts to encode."""

    inputs: str | list[str]
    truncate: bool | None = Field(False, description="Cut texts that are too long, instead of refusing them.")
    truncation_direction: Literal["right", "Right"] | None = None

    async def encode(self, service: Service, **parts: bool) -> M3Embeddings:
        """The requested parts of these texts."""
        texts = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        return await service.encode(texts, truncate=bool(self.truncate), **parts)


class EmbedRequest(Inputs):
    """Texts to encode as dense vectors."""

    normalize: Literal[True] | None = Field(True, description="The vectors of M3 have length 1.")
    prompt_name: None = Field(None, description="M3 has no prompts.")
    dimensions: int | None = Field(None, description="The model's own width, or nothing.")


@router.post("/embed", response_model=list[list[float]], responses=_REFUSALS, summary="Dense vectors")
async def embed(body: EmbedRequest, request: Request) -> Response:
    """One vector per text."""
    service = service_of(request)
    width = service.embed.dim["dense"]
    if body.dimensions not in (None, width):
        raise RequestError(422, "validation", f"dimensions={body.dimensions}: the vectors of this model have {width}")
    encoded = await body.encode(service, dense=True)
    return json_answer(encoded.dense)


class SparseValue(BaseModel):
    """The weight of a token."""

    index: int
    value: float


@router.post("/embed_sparse", response_model=list[list[SparseValue]], responses=_REFUSALS, summary="Lexical weights")
async def embed_sparse(body: Inputs, request: Request) -> Response:
    """One list of token ids and weights per text."""
    encoded = await body.encode(service_of(request), sparse=True)
    return json_answer(
        [[{"index": id, "value": weight} for id, weight in one.items()] for one in encoded.sparse_dicts()]
    )


class RerankRequest(BaseModel):
    """A query, and the texts to order by it."""

    query: str
    texts: list[str]
    truncate: bool | None = Field(False, description="Cut texts that are too long, instead of refusing them.")
    return_text: bool = False
    raw_scores: bool = Field(False, description="Ignored: scores are those of M3, always.")
    weights: WeightsField = "default"


class Rank(BaseModel):
    """A text and its score."""

    index: int
    score: float
    text: str | None = None


@router.post("/rerank", response_model=list[Rank], responses=_REFUSALS, summary="Texts by their M3 score")
async def rerank(body: RerankRequest, request: Request) -> Response:
    """The texts, best first, by the weighted sum of the three scores; query and texts share a pass."""
    service = service_of(request)
    weights = Weights.parse(body.weights)
    service.check_count(len(body.texts))
    encoded = await service.encode(
        [body.query, *body.texts], truncate=bool(body.truncate), dense=True, sparse=True, multi_vector=True
    )
    scores = await asyncio.to_thread(_scores, encoded, weights)
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    ranks: list[dict[str, Any]] = [{"index": i, "score": scores[i]} for i in best]
    if body.return_text:
        ranks = [rank | {"text": body.texts[rank["index"]]} for rank in ranks]
    return json_answer(ranks)


def _scores(encoded: M3Embeddings, weights: Weights) -> list[float]:
    """The score of the first text with each of the others."""
    query = encoded[0]
    return [hybrid_score(score(query, encoded[i]), weights) for i in range(1, len(encoded))]
