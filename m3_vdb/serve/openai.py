"""``/v1/embeddings`` and ``/v1/models``, as the openai client asks for them; sparse and multi-vectors on demand."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.responses import Response

from m3_vdb.serve.answers import OpenAIProblem, RequestError, json_answer, refusals
from m3_vdb.serve.service import service_of
from m3_vdb.types import FloatArray, M3Embedding

router = APIRouter(prefix="/v1", tags=["OpenAI"])


class EmbeddingsRequest(BaseModel):
    """Texts to encode; other fields of OpenAI's are ignored."""

    input: str | list[str] | SkipJsonSchema[list[int] | list[list[int]]]
    model: str | None = Field(None, description="Ignored: the answer names the model that is served.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: vectors as little-endian float32, a multi-vector as its rows, one after the other."
    )
    dimensions: int | None = Field(None, description="The model's own width, or nothing.")
    sparse: bool = Field(False, description="Also return lexical weights.")
    multi_vector: bool = Field(False, description="Also return one vector per token.")
    truncate: bool = Field(False, description="Cut texts that are too long, instead of refusing them.")


class SparseVector(BaseModel):
    """Lexical weights of one text."""

    indices: list[int] = Field(description="Token ids, ascending.")
    values: list[float]


class Item(BaseModel):
    """The vectors of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    sparse: SparseVector | None = None
    multi_vector: list[list[float]] | str | None = None


class Usage(BaseModel):
    """Tokens that were encoded."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """Embeddings in the order of the input."""

    object: Literal["list"]
    data: list[Item]
    model: str
    usage: Usage


@router.post(
    "/embeddings", response_model=Embeddings, responses=refusals(400, 413, 429, shape=OpenAIProblem), summary="Encode"
)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Dense vectors of texts, on demand with lexical weights and multi-vectors, all from one forward pass."""
    service = service_of(request)
    texts = _texts(body.input)
    width = service.embed.dim["dense"]
    if body.dimensions not in (None, width):
        raise RequestError(422, "validation", f"dimensions={body.dimensions}: the vectors of this model have {width}")
    encoded = await service.encode(
        texts, truncate=body.truncate, dense=True, sparse=body.sparse, multi_vector=body.multi_vector
    )
    tokens = int(encoded.token_counts.sum())
    return json_answer(
        {
            "object": "list",
            "data": [_item(i, one, as_base64=body.encoding_format == "base64") for i, one in enumerate(encoded)],
            "model": service.embed.identity.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


class Model(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """The models that are served: one."""

    object: Literal["list"]
    data: list[Model]


@router.get("/models", response_model=Models, responses=refusals(shape=OpenAIProblem), summary="The model")
async def models(request: Request) -> Response:
    """The model that is served, as a list."""
    one = {"id": service_of(request).embed.identity.name, "object": "model", "created": 0, "owned_by": "m3-vdb"}
    return json_answer({"object": "list", "data": [one]})


def _texts(given: str | list[str] | list[int] | list[list[int]]) -> list[str]:
    if isinstance(given, str):
        return [given]
    texts = [one for one in given if isinstance(one, str)]
    if len(texts) < len(given):
        raise RequestError(
            422, "validation", "input: token ids are another tokenizer's: send text (check_embedding_ctx_length=False)"
        )
    return texts


def _item(index: int, one: M3Embedding, *, as_base64: bool) -> dict[str, Any]:
    item: dict[str, Any] = {"object": "embedding", "index": index, "embedding": _vector(one.dense, as_base64=as_base64)}
    if one.sparse is not None:
        item["sparse"] = {"indices": one.sparse.ids, "values": one.sparse.weights}
    if one.multi_vector is not None:
        item["multi_vector"] = _vector(one.multi_vector, as_base64=as_base64)
    return item


def _vector(vector: FloatArray | None, *, as_base64: bool) -> FloatArray | str | None:
    if vector is None:
        return None
    ordered = np.ascontiguousarray(vector, dtype="<f4")
    return base64.b64encode(ordered.tobytes()).decode() if as_base64 else ordered
