"""Compares a bundle with its checkpoint, through the function that users call.

Every text is encoded twice: by ``M3EmbeddingFunction`` (tokenizer, packing with padding, ONNX graph, pooling), and
alone, without padding, by the torch encoder with the three heads in NumPy. A bundle is written only if both agree, with
and without MCLS.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray

from m3_vdb.encoding import pooling
from m3_vdb.encoding.bundle import find_bundle
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.tokenizer import CLS, CONTROL_PIECES, Tokenizer
from m3_vdb.errors import BundleError, M3Error
from m3_vdb.types import SparseVector
from onnx_export.checkpoint import TorchModel

FLOAT32_TOLERANCE: Final = 1e-5
"""Largest accepted difference at fp32: 100 times the rounding of some 10³ float32 additions, and a hundredth of a
difference that changes a ranking."""
NEAR_ZERO: Final = 1e-5
"""A lexical weight this small may be positive on one side and 0 on the other; such flips are counted, not refused."""
MORE_THAN_ALL: Final = 10**6
"""Tokens, more than a text of the verification has."""
FINER: Final = {"int8": "fp16", "fp16": "fp32"}
"""The precision to advise when one loses too much."""
LOWEST_COSINE: Final = 0.98
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
    """Short and multilingual texts, one of a few hundred tokens, and one that fills the model's maximum length."""
    unit = int(function.token_count([PARAGRAPH])[0])
    return [*TEXTS, PARAGRAPH * 3, PARAGRAPH * (function.max_length // unit + 2)]


@torch.inference_mode()
def measure(function: M3EmbeddingFunction, model: TorchModel, texts: Sequence[str]) -> Errors:
    """Compare the embeddings of ``texts``, with MCLS if ``function`` has it; the model must be in evaluation mode."""
    served = function.encode_documents(texts)
    tokens = function.tokenizer.encode(texts, max_length=function.max_length, mcls_every=function.mcls_every)
    heads = {name: tensor.float().numpy() for name, tensor in model.state_dict().items() if "_linear." in name}
    dense, rows, cosines = [], [], []
    sparse: list[tuple[float, NDArray[np.float32]]] = []
    for i, embedding in enumerate(served):
        ids, mask = tokens.padded(np.array([i]))
        hidden = hidden_states(model, ids, mask)
        expected_dense = pooling.pool_dense(hidden, ids, mask)[0]
        projected = hidden @ heads["colbert_linear.weight"].T + heads["colbert_linear.bias"]
        expected_rows = projected[0, 1:][ids[0, 1:] != CLS]
        expected_rows /= np.maximum(np.linalg.norm(expected_rows, axis=1, keepdims=True), pooling.SHORTEST)
        weights = np.maximum(hidden @ heads["sparse_linear.weight"].T + heads["sparse_linear.bias"], 0)
        pooled = pooling.pool_sparse(ids, weights[..., 0])
        assert embedding.dense is not None
        assert embedding.sparse is not None
        assert embedding.multi_vector is not None
        assert pooled.ids is not None
        dense.append((np.abs(embedding.dense - expected_dense).max(), embedding.dense @ expected_dense))
        rows.append(np.abs(embedding.multi_vector - expected_rows).max())
        cosines.append((embedding.multi_vector * expected_rows).sum(axis=1).min())
        sparse.append(_compare_sparse(embedding.sparse, SparseVector(pooled.ids, pooled.values)))
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


def measure_mcls(function: M3EmbeddingFunction, model: TorchModel) -> Errors:
    """``measure`` with a ``<s>`` before every 16 tokens, on one text of a few hundred tokens.

    Args:
        function: gives the bundle, the session and the maximum length.
        model: the checkpoint.
    """
    mcls = copy(function)
    mcls.on_truncate, mcls.mcls_every = "ignore", MCLS_EVERY
    return measure(mcls, model, [PARAGRAPH * 3])


def hidden_states(model: TorchModel, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [B, L, d], the torch encoder's last states of a padded batch."""
    output = model.encoder(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    states: NDArray[np.float32] = output.last_hidden_state.float().numpy()
    return states


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


@torch.inference_mode()
def measure_change(function: M3EmbeddingFunction, model: TorchModel) -> Change | None:
    """How much of its training a bundle keeps; None if the training did not start from a bundle."""
    noted = getattr(model.encoder.config, "imported_from", None)
    if noted is None:
        return None
    change = Change(noted["name"], noted["fingerprint"])
    try:
        bundle = find_bundle(noted["bundle"])
    except BundleError:
        return change
    if bundle.fingerprint != change.fingerprint:
        return change
    original = M3EmbeddingFunction(bundle.path, runtime="onnxruntime", device="cpu", on_truncate="ignore")
    texts = change_texts()
    tokens = function.tokenizer.encode(texts, max_length=function.max_length)
    ids, mask = tokens.padded(np.arange(len(texts)))
    before, after = (
        np.asarray(one.encode_documents(texts, sparse=False, multi_vector=False).dense) for one in (original, function)
    )
    trained = pooling.pool_dense(hidden_states(model, ids, mask), ids, mask) - before
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
            precision a cosine falls below 0.98.
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
        names = [name for name in ("dense_cosine", "multi_vector_cosine") if not getattr(errors, name) >= LOWEST_COSINE]
        bad = [f"{name} is {found[name]}, at least {LOWEST_COSINE}" for name in names]
        advice = f"export with --precision {FINER[precision]}"
    if bad:
        raise VerificationError(
            f"the {precision} graph differs from the checkpoint: {' and '.join(bad)} was expected; nothing written, "
            f"{advice}"
        )


def require_same_ids(tokenizer: Tokenizer, original: Path) -> None:
    """Refuse a bundle whose tokenizer gives other ids than Hugging Face's, except for control tokens in texts.

    Args:
        tokenizer: the bundle's.
        original: ``tokenizer.json`` of the checkpoint; its added tokens are tried in every place.

    Raises:
        VerificationError: a text has other ids.
    """
    theirs = tokenizers.Tokenizer.from_file(str(original))
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


def _compare_sparse(served: SparseVector, expected: SparseVector) -> tuple[float, NDArray[np.float32]]:
    """(largest difference on common ids, weights of the ids that only one side has)."""
    _, ours, theirs = np.intersect1d(served.ids, expected.ids, assume_unique=True, return_indices=True)
    difference = np.abs(served.weights[ours] - expected.weights[theirs]).max(initial=0.0)
    flips = np.concatenate([np.delete(served.weights, ours), np.delete(expected.weights, theirs)])
    return float(difference), flips
