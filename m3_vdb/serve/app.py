"""The application: endpoints, and what stands before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response

from m3_vdb.errors import ConfigError
from m3_vdb.serve import openai, page, search, tei
from m3_vdb.serve.answers import json_answer, refusals, render
from m3_vdb.serve.guard import FREE, Guard
from m3_vdb.serve.metrics import Metrics
from m3_vdb.serve.service import Service, service_of
from m3_vdb.stores.options import DEFAULT_SOURCE, SOURCES
from m3_vdb.weights import PRESETS

router = APIRouter(tags=["server"])
VERSION: Final = version("m3-vdb")


def make_app(service: Service, *, keys: Sequence[str] = (), cors_origins: Sequence[str] = ()) -> FastAPI:
    """The application for a service, which it closes when it ends.

    Args:
        service: encodes and searches.
        keys: one of them must come with every request but ``/health`` and the files of the page; none needs none.
        cors_origins: web pages of these origins may send requests; "*" for all.

    Raises:
        ConfigError: a key is empty.
    """
    if not all(keys):
        raise ConfigError("an API key is empty: give a key of some length, or none")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="m3-vdb",
        version=VERSION,
        description="Dense, sparse and multi-vector embeddings from one forward pass, and search over all three.",
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        exception_handlers={RequestValidationError: render, HTTPException: render},
    )
    app.state.service = service
    app.state.metrics = metrics = Metrics(service.coalescer)
    for one in (page.router, router, openai.router, tei.router, *([search.router] if service.index else [])):
        app.include_router(one)
    app.add_middleware(Guard, keys=keys, limits=service.limits, metrics=metrics)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["*"],
            allow_headers=["Authorization", "Content-Type"],
        )
    if keys:
        _declare_keys(app)
    return app


class Health(BaseModel):
    """That the server answers."""

    status: str


class Held(BaseModel):
    """What the collection holds, as ``m3-vdb info`` tells it; at most a minute old."""

    documents: int
    passages: int = Field(description="Rows; more than documents where long ones were split.")
    languages: dict[str, int] = Field(description="Rows by the payload field lang, of its first ten values.")
    bytes: dict[str, int] = Field(description="By part.")
    bytes_are: str = Field(description="on disk, or from how many documents they are estimated.")
    disk_bytes: int | None
    index: str = Field(description="State of the indexes.")
    options: dict[str, Any] = Field(description="How the collection was made.")
    engine: dict[str, Any] = Field(description="Name, version, and where scores are fused.")
    last_run: dict[str, Any] = Field(description="The last ingest or sync that ended; without the name of its source.")


class Info(BaseModel):
    """The model, the collection, and what requests may ask for."""

    model_id: str
    model_sha: str
    model_dtype: str
    runtime: str
    dimensions: dict[str, int]
    max_input_length: int
    max_client_batch_size: int
    max_batch_tokens: int
    max_concurrent_requests: int
    max_body_bytes: int
    documents: int | None = Field(description="Rows, counted now.")
    collection: Held | None
    allow_writing: bool
    sources: list[str] = Field(description="Of candidates; the first is the default.")
    weights: dict[str, dict[str, float]] = Field(description="Presets.")
    version: str


@router.get("/health", response_model=Health, summary="Whether the server answers")
async def health() -> Response:
    """Answers as long as the server runs; needs no key."""
    return json_answer({"status": "ok"})


@router.get("/info", response_model=Info, responses=refusals(502, 503), summary="Model, collection, limits")
async def info(request: Request) -> Response:
    """What is served."""
    service = service_of(request)
    embed, limits = service.embed, service.limits
    shown = {
        "model_id": embed.identity.name,
        "model_sha": embed.identity.fingerprint,
        "model_dtype": service.precision,
        "runtime": embed.session.description,
        "dimensions": embed.dim,
        "max_input_length": embed.max_length,
        "max_client_batch_size": limits.texts,
        "max_batch_tokens": limits.tokens,
        "max_concurrent_requests": limits.requests,
        "max_body_bytes": limits.body,
        "documents": await service.index.count() if service.index else None,
        "collection": await service.describe(),
        "allow_writing": service.index is not None and service.allow_writing,
        "sources": sorted(SOURCES, key=lambda source: source != DEFAULT_SOURCE),
        "weights": _presets(bm25=service.has_bm25),
        "version": VERSION,
    }
    return json_answer(shown)


def _presets(*, bm25: bool) -> dict[str, dict[str, float]]:
    """The presets that the collection can use; their weights of exact words only if it has them."""
    if bm25:
        return {name: asdict(weights) for name, weights in PRESETS.items()}
    return {name: weights.as_dict() for name, weights in PRESETS.items() if not weights.bm25}


@router.get("/metrics", response_class=PlainTextResponse, responses=refusals(), summary="Metrics for Prometheus")
async def metrics(request: Request) -> Response:
    """Requests by route and status, latency, texts, tokens, passes, and what waits."""
    counted: Metrics = request.app.state.metrics
    return PlainTextResponse(counted.text(), media_type="text/plain; version=0.0.4")


def _declare_keys(app: FastAPI) -> None:
    """Say in the OpenAPI document which endpoints need a key."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in document["paths"].items():
            for operation in methods.values():
                operation["security"] = [] if path in FREE else [{"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
