"""``M3EmbeddingFunction``: texts in, three kinds of vectors out, from one forward pass."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding import packing
from m3_vdb.encoding.bundle import MODEL as MODEL_FILE
from m3_vdb.encoding.bundle import Bundle
from m3_vdb.encoding.forward import output_names, run_batches
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.runtimes import choose_runtime
from m3_vdb.encoding.sessions import Session, open_session
from m3_vdb.encoding.tokenizer import TokenBatch, Tokenizer, max_text_tokens
from m3_vdb.errors import BundleError, ConfigError, ItemError, TruncationError
from m3_vdb.inputs import many_texts, read_path, whole_number
from m3_vdb.types import IntArray, M3Embeddings

OnTruncate = Literal["warn", "error", "ignore"]
ON_TRUNCATE: Final = ("warn", "error", "ignore")


class M3EmbeddingFunction:
    """Encodes texts with an M3 model; can be used from several threads.

    It can be pickled: another process opens the same model with the same options.

    Args:
        model: the folder of a bundle, a checkpoint (BGE-M3, a fine-tune) or a LoRA adapter; ``org/name`` or
            ``org/name@revision`` of one of these on the Hugging Face hub; a built-in name; None for the model that
            ships with m3-vdb. What is not a bundle is converted once, into ``~/.cache/m3-vdb`` (or ``M3VDB_CACHE``).
        runtime: "auto", "onnxruntime" or "openvino".
        device: "auto", "cpu" or "cuda".
        threads: threads per forward pass; None uses all cores.
        max_length: tokens to keep per text, with ``<s>`` and ``</s>``; None keeps the model's maximum.
        on_truncate: what to do with longer texts: "warn" (once per call), "error", or "ignore". They are cut, and
            ``M3Embeddings.truncated`` is True for them.
        batch_tokens: maximum tokens per forward pass, with padding.
        mcls_every: MCLS for long texts (paper, appendix B.2): insert one ``<s>`` before every N further tokens (256 in
            the paper) and average the states of all ``<s>`` for the dense vector. Texts of at most N tokens do not
            change. Inserted ``<s>`` count towards ``max_length``, and ``identity`` is marked.

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
        folder = None if model is None else read_path("model", model)
        self._bundle: Bundle | None = bundle
        self._opened_with: dict[str, Any] | None = {
            "model": folder.absolute() if folder is not None and folder.is_dir() else model,
            "runtime": runtime,
            "device": device,
            "threads": threads,
        }
        self._set_options(bundle.identity, bundle.max_length, max_length, on_truncate, batch_tokens, mcls_every)
        if mcls_every is not None:
            bundle.require_mcls()
        chosen = choose_runtime(runtime, device)  # imports the runtime, which needs the interpreter's lock
        with ThreadPoolExecutor(1) as other:  # the model is loaded while the tokenizer is: each takes half a second
            opening = other.submit(open_session, bundle.path / MODEL_FILE, chosen, threads=threads)
            self.tokenizer: Tokenizer = bundle.read_tokenizer()
            self.session: Session = opening.result()

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
        """An embedding function for a model that is not a bundle, such as a torch model or your own runtime.

        It cannot be pickled.

        Args:
            tokenizer: the model's tokenizer.
            session: computes the graph's outputs (``m3_vdb.encoding.sessions.Session``).
            identity: name, fingerprint and widths of the model.
            model_max_length: maximum tokens of the model.
            max_length: tokens to keep per text; None keeps ``model_max_length``.
            on_truncate: what to do with longer texts: "warn", "error" or "ignore".
            batch_tokens: maximum tokens per forward pass, with padding.
            mcls_every: MCLS for long texts; only for sessions whose dense output averages all ``<s>``.

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
        max_text_tokens(self.max_length, mcls_every)  # raises ConfigError if no token of a text would be kept

    @property
    def bundle(self) -> Bundle:
        """The open bundle.

        Raises:
            BundleError: the embedding function was made by ``from_parts``.
        """
        if self._bundle is None:
            raise BundleError(f"{self._identity.name} was made from parts (M3EmbeddingFunction.from_parts): no bundle")
        return self._bundle

    @property
    def dim(self) -> dict[str, int]:
        """Widths of the vectors: ``{"dense": d, "sparse": vocabulary size, "multi_vector": m}``."""
        vocabulary = self._bundle.vocab_size if self._bundle else self.tokenizer.vocab_size
        model = self._identity
        return {"dense": model.dense_dim, "sparse": vocabulary, "multi_vector": model.multi_vector_dim}

    @property
    def identity(self) -> ModelIdentity:
        """The model's identity, which is stored with each collection.

        With MCLS the fingerprint has a mark: the dense vectors of long texts differ, and one collection must not hold
        both.
        """
        if self.mcls_every is None:
            return self._identity
        return replace(self._identity, fingerprint=f"{self._identity.fingerprint}+mcls{self.mcls_every}")

    def token_count(self, texts: Iterable[str]) -> IntArray:
        """Count the tokens of texts before truncation.

        Args:
            texts: n strings, any iterable.

        Returns:
            int32 [n], with ``<s>`` and ``</s>`` but without the ``<s>`` that MCLS inserts.

        Raises:
            TextError: an item is not a string or contains lone surrogates; ``index`` names it.
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
        """Encode documents, or any texts to search in.

        Args:
            texts: n strings, any iterable (list, generator, column of a table, open file, …), read once. [] gives an
                empty result; "" is encoded (``<s></s>``) and has no lexical weights.
            dense: compute dense vectors.
            sparse: compute lexical weights.
            multi_vector: compute multi-vectors.
            max_length: tokens to keep per text; None keeps the maximum of this embedding function.
            batch_size: maximum texts per forward pass, to save memory; None sets no limit besides ``batch_tokens``.
                Results agree up to rounding.
            show_progress: show a progress bar on standard error.

        Returns:
            Embeddings in the order of ``texts``: dense float32 [n, d], packed lexical weights and multi-vectors. Parts
            that were not requested are None.

        Raises:
            TextError: an item is not a string or contains lone surrogates; ``index`` names it.
            TruncationError: a text is too long and ``on_truncate="error"``; ``index`` names it.
            ModelOutputError: the model returned NaN or infinity for a text; ``index`` names it.
            ConfigError: no part is requested, or a number is out of range.
        """
        outputs = output_names(dense=dense, sparse=sparse, multi_vector=multi_vector)
        return self._checked_encode(texts, _Call(outputs, max_length, batch_size, show_progress))

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
        """Encode queries, in the same way as documents: M3 has no prefix or instruction for queries.

        Args:
            texts: n strings, any iterable.
            dense: compute dense vectors.
            sparse: compute lexical weights.
            multi_vector: compute multi-vectors.
            max_length: tokens to keep per text; None keeps the maximum of this embedding function.
            batch_size: maximum texts per forward pass; None sets no limit besides ``batch_tokens``.
            show_progress: show a progress bar on standard error.

        Returns:
            Embeddings in the order of ``texts``.

        Raises:
            TextError, TruncationError, ModelOutputError, ConfigError: as ``encode_documents``.
        """
        outputs = output_names(dense=dense, sparse=sparse, multi_vector=multi_vector)
        return self._checked_encode(texts, _Call(outputs, max_length, batch_size, show_progress))

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
        """Encode more documents than fit into memory: yields embeddings chunk by chunk, in the order of the texts.

        Args:
            texts: any iterable, read one chunk at a time.
            chunk_size: texts per chunk; memory holds the vectors of one chunk. Forward passes do not cross chunks.
            dense: compute dense vectors.
            sparse: compute lexical weights.
            multi_vector: compute multi-vectors.
            max_length: tokens to keep per text; None keeps the maximum of this embedding function.
            batch_size: maximum texts per forward pass; None sets no limit besides ``batch_tokens``.

        Yields:
            Embeddings of ``chunk_size`` texts; the last chunk may be smaller.

        Raises:
            TextError, TruncationError, ModelOutputError: as ``encode_documents``, when the chunk is reached; ``index``
                counts all texts.
            ConfigError: at the call; no part is requested, or a number is out of range.
        """
        chunk_size = whole_number("chunk_size", chunk_size, least=1)
        outputs = output_names(dense=dense, sparse=sparse, multi_vector=multi_vector)
        call = _Call(outputs, max_length, batch_size)
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

    def tokenize(self, texts: Iterable[str], *, max_length: int | None = None) -> TokenBatch:
        """The tokens of texts as ``encode_documents`` would encode them; ``encode_usable`` takes them.

        Args:
            texts: n strings, any iterable.
            max_length: tokens to keep per text; None keeps the maximum of this embedding function.

        Raises:
            TextError, TruncationError, ConfigError: as ``encode_documents``.
        """
        return self._tokenize(texts, max_length, stacklevel=4)

    def encode_usable(
        self,
        tokens: TokenBatch,
        *,
        dense: bool = True,
        sparse: bool = True,
        multi_vector: bool = True,
        passed: Callable[[int, int], None] | None = None,
    ) -> tuple[M3Embeddings, NDArray[np.bool_]]:
        """Encode texts that are tokenized already, and report texts that the model fails on instead of raising.

        Args:
            tokens: n texts, from ``tokenize``, or from ``tokenizer.encode`` with the ``mcls_every`` of this object.
                Truncated texts (``tokens.truncated``) cause neither a warning nor an error.
            dense: compute dense vectors.
            sparse: compute lexical weights.
            multi_vector: compute multi-vectors.
            passed: called after each forward pass with its numbers of texts and tokens.

        Returns:
            The requested parts of every text, and bool [n], True for texts whose vectors hold NaN or infinity.

        Raises:
            ConfigError: no part is requested.
        """
        outputs = output_names(dense=dense, sparse=sparse, multi_vector=multi_vector)
        return self._encode(tokens, _Call(outputs), raising=False, passed=passed)

    def __call__(self, texts: Iterable[str]) -> M3Embeddings:
        """``encode_documents(texts)``, for users of pymilvus.model."""
        return self._checked_encode(texts, _Call(output_names()))

    def close(self) -> None:
        """Close the embedding function; today there is nothing to release."""

    def __enter__(self) -> M3EmbeddingFunction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked_encode(self, texts: Iterable[str], call: _Call) -> M3Embeddings:
        """Called directly by every public method, so that a warning points at the line of the caller."""
        tokens = self._tokenize(texts, call.max_length, stacklevel=5)
        if not call.show_progress:
            return self._encode(tokens, call)[0]
        with _progress_bar(len(tokens)) as passed:
            return self._encode(tokens, call, passed=passed)[0]

    def _tokenize(self, texts: Iterable[str], max_length: int | None, *, stacklevel: int) -> TokenBatch:
        kept = self._length(max_length)
        tokens = self.tokenizer.encode(texts, max_length=kept, mcls_every=self.mcls_every)
        self._report_truncation(tokens, kept, stacklevel)
        return tokens

    def _encode(
        self,
        tokens: TokenBatch,
        call: _Call,
        *,
        raising: bool = True,
        passed: Callable[[int, int], None] | None = None,
    ) -> tuple[M3Embeddings, NDArray[np.bool_]]:
        batches = packing.pack(tokens.lengths, batch_tokens=self.batch_tokens, batch_size=call.batch_size)
        return run_batches(self.session, self._identity, tokens, batches, call.outputs, raising=raising, passed=passed)

    def _length(self, max_length: int | None) -> int:
        """``max_length`` checked; None gives that of this object."""
        if max_length is None:
            return self.max_length
        limit, name = self.model_max_length, self._identity.name
        return whole_number("max_length", max_length, least=3, most=limit, expected=f"{name} takes 3 … {limit} tokens")

    def __getstate__(self) -> dict[str, Any]:
        """Model and options; unpickling opens the model again."""
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
        """An embedding function with its own options that shares the open model."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: object) -> M3EmbeddingFunction:
        """As ``__copy__``: the model is shared."""
        return self.__copy__()

    def __repr__(self) -> str:
        name, fingerprint = self.identity.name, self.identity.fingerprint
        return f"M3EmbeddingFunction({name}, fingerprint {fingerprint}, dim {self.dim}, {self.session.description})"

    def _report_truncation(self, tokens: TokenBatch, max_length: int, stacklevel: int) -> None:
        if self.on_truncate == "ignore" or not tokens.truncated.any():
            return
        first, count = int(tokens.truncated.argmax()), int(tokens.truncated.sum())
        room = max_text_tokens(max_length, self.mcls_every)
        remedy = f"split the text, or pass on_truncate='ignore' (max_length={max_length})"
        if self.on_truncate == "error":
            raise TruncationError(f"item {first} has more than {room} tokens: {remedy}", index=first)
        warnings.warn(
            f"{count} of {len(tokens)} texts were cut to {room} tokens, the first is item {first}: {remedy}",
            stacklevel=stacklevel,
        )


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of one call; None means the embedding function's own value."""

    outputs: list[str]
    max_length: int | None = None
    batch_size: int | None = None
    show_progress: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            whole_number("batch_size", self.batch_size, least=1)


@contextmanager
def _progress_bar(texts: int) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; yields what to call after each forward pass."""
    from rich.console import Console  # noqa: PLC0415 - only for show_progress=True
    from rich.progress import MofNCompleteColumn, Progress  # noqa: PLC0415

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("Encoding", total=texts)
        yield lambda done, _tokens: bar.advance(task, done)
