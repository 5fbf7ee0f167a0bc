"""What the endpoints do: texts → embeddings, shared passes; the collection, if there is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from m3_vdb.async_index import AsyncHybridIndex
from m3_vdb.encoding.coalesce import MAX_WAITING, MAX_WAITING_TOKENS, TURN_TOKENS, Coalescer
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import DEFAULT_POLICY, LongDocuments
from m3_vdb.encoding.tokenizer import max_text_tokens
from m3_vdb.errors import BundleError
from m3_vdb.index import HybridIndex
from m3_vdb.serve.answers import RequestError
from m3_vdb.stores import describe
from m3_vdb.stores.base import VectorStore
from m3_vdb.types import M3Embeddings

_DESCRIBED_SECONDS: Final = 60.0
"""A description of the collection, which reads some documents, is told again for so long."""
_TOLD_OF_ENGINE: Final = ("name", "version", "exact_candidates", "fusion")
"""Other facts may hold addresses."""
_INLINE_CHARACTERS: Final = 4000
"""Texts up to here are tokenized at once, in less than a millisecond or two; longer ones in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request, and all at the same time, may ask for.

    Attributes:
        body: bytes of a request.
        texts: texts, or documents, of a request.
        tokens: tokens of a request, after truncation.
        requests: requests at the same time.
        waiting: texts that may wait to be encoded.
        waiting_tokens: tokens that may wait to be encoded.
        turn_tokens: tokens of long requests that may be encoded before a short one has its turn.
    """

    body: int = 4 * 1024 * 1024
    texts: int = 256
    tokens: int = 65_536
    requests: int = 256
    waiting: int = MAX_WAITING
    waiting_tokens: int = MAX_WAITING_TOKENS
    turn_tokens: int = TURN_TOKENS


class Service:
    """A model, and perhaps a collection, for many callers; ``close`` closes the collection.

    Args:
        embed: the model; it should have ``on_truncate="ignore"``, because requests say whether texts may be cut.
        store: the collection; None serves embeddings and re-ranking alone.
        limits: what requests may ask for.
        allow_writing: documents can be added, changed and deleted.
        long_documents: what becomes of documents with more tokens than the store takes rows.

    Raises:
        CollectionMismatchError: the store holds vectors of another model.
        ConfigError: a limit is not positive.
    """

    def __init__(
        self,
        embed: M3EmbeddingFunction,
        store: VectorStore | None = None,
        *,
        limits: Limits = Limits(),
        allow_writing: bool = False,
        long_documents: LongDocuments = DEFAULT_POLICY,
    ) -> None:
        self.embed = embed
        self.limits = limits
        self.allow_writing = allow_writing
        self.coalescer = Coalescer(
            embed,
            max_waiting=limits.waiting,
            max_waiting_tokens=limits.waiting_tokens,
            turn_tokens=limits.turn_tokens,
        )
        self.index: AsyncHybridIndex | None = None
        self._store = store
        self._described: tuple[float, dict[str, Any]] | None = None  # when, and what
        self.has_bm25 = store is not None and store.has_bm25
        if store is not None:
            self.index = AsyncHybridIndex(HybridIndex(self.coalescer, store, long_documents=long_documents))

    async def encode(
        self,
        texts: Sequence[str],
        *,
        truncate: bool,
        dense: bool = False,
        sparse: bool = False,
        multi_vector: bool = False,
    ) -> M3Embeddings:
        """Encode texts, in passes that other requests share.

        Args:
            texts: n strings.
            truncate: cut texts that are too long, instead of refusing them.
            dense: return dense vectors.
            sparse: return lexical weights.
            multi_vector: return multi-vectors.

        Raises:
            RequestError: too many texts or tokens, or a text that is too long.
            TextError: a text cannot be encoded.
            BusyError: too much waits.
        """
        self.check_count(len(texts))
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            tokens = self.embed.tokenize(texts)
        else:
            tokens = await asyncio.to_thread(self.embed.tokenize, texts)
        if tokens.truncated.any() and not truncate:
            most = max_text_tokens(self.embed.max_length, self.embed.mcls_every)
            raise RequestError(
                413,
                "validation",
                f"item {int(tokens.truncated.argmax())} has more than {most} tokens: split it, or "
                f'ask for "truncate": true',
            )
        if len(tokens.ids) > self.limits.tokens:
            raise RequestError(
                413,
                "validation",
                f"the request has {len(tokens.ids)} tokens, at most {self.limits.tokens} are allowed: send fewer texts",
            )
        submitted = self.coalescer.submit_tokens(tokens, dense=dense, sparse=sparse, multi_vector=multi_vector)
        return await asyncio.wrap_future(submitted)

    def check_count(self, count: int) -> None:
        """Refuse more texts or documents than a request may have.

        Raises:
            RequestError: there are more.
        """
        if count > self.limits.texts:
            raise RequestError(
                413,
                "validation",
                f"{count} texts, at most {self.limits.texts} are allowed per request: send them in parts",
            )

    async def describe(self) -> dict[str, Any] | None:
        """What the collection holds, without paths and addresses; None without a collection.

        Raises:
            StoreError: it cannot be read.
        """
        if self._store is None:
            return None
        now = time.monotonic()
        if self._described is None or now > self._described[0] + _DESCRIBED_SECONDS:
            told = (await asyncio.to_thread(describe, self._store)).as_dict()
            told["engine"] = {name: told["engine"][name] for name in _TOLD_OF_ENGINE if name in told["engine"]}
            told["last_run"] = {name: value for name, value in told["last_run"].items() if name != "source"}
            del told["model"], told["languages_note"]
            self._described = now, told
        return self._described[1]

    @property
    def precision(self) -> str:
        """The arithmetic of the model's file, such as int8; "" if it has none."""
        try:
            return self.embed.bundle.precision
        except BundleError:  # made from parts
            return ""

    async def close(self) -> None:
        """Answer what runs, refuse what comes, and close the collection; a second call does nothing."""
        if self.index is not None:
            await self.index.close()
        await asyncio.to_thread(self.coalescer.close)


def service_of(request: Request) -> Service:
    """The service that a request is for."""
    service: Service = request.app.state.service
    return service
