"""Texts that arrive while a forward pass runs share the next one, for servers with many callers.

A forward pass of one short query costs nearly as much as one of four (docs/log.md, 2026-11-29), and passes at the same
time only wait for each other. So requests queue here, and one thread encodes all that wait together. A lone caller
waits for nobody.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

import numpy as np

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.forward import not_finite_error
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.tokenizer import TokenBatch
from m3_vdb.errors import BusyError, M3Error
from m3_vdb.inputs import whole_number
from m3_vdb.types import M3Embeddings

MAX_WAITING: Final = 1024
"""Texts: some seconds of work on a CPU, for queries."""


@dataclass(slots=True)
class _Request:
    tokens: TokenBatch
    answer: Future[M3Embeddings] = field(default_factory=Future)


class Coalescer:
    """An embedding function whose concurrent calls share forward passes; can be used from any thread and from asyncio.

    It encodes queries and short documents, all three parts, first come first served; results equal those of separate
    calls up to rounding. Long lists of documents belong into ``embed.encode_documents``, which fills its passes alone.

    Args:
        embed: encodes; it stays open when this is closed.
        max_waiting: texts that may wait; a request beyond them is refused, so that no caller waits without bound.

    Raises:
        ConfigError: ``max_waiting`` is not positive.
    """

    def __init__(self, embed: M3EmbeddingFunction, *, max_waiting: int = MAX_WAITING) -> None:
        self._embed = embed
        self._max_waiting = whole_number("max_waiting", max_waiting, least=1)
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._encoding = False
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="m3-vdb-coalescer")

    @property
    def identity(self) -> ModelIdentity:
        """The model's identity."""
        return self._embed.identity

    def submit(self, texts: Iterable[str]) -> Future[M3Embeddings]:
        """Encode texts together with those of other callers.

        From asyncio: ``await asyncio.wrap_future(coalescer.submit([query]))``. A request that is cancelled before its
        pass begins is not encoded.

        Args:
            texts: n strings.

        Returns:
            The embeddings in the order of ``texts``, all three parts; or ModelOutputError if the model returned NaN or
            infinity for one of these texts.

        Raises:
            TextError, TruncationError: as ``M3EmbeddingFunction.encode_queries``, and nobody else is affected.
            BusyError: too many texts wait.
            M3Error: this is closed.
        """
        request = _Request(self._embed.tokenize(texts))
        with self._lock:
            if self._closed:
                raise M3Error("the coalescer is closed: make a new one")
            waiting = sum(len(other.tokens) for other in self._waiting if not other.answer.cancelled())
            if waiting and waiting + len(request.tokens) > self._max_waiting:
                raise BusyError(
                    f"{waiting} texts wait to be encoded, and {self._max_waiting} may: try again, or raise max_waiting"
                )
            self._waiting.append(request)
            if not self._encoding:
                self._encoding = True
                self._thread.submit(self._encode_all)
        return request.answer

    def encode_queries(self, texts: Iterable[str]) -> M3Embeddings:
        """``submit(texts).result()``: the calling thread waits."""
        return self.submit(texts).result()

    def encode_documents(self, texts: Iterable[str]) -> M3Embeddings:
        """``submit(texts).result()``: documents are encoded as queries are."""
        return self.submit(texts).result()

    def close(self) -> None:
        """Refuse new requests, and wait until those that were made are answered."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(wait=True)

    def __enter__(self) -> Coalescer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _encode_all(self) -> None:
        """Encode until nobody waits; in the one thread."""
        while requests := self._next():
            self._encode(requests)

    def _next(self) -> list[_Request]:
        """Take the requests of the next pass: the oldest ones, up to the tokens of a pass, at least one."""
        taken: list[_Request] = []
        room = self._embed.batch_tokens
        with self._lock:
            while self._waiting and (not taken or len(self._waiting[0].tokens.ids) <= room):
                request = self._waiting.popleft()
                if request.answer.set_running_or_notify_cancel():
                    taken.append(request)
                    room -= len(request.tokens.ids)
            self._encoding = bool(taken)
        return taken

    def _encode(self, requests: list[_Request]) -> None:
        try:
            embeddings, failed = self._embed.encode_usable(_joined([request.tokens for request in requests]))
        except Exception as error:  # it belongs to a caller
            if len(requests) == 1:
                requests[0].answer.set_exception(error)
                return
            for request in requests:
                self._encode([request])  # the others get their vectors
            return
        start = 0
        for request in requests:
            own = slice(start, start := start + len(request.tokens))
            if failed[own].any():
                index = int(failed[own].argmax())
                request.answer.set_exception(not_finite_error(index, int(request.tokens.lengths[index])))
            else:
                request.answer.set_result(embeddings[own])


def _joined(batches: list[TokenBatch]) -> TokenBatch:
    lengths = np.concatenate([batch.lengths for batch in batches])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return TokenBatch(
        np.concatenate([batch.ids for batch in batches]),
        offsets,
        np.concatenate([batch.truncated for batch in batches]),
    )
