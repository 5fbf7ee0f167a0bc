"""``M3EmbeddingFunction``: texts in, three kinds of vectors out of one forward pass."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding import packing, pooling
from m3_vdb.encoding.bundle import MODEL as MODEL_FILE
from m3_vdb.encoding.bundle import Bundle, find_bundle
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.sessions import Session, open_session
from m3_vdb.encoding.tokenizer import TokenBatch, Tokenizer, max_text_tokens
from m3_vdb.errors import BundleError, ConfigError, ItemError, ModelOutputError, TruncationError
from m3_vdb.inputs import many_texts, read_path, whole_number
from m3_vdb.types import IntArray, M3Embeddings

OnTruncate = Literal["warn", "error", "ignore"]
ON_TRUNCATE: Final = ("warn", "error", "ignore")


class M3EmbeddingFunction:
    """Encodes texts with an M3 model; may be called from several threads.

    It pickles as its model and options, so it can be handed to another process, which opens the model again.

    Args:
        model: a bundle's directory, a built-in name, a hub id, or None for the model that ships with m3-vdb.
        runtime: "auto", "onnxruntime" or "openvino".
        device: "auto", "cpu" or "cuda".
        threads: threads of one forward pass; None takes all cores.
        max_length: tokens kept of a text, ``<s>`` and ``</s>`` included; None takes the model's own maximum.
        on_truncate: what to do when a text is longer: "warn" (once a call), "error", or "ignore". The result's
            ``truncated`` says it in any case.
        batch_tokens: padded tokens of one forward pass.
        mcls_every: MCLS for long texts (paper, appendix B.2): insert one ``<s>`` before every N further tokens,
            256 in the paper, and average the states of all ``<s>`` for the dense vector. Texts of no more tokens are
            encoded as without. Inserted ``<s>`` count against ``max_length``; ``identity`` says that they are there.

    Raises:
        BundleError: the model is missing or damaged.
        ConfigError: an argument is out of range, or ``mcls_every`` is given and the bundle was exported before MCLS.
        MissingExtraError: the runtime is not installed.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        runtime: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        max_length: int | None = None,
        on_truncate: OnTruncate = "warn",
        batch_tokens: int = packing.DEFAULT_BATCH_TOKENS,
        mcls_every: int | None = None,
    ) -> None:
        bundle = find_bundle(model)
        in_folder = model is not None and read_path("model", model).is_dir()
        self._bundle: Bundle | None = bundle
        self._opened_with: dict[str, Any] | None = {
            "model": bundle.path.absolute() if in_folder else model,
            "runtime": runtime,
            "device": device,
            "threads": threads,
        }
        self._set_options(bundle.identity, bundle.max_length, max_length, on_truncate, batch_tokens, mcls_every)
        if mcls_every is not None:
            bundle.require_mcls()
        self.tokenizer: Tokenizer = bundle.read_tokenizer()
        self.session: Session = open_session(bundle.path / MODEL_FILE, runtime=runtime, device=device, threads=threads)

    @classmethod
    def from_parts(
        cls,
        tokenizer: Tokenizer,
        session: Session,
        *,
        identity: ModelIdentity,
        model_max_length: int,
        max_length: int | None = None,
        on_truncate: OnTruncate = "warn",
        batch_tokens: int = packing.DEFAULT_BATCH_TOKENS,
        mcls_every: int | None = None,
    ) -> M3EmbeddingFunction:
        """An embedding function over a model that is not a bundle: a torch model, a runtime of your own, a test's fake.

        Args:
            tokenizer: the model's.
            session: gives the graph's outputs (``m3_vdb.encoding.sessions.Session``). It is used as it is, so the
                embedding function cannot be pickled.
            identity: name, fingerprint and widths of the model.
            model_max_length: tokens that the model takes.
            max_length: as for the class, like the options after it. Whoever sets ``mcls_every`` knows that the
                session's dense output averages all ``<s>``.
            on_truncate: what to do when a text is longer.
            batch_tokens: padded tokens of one forward pass.
            mcls_every: MCLS for long texts.

        Raises:
            ConfigError: an option is out of range.
        """
        made = cls.__new__(cls)
        made._bundle = made._opened_with = None
        made._set_options(identity, model_max_length, max_length, on_truncate, batch_tokens, mcls_every)
        made.tokenizer, made.session = tokenizer, session
        return made

    def _set_options(
        self,
        identity: ModelIdentity,
        model_max_length: int,
        max_length: int | None,
        on_truncate: OnTruncate,
        batch_tokens: int,
        mcls_every: int | None,
    ) -> None:
        self._identity = identity
        self.model_max_length: int = model_max_length
        self.max_length: int = model_max_length
        self.max_length = self._length(max_length)
        if on_truncate not in ON_TRUNCATE:
            raise ConfigError(f"on_truncate={on_truncate!r}: expected one of {', '.join(ON_TRUNCATE)}")
        self.on_truncate: OnTruncate = on_truncate
        self.batch_tokens: int = whole_number("batch_tokens", batch_tokens, least=1)
        self.mcls_every: int | None = mcls_every
        max_text_tokens(self.max_length, mcls_every)  # refuses what leaves nothing of a text

    @property
    def bundle(self) -> Bundle:
        """The opened bundle.

        Raises:
            BundleError: the embedding function was made from parts.
        """
        if self._bundle is None:
            raise BundleError(f"{self._identity.name} was made from parts (M3EmbeddingFunction.from_parts): no bundle")
        return self._bundle

    @property
    def dim(self) -> dict[str, int]:
        """Widths for a schema: {"dense": d, "sparse": vocabulary, "multi_vector": m}."""
        vocabulary = self._bundle.vocab_size if self._bundle else self.tokenizer.vocab_size
        model = self._identity
        return {"dense": model.dense_dim, "sparse": vocabulary, "multi_vector": model.multi_vector_dim}

    @property
    def identity(self) -> ModelIdentity:
        """What a collection remembers of the model; the fingerprint is marked where MCLS is on.

        With and without MCLS the dense vectors of long texts differ, so they never mix in one collection.
        """
        if self.mcls_every is None:
            return self._identity
        return replace(self._identity, fingerprint=f"{self._identity.fingerprint}+mcls{self.mcls_every}")

    def token_count(self, texts: Iterable[str]) -> IntArray:
        """Tokens of each whole text before any truncation, ``<s>`` and ``</s>`` included, inserted ones not: int32 [n].

        Raises:
            TextError: an item is no usable string; ``index`` names it.
        """
        return self.tokenizer.count(texts)

    def encode_documents(
        self,
        texts: Iterable[str],
        *,
        dense: bool = True,
        sparse: bool = True,
        multi_vector: bool = True,
        max_length: int | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> M3Embeddings:
        """Encode texts to be searched.

        Args:
            texts: n strings: any iterable (list, generator, column of a table, open file, …), taken once, in its own
                order. [] gives an empty result; "" is a text (``<s></s>``) without lexical weights.
            dense: compute the dense vectors.
            sparse: compute the lexical weights.
            multi_vector: compute the multi-vectors.
            max_length: tokens kept of a text in this call; None takes the embedding function's own.
            batch_size: texts per forward pass at most, as little memory asks for it; None leaves it to
                ``batch_tokens``. Results agree up to rounding.
            show_progress: show a progress bar on standard error.

        Returns:
            Embeddings in the order of ``texts``; parts not asked for are None.

        Raises:
            TextError: an item is not a string or holds lone surrogates; ``index`` names it.
            TruncationError: a text is too long and ``on_truncate="error"``; ``index`` names it.
            ModelOutputError: the model returned NaN or infinity for a text; ``index`` names it.
            ConfigError: no part was asked for, or a number is out of range.
        """
        return self._checked_encode(
            texts, _Call(_outputs(dense, sparse, multi_vector), max_length, batch_size, show_progress)
        )

    def encode_queries(
        self,
        texts: Iterable[str],
        *,
        dense: bool = True,
        sparse: bool = True,
        multi_vector: bool = True,
        max_length: int | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
    ) -> M3Embeddings:
        """Encode queries: as ``encode_documents``, with its arguments; M3 has no instruction or prefix for queries."""
        return self._checked_encode(
            texts, _Call(_outputs(dense, sparse, multi_vector), max_length, batch_size, show_progress)
        )

    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        chunk_size: int = 1024,
        dense: bool = True,
        sparse: bool = True,
        multi_vector: bool = True,
        max_length: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[M3Embeddings]:
        """Encode more texts than memory holds: the embeddings come chunk by chunk, in the order of the texts.

        Args:
            texts: any iterable, read only as far as the chunks have been taken.
            chunk_size: texts of a chunk; all their vectors are held in memory. Texts share forward passes within it.
            dense: compute the dense vectors.
            sparse: compute the lexical weights.
            multi_vector: compute the multi-vectors.
            max_length: tokens kept of a text; None takes the embedding function's own.
            batch_size: texts per forward pass at most; None leaves it to ``batch_tokens``.

        Yields:
            Embeddings of ``chunk_size`` texts, the last time of those that are left.

        Raises:
            TextError, TruncationError, ModelOutputError: as ``encode_documents``; ``index`` counts from the first text
                of all. The chunks before have been yielded.
            ConfigError: at once; no part was asked for, or a number is out of range.
        """
        chunk_size = whole_number("chunk_size", chunk_size, least=1)
        call = _Call(_outputs(dense, sparse, multi_vector), max_length, batch_size)
        self._length(max_length)
        return self._encode_chunks(many_texts(texts), chunk_size, call)

    def _encode_chunks(self, texts: Iterator[str], chunk_size: int, call: _Call) -> Iterator[M3Embeddings]:
        done = 0
        while chunk := list(islice(texts, chunk_size)):
            try:
                yield self._checked_encode(chunk, call)
            except ItemError as error:
                raise error.at(done + error.index) from error.__cause__
            done += len(chunk)

    def encode_tokens(
        self,
        tokens: TokenBatch,
        *,
        dense: bool = True,
        sparse: bool = True,
        multi_vector: bool = True,
        passed: Callable[[int, int], None] | None = None,
    ) -> M3Embeddings:
        """The second half of ``encode_documents``, for pipelines that tokenize elsewhere, or at another time.

        Args:
            tokens: of n texts, from ``tokenizer.encode`` with this object's ``max_length`` and ``mcls_every``.
                Truncation is for the caller to look at (``tokens.truncated``): there is neither warning nor error.
            dense: compute the dense vectors.
            sparse: compute the lexical weights.
            multi_vector: compute the multi-vectors.
            passed: called with the numbers of texts and tokens after each forward pass.

        Returns:
            Embeddings in the order of ``tokens``; parts not asked for are None.

        Raises:
            ModelOutputError: the model returned NaN or infinity for a text; ``index`` names it.
            ConfigError: no part was asked for.
        """
        return self._encode(tokens, _outputs(dense, sparse, multi_vector))[0]

    def encode_usable(
        self, tokens: TokenBatch, *, passed: Callable[[int, int], None] | None = None
    ) -> tuple[M3Embeddings, NDArray[np.bool_]]:
        """``encode_tokens`` for pipelines that set bad texts aside: one that the model fails on costs itself alone.

        Args:
            tokens: as ``encode_tokens``.
            passed: called with texts and tokens after each forward pass.

        Returns:
            All three parts of every text, and bool [n], True for texts whose vectors hold NaN or infinity.
        """
        return self._encode(tokens, _outputs(True, True, True), raising=False, passed=passed)

    def __call__(self, texts: Iterable[str]) -> M3Embeddings:
        """All three parts of each text; ``encode_documents`` under the name that pymilvus.model users know."""
        return self._checked_encode(texts, _Call(_outputs(True, True, True)))

    def close(self) -> None:
        """Nothing to release today; part of the contract so that sessions with resources can be added."""

    def __enter__(self) -> M3EmbeddingFunction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked_encode(self, texts: Iterable[str], call: _Call) -> M3Embeddings:
        """Called by every public name directly, so that a warning points at the line of the caller."""
        max_length = self._length(call.max_length)
        tokens = self.tokenizer.encode(texts, max_length=max_length, mcls_every=self.mcls_every)
        self._report_truncation(tokens, max_length)
        if not call.show_progress:
            return self._encode(tokens, call.outputs, batch_size=call.batch_size)[0]
        from rich.console import Console  # noqa: PLC0415 - only where it is asked for
        from rich.progress import MofNCompleteColumn, Progress  # noqa: PLC0415

        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("Encoding", total=len(tokens))
            return self._encode(
                tokens,
                call.outputs,
                batch_size=call.batch_size,
                passed=lambda texts, _tokens: bar.advance(task, texts),
            )[0]

    def _length(self, max_length: int | None) -> int:
        """The ``max_length`` of a call."""
        if max_length is None:
            return self.max_length
        limit, name = self.model_max_length, self._identity.name
        return whole_number("max_length", max_length, least=3, most=limit, expected=f"{name} takes 3 … {limit} tokens")

    def __getstate__(self) -> dict[str, Any]:
        """The model and the options: where it is unpickled, the model is opened again."""
        if self._opened_with is None:
            raise ConfigError(
                f"an embedding function made from parts ({type(self.session).__name__}) cannot be pickled: "
                f"make it in the process that uses it"
            )
        options = ("max_length", "on_truncate", "batch_tokens", "mcls_every")
        state = {**self._opened_with, **{name: getattr(self, name) for name in options}}
        return {"options": state, "fingerprint": self._identity.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        M3EmbeddingFunction.__init__(self, **state["options"])
        if self.bundle.fingerprint != state["fingerprint"]:
            raise BundleError(
                f"{self.bundle.path} is another model here (fingerprint {self.bundle.fingerprint}) than where the "
                f"embedding function was pickled ({state['fingerprint']}): copy that model here"
            )

    def __copy__(self) -> M3EmbeddingFunction:
        """A function with options of its own that shares the open model."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: object) -> M3EmbeddingFunction:
        """As ``__copy__``: a model is not copied."""
        return self.__copy__()

    def __repr__(self) -> str:
        name, fingerprint = self.identity.name, self.identity.fingerprint
        return f"M3EmbeddingFunction({name}, fingerprint {fingerprint}, dim {self.dim}, {self.session.description})"

    def _report_truncation(self, tokens: TokenBatch, max_length: int) -> None:
        if self.on_truncate == "ignore" or not tokens.truncated.any():
            return
        first, count = int(tokens.truncated.argmax()), int(tokens.truncated.sum())
        room = max_text_tokens(max_length, self.mcls_every)
        remedy = f"split the text, or pass on_truncate='ignore' (max_length={max_length})"
        if self.on_truncate == "error":
            raise TruncationError(f"item {first} has more than {room} tokens: {remedy}", index=first)
        warnings.warn(
            f"{count} of {len(tokens)} texts were cut to {room} tokens, the first is item {first}: {remedy}",
            stacklevel=4,
        )

    def _encode(
        self,
        tokens: TokenBatch,
        outputs: list[str],
        *,
        raising: bool = True,
        batch_size: int | None = None,
        passed: Callable[[int, int], None] | None = None,
    ) -> tuple[M3Embeddings, NDArray[np.bool_]]:
        """Embeddings, and which texts the model failed on; ``raising`` ends at the first forward pass with one."""
        lengths = tokens.lengths
        failed = np.zeros(len(tokens), np.bool_)
        batches = packing.pack(lengths, batch_tokens=self.batch_tokens, batch_size=batch_size)
        parts: dict[str, list[pooling.Packed]] = {name: [self._nothing(name)] for name in outputs}
        padded = 0
        for rows in batches:
            input_ids, mask = tokens.padded(rows)
            padded += input_ids.size
            raw = self.session.run(outputs, input_ids, mask)
            failed[rows] = pooling.not_finite(raw, lengths[rows])
            if raising and failed.any():
                index = int(failed.argmax())
                raise not_finite_error(index, int(lengths[index]))
            for name, part in pooling.pool(raw, input_ids, lengths[rows]).items():
                parts[name].append(part)
            if passed is not None:
                passed(len(rows), int(lengths[rows].sum()))
        return pooling.assemble(tokens, batches, parts, padded_tokens=padded), failed

    def _nothing(self, name: str) -> pooling.Packed:
        """No texts of this output: gives an empty result its width."""
        model = self._identity
        widths = {pooling.DENSE: (0, model.dense_dim), pooling.MULTI_VECTOR: (0, model.multi_vector_dim)}
        ids = np.zeros(0, np.int32) if name == pooling.SPARSE else None
        return pooling.Packed(np.zeros(widths.get(name, (0,)), np.float32), np.zeros(1, np.int64), ids)


@dataclass(frozen=True, slots=True)
class _Call:
    """What one call asks for; None stands for the embedding function's own."""

    outputs: list[str]
    max_length: int | None = None
    batch_size: int | None = None
    show_progress: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            whole_number("batch_size", self.batch_size, least=1)


def _outputs(dense: bool, sparse: bool, multi_vector: bool) -> list[str]:
    wanted = {pooling.DENSE: dense, pooling.SPARSE: sparse, pooling.MULTI_VECTOR: multi_vector}
    outputs = [name for name, want in wanted.items() if want]
    if not outputs:
        raise ConfigError("nothing to compute: ask for dense, sparse or multi_vector")
    return outputs


def not_finite_error(index: int, tokens: int) -> ModelOutputError:
    """The error about a text that the model fails on, with its number of tokens."""
    return ModelOutputError(
        f"the model returned NaN or infinity for item {index} ({tokens} tokens): leave the text out, or use a bundle "
        f"of higher precision",
        index=index,
    )
