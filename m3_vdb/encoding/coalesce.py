"""Texts that arrive while a forward pass runs share the next one, for servers with many callers.

A forward pass of one short query costs nearly as much as one of four (docs/log.md, 2026-11-29), and passes at the same
time only wait for each other. So requests queue here, and one thread encodes what waits together. A lone caller waits
for nobody.

There are two queues, which take turns while both hold something: one of short requests, such as queries, and one of
long ones. A turn of the long queue is bounded in tokens, and the requests in it get a share one after the other. So a
query waits for one bounded turn, a document does not wait for thousands of another caller, and nobody waits for ever.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final

import numpy as np

from m3_vdb.encoding import pooling
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.forward import not_finite_error, output_names
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.tokenizer import TokenBatch, Tokenizer
from m3_vdb.errors import BusyError, M3Error
from m3_vdb.inputs import whole_number
from m3_vdb.types import EncodeStats, M3Embeddings

MAX_WAITING: Final = 1024
"""Texts: some seconds of work on a CPU, for queries."""
MAX_WAITING_TOKENS: Final = 131_072
"""Tokens: half a minute of work on a CPU, for m3-small."""
SHORT_TOKENS: Final = 128
"""Most tokens of a short request: one query, or a few."""
TURN_TOKENS: Final = 1024
"""Tokens of long requests per turn: a quarter of a second on a CPU, for m3-small."""


@dataclass(slots=True, eq=False)
class _Request:
    """A caller's texts.

    Attributes:
        tokens: of the texts.
        parts: what the caller wants, as arguments of ``encode_usable``.
        lengths: tokens of each text.
        left: texts that are not encoded yet, the longest last, so that texts of like lengths share a pass.
        tokens_left: their tokens.
        pieces: what is done: numbers of texts, and their embeddings.
        answer: what the caller waits for.
        answered: locked once the caller is answered, which happens once.
    """

    tokens: TokenBatch
    parts: dict[str, bool]
    lengths: list[int]
    left: list[int]
    tokens_left: int
    pieces: list[tuple[list[int], M3Embeddings]] = field(default_factory=list)
    answer: Future[M3Embeddings] = field(default_factory=Future)
    answered: threading.Lock = field(default_factory=threading.Lock)

    def take(self, room: int, *, least: int) -> list[int]:
        """The next texts, up to ``room`` tokens; at least ``least`` texts."""
        taken: list[int] = []
        while self.left and (len(taken) < least or self.lengths[self.left[-1]] <= room):
            taken.append(self.left.pop())
            room -= self.lengths[taken[-1]]
        self.tokens_left -= sum(self.lengths[text] for text in taken)
        return taken

    def add(self, texts: list[int], embeddings: M3Embeddings) -> None:
        """Keep what the caller wants of some texts; answer when it is all."""
        dropped: dict[str, Any] = {}
        for name, wanted in self.parts.items():
            if not wanted:
                dropped |= dict.fromkeys(_FIELDS[name])
        self.pieces.append((texts, replace(embeddings, **dropped) if dropped else embeddings))
        if sum(len(piece) for piece, _ in self.pieces) == len(self.lengths):
            self.finish(self.pieces[0][1] if len(self.lengths) == 1 else _in_order(self.tokens, self.pieces))

    def finish(self, result: M3Embeddings | Exception | None) -> None:
        """Answer the caller, unless that was done or the request was cancelled (None)."""
        if not self.answered.acquire(blocking=False) or not self.answer.set_running_or_notify_cancel():
            return
        if isinstance(result, Exception):
            self.answer.set_exception(result)
        elif result is not None:
            self.answer.set_result(result)


_FIELDS: Final = {
    "dense": ("dense",),
    "sparse": ("sparse_ids", "sparse_weights", "sparse_offsets"),
    "multi_vector": ("multi_vector", "multi_vector_offsets"),
}
"""Part → attributes of ``M3Embeddings``."""
_Share = tuple[_Request, list[int]]
"""Some texts of a request."""


@dataclass(frozen=True, slots=True)
class CoalescerStats:
    """What a coalescer has done, and what waits.

    Attributes:
        passes: forward passes.
        texts: texts that were encoded.
        tokens: tokens of these texts, without padding.
        seconds: time spent in encoding.
        waiting_texts: texts that wait.
        waiting_tokens: their tokens.
    """

    passes: int = 0
    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waiting_texts: int = 0
    waiting_tokens: int = 0


class Coalescer:
    """An embedding function whose concurrent calls share forward passes; can be used from any thread and from asyncio.

    Results equal those of separate calls up to rounding. One caller alone with thousands of documents is better served
    by ``embed.encode_documents``, which fills its passes.

    Args:
        embed: encodes; it stays open when this is closed.
        max_waiting: texts that may wait; a request beyond them is refused, so that no caller waits without bound.
        max_waiting_tokens: tokens that may wait, likewise.
        short_tokens: the most tokens of a request in the short queue.
        turn_tokens: tokens of long requests that are encoded before the short queue has its turn. (A longer text has a
            turn of its own.)

    Raises:
        ConfigError: a number is not positive.
    """

    def __init__(
        self,
        embed: M3EmbeddingFunction,
        *,
        max_waiting: int = MAX_WAITING,
        max_waiting_tokens: int = MAX_WAITING_TOKENS,
        short_tokens: int = SHORT_TOKENS,
        turn_tokens: int = TURN_TOKENS,
    ) -> None:
        self._embed = embed
        self._max_waiting = whole_number("max_waiting", max_waiting, least=1)
        self._max_waiting_tokens = whole_number("max_waiting_tokens", max_waiting_tokens, least=1)
        self._short_tokens = whole_number("short_tokens", short_tokens, least=1)
        self._turn_tokens = whole_number("turn_tokens", turn_tokens, least=1)
        self._lock = threading.Lock()
        self._short: deque[_Request] = deque()
        self._long: deque[_Request] = deque()
        self._is_long_next = False
        self._encoding = False
        self._closed = False
        self._done = CoalescerStats()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="m3-vdb-coalescer")

    @property
    def embed(self) -> M3EmbeddingFunction:
        """The embedding function that encodes."""
        return self._embed

    @property
    def identity(self) -> ModelIdentity:
        """The model's identity."""
        return self._embed.identity

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._embed.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens kept per text."""
        return self._embed.max_length

    @property
    def model_max_length(self) -> int:
        """Maximum tokens of the model."""
        return self._embed.model_max_length

    @property
    def mcls_every(self) -> int | None:
        """Tokens between two ``<s>``; None for a single ``<s>``."""
        return self._embed.mcls_every

    @property
    def stats(self) -> CoalescerStats:
        """What was done until now, and what waits."""
        with self._lock:
            texts, tokens = self._waiting()
            return replace(self._done, waiting_texts=texts, waiting_tokens=tokens)

    def submit(self, texts: Iterable[str]) -> Future[M3Embeddings]:
        """Encode texts together with those of other callers.

        From asyncio: ``await asyncio.wrap_future(coalescer.submit([query]))``. What of a cancelled request is not in a
        pass yet is not encoded.

        Args:
            texts: n strings.

        Returns:
            The embeddings in the order of ``texts``, all three parts; or ModelOutputError if the model returned NaN or
            infinity for one of these texts.

        Raises:
            TextError, TruncationError: as ``M3EmbeddingFunction.encode_queries``, and nobody else is affected.
            BusyError: too many texts or tokens wait.
            M3Error: this is closed.
        """
        return self.submit_tokens(self._embed.tokenize(texts))

    def submit_tokens(
        self, tokens: TokenBatch, *, dense: bool = True, sparse: bool = True, multi_vector: bool = True
    ) -> Future[M3Embeddings]:
        """``submit`` for texts that are tokenized already.

        Args:
            tokens: n texts, as for ``M3EmbeddingFunction.encode_usable``.
            dense: return dense vectors.
            sparse: return lexical weights.
            multi_vector: return multi-vectors.

        Returns:
            The embeddings, as ``submit``; parts that were not requested are None.

        Raises:
            ConfigError: no part is requested.
            BusyError, M3Error: as ``submit``.
        """
        parts = {"dense": dense, "sparse": sparse, "multi_vector": multi_vector}
        output_names(**parts)
        order = np.argsort(tokens.lengths, kind="stable").tolist()
        request = _Request(tokens, parts, tokens.lengths.tolist(), order, len(tokens.ids))
        if not order:
            request.finish(self._embed.encode_usable(tokens, passed=None, **parts)[0])
            return request.answer
        with self._lock:
            if self._closed:
                raise M3Error("the coalescer is closed: make a new one")
            self._check_room(request)
            (self._short if request.tokens_left <= self._short_tokens else self._long).append(request)
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

    def _waiting(self) -> tuple[int, int]:
        """Texts and tokens that wait; drops requests that were cancelled or failed."""
        for queue in (self._short, self._long):
            for request in [one for one in queue if one.answer.done()]:
                queue.remove(request)
                request.finish(None)
        waiting = [*self._short, *self._long]
        return sum(len(one.left) for one in waiting), sum(one.tokens_left for one in waiting)

    def _check_room(self, request: _Request) -> None:
        """Refuse a request for which there is no room; when nothing waits, there is room for any.

        Raises:
            BusyError: with the seconds after which what waits is probably done.
        """
        texts, tokens = self._waiting()
        for unit, waiting, more, limit, name in (
            ("texts", texts, len(request.left), self._max_waiting, "max_waiting"),
            ("tokens", tokens, request.tokens_left, self._max_waiting_tokens, "max_waiting_tokens"),
        ):
            if waiting and waiting + more > limit:
                seconds = tokens * self._done.seconds / max(1, self._done.tokens)
                raise BusyError(
                    f"{waiting} {unit} wait to be encoded, and {limit} may: try again, or raise {name}",
                    retry_after=max(1, math.ceil(seconds)),
                )

    def _encode_all(self) -> None:
        """Encode until nobody waits; in the one thread."""
        while shares := self._next():
            self._encode(shares)

    def _next(self) -> list[_Share]:
        """The texts of the next turn; [] if nobody waits."""
        turns = [(self._short, self._embed.batch_tokens), (self._long, self._turn_tokens)]
        with self._lock:
            for queue, room in turns[::-1] if self._is_long_next else turns:
                shares = _take(queue, room)
                if shares:
                    self._is_long_next = queue is self._short
                    return shares
            self._encoding = False
        return []

    def _encode(self, shares: list[_Share]) -> None:
        parts = {name: any(request.parts[name] for request, _ in shares) for name in _FIELDS}
        begun = time.perf_counter()
        try:
            embeddings, failed = self._embed.encode_usable(_joined(shares), passed=None, **parts)
        except Exception as error:  # it belongs to a caller
            if len(shares) == 1:
                shares[0][0].finish(error)
                return
            for share in shares:
                self._encode([share])  # the others get their vectors
            return
        stats, done = embeddings.stats, self._done
        self._done = CoalescerStats(
            done.passes + stats.forwards,
            done.texts + len(embeddings),
            done.tokens + stats.real_tokens,
            done.seconds + time.perf_counter() - begun,
        )
        start = 0
        for request, texts in shares:
            own = slice(start, start := start + len(texts))
            if failed[own].any():
                index = texts[int(failed[own].argmax())]
                request.finish(not_finite_error(index, request.lengths[index]))
            else:
                request.add(texts, embeddings[own])


def _take(queue: deque[_Request], room: int) -> list[_Share]:
    """Texts of requests, the oldest first, up to ``room`` tokens; a request that has more goes to the end."""
    shares: list[_Share] = []
    unfinished: list[_Request] = []
    while queue:
        request = queue[0]
        if request.answer.done():  # cancelled, or one of its texts failed
            queue.popleft().finish(None)
            continue
        texts = request.take(room, least=0 if shares else 1)
        if not texts:
            break
        shares.append((request, texts))
        room -= sum(request.lengths[text] for text in texts)
        queue.popleft()
        if request.left:
            unfinished.append(request)
    queue.extend(unfinished)
    return shares


def _joined(shares: list[_Share]) -> TokenBatch:
    """The tokens of all texts of a turn."""
    bounds = [(one.tokens, text) for one, texts in shares for text in texts]
    rows = [tokens.ids[tokens.offsets[text] : tokens.offsets[text + 1]] for tokens, text in bounds]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return TokenBatch(
        np.concatenate(rows), offsets, np.array([tokens.truncated[text] for tokens, text in bounds], np.bool_)
    )


def _in_order(tokens: TokenBatch, pieces: list[tuple[list[int], M3Embeddings]]) -> M3Embeddings:
    """The embeddings of all texts of a request, in its order."""
    parts: dict[str, list[pooling.Packed]] = {}
    for _, one in pieces:
        if one.dense is not None:
            every = np.arange(len(one) + 1, dtype=np.int64)
            parts.setdefault(pooling.DENSE, []).append(pooling.Packed(one.dense, every))
        if one.sparse_weights is not None and one.sparse_offsets is not None:
            packed = pooling.Packed(one.sparse_weights, one.sparse_offsets, one.sparse_ids)
            parts.setdefault(pooling.SPARSE, []).append(packed)
        if one.multi_vector is not None and one.multi_vector_offsets is not None:
            packed = pooling.Packed(one.multi_vector, one.multi_vector_offsets)
            parts.setdefault(pooling.MULTI_VECTOR, []).append(packed)
    batches = [np.array(texts, dtype=np.intp) for texts, _ in pieces]
    joined = pooling.assemble(tokens, batches, parts, padded_tokens=0)
    return replace(joined, stats=EncodeStats())
