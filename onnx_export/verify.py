"""Compares a bundle with its checkpoint, through the function that users call.

Every text is encoded twice: by ``M3EmbeddingFunction`` (tokenizer, packing with padding, ONNX graph, pooling), and
alone, without padding, by a forward pass that shares no code with it: ``reference.embed`` in NumPy, and the torch model
if training passes one. A bundle is written only if they agree, with and without MCLS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import tokenizers
from numpy.typing import NDArray

from m3_vdb.encoding.bundle import MODEL, Bundle
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.sessions import OnnxRuntimeSession
from m3_vdb.encoding.tokenizer import CONTROL_PIECES, TokenBatch, Tokenizer
from m3_vdb.errors import BundleError, M3Error
from m3_vdb.types import FloatArray, M3Embedding, SparseVector

Forward: TypeAlias = Callable[[TokenBatch], Sequence[M3Embedding]]
"""A forward pass of the checkpoint: the three representations of every text, each text alone."""
FLOAT32_TOLERANCE: Final = 1e-5
"""Largest accepted difference at fp32: 100 times the rounding of some 10³ float32 additions, and a hundredth of a
difference that changes a ranking."""
NEAR_ZERO: Final = 1e-5
"""A lexical weight this small may be positive on one side and 0 on the other; such flips are counted, not refused."""
MORE_THAN_ALL: Final = 10**6
"""Tokens, more than a text of the verification has."""
FINER: Final = {"int4": "int8", "int8": "fp16", "fp16": "fp32"}
"""The precision to advise when one loses too much."""
LOWEST_COSINE: Final = {"int4": 0.9, "int8": 0.98, "fp16": 0.98}
"""A reduced-precision export below this is broken, not just rounded."""
TEXTS: Final = (
    "",
    "a",
    "What is the capital of France?",
    "Die Straßenverkehrsordnung gilt auch für Fahrräder.",
    "数据库如何融合稠密、稀疏和多向量检索的分数？",
    "全文検索とベクトル検索を組み合わせるとどうなりますか。",
    "Как установить пакет без доступа к сети?",
    "كيف أبحث في مستندات بلغات مختلفة؟",
    "हिंदी में एक छोटा वाक्य।",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "repeat repeat repeat, and repeat again",
    "<s> is plain text here </s>, and so is <pad>",
    "print('hello')  # code, punctuation … and 🙂",
)
PARAGRAPH: Final = (
    "A search engine keeps an index of documents and answers questions with a ranked list. 检索系统对文档排序。 "
    "Поисковая система отвечает на вопросы. Ein Dokument wird in Vektoren verwandelt, und die Nähe entscheidet. "
)


CHANGE_TEXTS: Final = 200
LOWEST_CHANGE: Final = 0.9
"""Cosine below which a bundle has lost much of what training changed."""
UNCHANGED: Final = 5e-3
"""Mean distance of two models' dense vectors that arithmetic alone can explain (float16's)."""
LONGEST: Final = 1024
"""Tokens of the longest text that is verified: attention has by then many summands, and 8192 tokens take minutes."""
MCLS_EVERY: Final = 16
"""Tokens between two ``<s>`` when MCLS is verified. The graph does not depend on the number; a small one is fast."""


class VerificationError(M3Error):
    """The exported graph does not compute what the checkpoint computes."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Differences between a bundle and its checkpoint, the largest over all texts.

    Attributes:
        dense: absolute, of any dense value.
        multi_vector: absolute, of any multi-vector value.
        sparse: absolute, of any lexical weight that both have.
        dense_cosine: lowest cosine of two dense vectors.
        multi_vector_cosine: lowest cosine of two multi-vector rows.
        sparse_flips: ids that only one side has.
        largest_flip: largest weight among those.
        texts: texts compared.
        tokens: tokens of the longest.
    """

    dense: float
    multi_vector: float
    sparse: float
    dense_cosine: float
    multi_vector_cosine: float
    sparse_flips: int
    largest_flip: float
    texts: int
    tokens: int

    def as_dict(self) -> dict[str, float]:
        """Plain JSON values, rounded to three significant digits (cosines to six decimals)."""
        return {
            name: round(value, 6) if name.endswith("cosine") else float(f"{value:.3g}")
            for name, value in asdict(self).items()
        }


def verification_texts(function: M3EmbeddingFunction) -> list[str]:
    """Short and multilingual texts, one of a few hundred tokens, and one that fills the function's maximum length."""
    unit = int(function.token_count([PARAGRAPH])[0])
    return [*TEXTS, PARAGRAPH * 3, PARAGRAPH * (function.max_length // unit + 2)]


def measure(function: M3EmbeddingFunction, forward: Forward, texts: Sequence[str]) -> Errors:
    """Compare the embeddings of ``texts``, with MCLS if ``function`` has it."""
    served = function.encode_documents(texts)
    tokens = function.tokenizer.encode(texts, max_length=function.max_length, mcls_every=function.mcls_every)
    dense, rows, cosines = [], [], []
    sparse: list[tuple[float, NDArray[np.float32]]] = []
    for one, other in zip(served, forward(tokens), strict=True):
        (our_dense, our_sparse, our_rows), (their_dense, their_sparse, their_rows) = _parts(one), _parts(other)
        dense.append((np.abs(our_dense - their_dense).max(), our_dense @ their_dense))
        rows.append(np.abs(our_rows - their_rows).max())
        cosines.append((our_rows * their_rows).sum(axis=1).min())
        sparse.append(_compare_sparse(our_sparse, their_sparse))
    flips = np.concatenate([flipped for _, flipped in sparse])
    return Errors(
        dense=float(np.max([error for error, _ in dense])),  # np.max, not max: NaN must stay NaN
        multi_vector=float(np.max(rows)),
        sparse=float(np.max([error for error, _ in sparse])),
        dense_cosine=float(np.min([cosine for _, cosine in dense])),
        multi_vector_cosine=float(np.min(cosines)),
        sparse_flips=len(flips),
        largest_flip=float(flips.max(initial=0.0)),
        texts=len(texts),
        tokens=int(served.token_counts.max()),
    )


def measure_mcls(function: M3EmbeddingFunction, forward: Forward) -> Errors:
    """``measure`` with a ``<s>`` before every 16 tokens, on one text of a few hundred tokens.

    Args:
        function: gives the bundle, the session and the maximum length.
        forward: of the checkpoint.
    """
    mcls = copy(function)
    mcls.on_truncate, mcls.mcls_every = "ignore", MCLS_EVERY
    return measure(mcls, forward, [PARAGRAPH * 3])


@dataclass(frozen=True, slots=True)
class Change:
    """How much a bundle keeps of a training that started from another bundle (``python -m train import-bundle``).

    Two long vectors are compared: the dense vectors of all texts by the checkpoint minus those by the original, and
    those by the bundle minus those by the original.

    Attributes:
        original: name of the bundle from which the training started.
        fingerprint: of that bundle.
        distance: between the checkpoint's and the original's vectors, mean over the texts; None if the original bundle
            is not on this machine.
        cosine: of the two changes; None if the checkpoint's change is too small to measure.
        kept: share of the checkpoint's change that is in the bundle's; None likewise.
    """

    original: str
    fingerprint: str
    distance: float | None = None
    cosine: float | None = None
    kept: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, numbers rounded to four decimals."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}

    @property
    def lost(self) -> bool:
        """Whether the bundle keeps too little of the training."""
        if self.cosine is None or self.kept is None:
            return False
        return not (self.cosine >= LOWEST_CHANGE and self.kept > 0.5)

    def summary(self, precision: str) -> str:
        """One sentence for the user, with advice."""
        if self.distance is None:
            return (
                f"the training started from {self.original} ({self.fingerprint}), which is not on this machine, so how "
                f"much of the training {precision} keeps was not measured"
            )
        if self.cosine is None:
            return f"the dense vectors are those of {self.original}: training changed them by {self.distance:.4f}"
        found = (
            f"{precision} keeps {self.kept:.0%} of what training changed in {self.original}, with cosine "
            f"{self.cosine:.3f} between the two changes"
        )
        if not self.lost:
            return found
        finer = FINER.get(precision, precision)
        return f"{found} (expected at least {LOWEST_CHANGE}): export with --precision {finer} to keep the training"


def change_texts() -> list[str]:
    """200 short texts: stretches of 3 to 14 words from the texts above, in all their scripts."""
    words = " ".join([*TEXTS, PARAGRAPH]).split()
    starts = [7 * i % len(words) for i in range(CHANGE_TEXTS)]
    return [" ".join((words + words)[start : start + 3 + i % 12]) for i, start in enumerate(starts)]


def serving(bundle: Bundle, tokenizer: Tokenizer, file: str) -> M3EmbeddingFunction:
    """What serves one of the bundle's graphs: onnxruntime in float32, so that an error is the graph's."""
    return M3EmbeddingFunction.from_parts(
        tokenizer,
        OnnxRuntimeSession(bundle.path / file),
        identity=bundle.identity,
        model_max_length=bundle.max_length,
        max_length=min(LONGEST, bundle.max_length),
        on_truncate="ignore",
    )


def measure_change(function: M3EmbeddingFunction, forward: Forward, noted: Mapping[str, Any]) -> Change:
    """How much of its training a bundle keeps.

    Args:
        function: serves the bundle.
        forward: of the checkpoint.
        noted: ``imported_from`` of its ``config.json``: name, fingerprint and place of the bundle that it began with.
    """
    change = Change(noted["name"], noted["fingerprint"])
    try:
        bundle = find_bundle(noted["bundle"])
    except BundleError:
        return change
    if bundle.fingerprint != change.fingerprint:
        return change
    original = serving(bundle, bundle.read_tokenizer(), MODEL)
    texts = change_texts()
    tokens = function.tokenizer.encode(texts, max_length=function.max_length)
    before, after = (
        np.asarray(one.encode_documents(texts, sparse=False, multi_vector=False).dense) for one in (original, function)
    )
    trained = np.stack([embedding.dense for embedding in forward(tokens) if embedding.dense is not None]) - before
    exported = after - before
    distance = float(np.linalg.norm(trained, axis=1).mean())
    if distance < UNCHANGED:
        return replace(change, distance=distance)
    product = float((trained * exported).sum())
    length_of = [float(np.linalg.norm(one)) for one in (trained, exported)]
    return replace(
        change,
        distance=distance,
        cosine=product / (length_of[0] * length_of[1]) if length_of[1] else 0.0,
        kept=product / length_of[0] ** 2,
    )


def require_close(errors: Errors, *, precision: str) -> None:
    """Refuse a bundle that differs too much from its checkpoint; the message names a finer precision.

    Raises:
        VerificationError: at fp32 a value differs by more than 1e-5 or an id flips that is not near zero; at reduced
            precision a cosine falls below 0.98 (int4: 0.9).
    """
    found = errors.as_dict()
    if precision == "fp32":
        most = dict.fromkeys(("dense", "multi_vector", "sparse"), FLOAT32_TOLERANCE) | {"largest_flip": NEAR_ZERO}
        bad = [
            f"{name} is {found[name]}, at most {limit}"
            for name, limit in most.items()
            if not getattr(errors, name) <= limit
        ]
        advice = "the export is at fault: please report it with the checkpoint's config.json"
    else:
        least = LOWEST_COSINE[precision]
        names = [name for name in ("dense_cosine", "multi_vector_cosine") if not getattr(errors, name) >= least]
        bad = [f"{name} is {found[name]}, at least {least}" for name in names]
        advice = f"export with --precision {FINER[precision]}"
    if bad:
        raise VerificationError(
            f"the {precision} graph differs from the checkpoint: {' and '.join(bad)} was expected; nothing written, "
            f"{advice}"
        )


def require_same_ids(tokenizer: Tokenizer, original: str) -> None:
    """Refuse a bundle whose tokenizer gives other ids than Hugging Face's, except for control tokens in texts.

    Args:
        tokenizer: the bundle's.
        original: content of the checkpoint's ``tokenizer.json``; its added tokens are tried in every place.

    Raises:
        VerificationError: a text has other ids.
    """
    theirs = tokenizers.Tokenizer.from_str(original)
    theirs.no_truncation()
    theirs.no_padding()
    added = [token.content for token in theirs.get_added_tokens_decoder().values()]
    texts = [*TEXTS, PARAGRAPH]
    for word in added:
        texts += [word, f"the {word} search", f"the  {word}  search", f"a{word}b", word.lower(), word.upper(), word * 2]
    texts = [text for text in texts if not any(piece in text.lower() for piece in CONTROL_PIECES)]
    ours = tokenizer.encode(texts, max_length=MORE_THAN_ALL)
    for i, (text, expected) in enumerate(zip(texts, theirs.encode_batch(texts, add_special_tokens=False), strict=True)):
        ids = ours.ids[ours.offsets[i] + 1 : ours.offsets[i + 1] - 1].tolist()
        if ids != expected.ids:
            raise VerificationError(f"the tokenizer reads {text!r} as {ids}, Hugging Face's as {expected.ids}")


def _parts(embedding: M3Embedding) -> tuple[FloatArray, SparseVector, FloatArray]:
    """(dense, sparse, multi-vector rows) of an embedding that has all three."""
    dense, sparse, rows = embedding.dense, embedding.sparse, embedding.multi_vector
    assert dense is not None
    assert sparse is not None
    assert rows is not None
    return dense, sparse, rows


def _compare_sparse(served: SparseVector, expected: SparseVector) -> tuple[float, NDArray[np.float32]]:
    """(largest difference on common ids, weights of the ids that only one side has)."""
    _, ours, theirs = np.intersect1d(served.ids, expected.ids, assume_unique=True, return_indices=True)
    difference = np.abs(served.weights[ours] - expected.weights[theirs]).max(initial=0.0)
    flips = np.concatenate([np.delete(served.weights, ours), np.delete(expected.weights, theirs)])
    return float(difference), flips
