"""``FlagEmbedding.BGEM3FlagModel`` over an ``M3EmbeddingFunction``; see ``m3_vdb.compat``."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from m3_vdb import scoring
from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.errors import ConfigError
from m3_vdb.inputs import many_texts
from m3_vdb.types import FloatArray, M3Embeddings, SparseVector

LexicalWeights: TypeAlias = dict[str, np.float32]
"""Token id as a string → weight; an id that the text lacks reads as 0."""
Output: TypeAlias = dict[Literal["dense_vecs", "lexical_weights", "colbert_vecs"], Any]
Mode: TypeAlias = Literal["colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"]


class BGEM3FlagModel:
    """``FlagEmbedding.BGEM3FlagModel`` over an ``M3EmbeddingFunction``.

    Args:
        model_name_or_path: a model in any form that ``M3EmbeddingFunction`` takes.
        normalize_embeddings: True; a bundle's vectors have length 1.
        use_fp16: has no effect: bundle and processor decide the arithmetic.
        use_bf16: has no effect, like ``use_fp16``.
        query_instruction_for_retrieval: put before each text of ``encode_queries``.
        query_instruction_format: how: instruction and text fill its two ``{}``.
        devices: None, "cpu", "cuda", "cuda:0", 0, or a list with one of them.
        pooling_method: "cls".
        trust_remote_code: has no effect: no code of a model is ever run.
        cache_dir: None.
        colbert_dim: -1, or the bundle's own width.
        batch_size: texts per forward pass at most.
        query_max_length: tokens kept of a query.
        passage_max_length: tokens kept of a passage, and of the texts of ``encode``.
        return_dense: the default of the methods' argument, like the two below.
        return_sparse: compute lexical weights.
        return_colbert_vecs: compute multi-vectors.
        truncate_dim: keep the first numbers of dense vectors and multi-vector rows, scaled to length 1 again.
        passage_instruction_for_retrieval: put before each text of ``encode_corpus``.
        passage_instruction_format: as ``query_instruction_format``.

    Raises:
        ConfigError: an option that a bundle cannot follow.
        BundleError: the model is missing or damaged.
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "{}{}",
        devices: str | int | list[str] | list[int] | None = None,
        pooling_method: str = "cls",
        trust_remote_code: bool = False,
        cache_dir: str | None = None,
        colbert_dim: int = -1,
        batch_size: int = 256,
        query_max_length: int = 512,
        passage_max_length: int = 512,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        truncate_dim: int | None = None,
        passage_instruction_for_retrieval: str | None = None,
        passage_instruction_format: str = "{}{}",
    ) -> None:
        _require(normalize_embeddings, f"{normalize_embeddings=}", "the vectors of a bundle have length 1")
        _require(pooling_method == "cls", f"{pooling_method=}", "M3's dense vector is that of <s> (cls)")
        _require(cache_dir is None, f"{cache_dir=}", "set the environment variable HF_HOME instead")
        self.embed = M3EmbeddingFunction(model_name_or_path, device=_device(devices), on_truncate="ignore")
        width = self.embed.identity.multi_vector_dim
        _require(colbert_dim in {-1, width}, f"{colbert_dim=}", f"this model's rows have {width} numbers")
        self.model_name_or_path = model_name_or_path
        self.query_instruction_for_retrieval = query_instruction_for_retrieval
        self.query_instruction_format = query_instruction_format
        self.passage_instruction_for_retrieval = passage_instruction_for_retrieval
        self.passage_instruction_format = passage_instruction_format
        self.batch_size = batch_size
        self.query_max_length = query_max_length
        self.passage_max_length = passage_max_length
        self.return_dense = return_dense
        self.return_sparse = return_sparse
        self.return_colbert_vecs = return_colbert_vecs
        self.truncate_dim = truncate_dim

    def encode(
        self,
        sentences: str | Sequence[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> Output:
        """Encode texts.

        Args:
            sentences: n texts, or one, whose values then come without the list around them.
            batch_size: texts per forward pass at most; None takes the object's own, as for the arguments below.
            max_length: tokens kept of a text; a warning says when texts were cut.
            return_dense: compute dense vectors.
            return_sparse: compute lexical weights.
            return_colbert_vecs: compute multi-vectors.

        Returns:
            "dense_vecs": float32 [n, d]; "lexical_weights": n dicts {token id as a string: weight}; "colbert_vecs": n
            arrays float32 [tokens - 1, m]. A part that was not asked for is None.

        Raises:
            TextError: an item is not a string.
            ConfigError: no part was asked for, or a number is out of range.
        """
        return self._encode(sentences, batch_size, max_length, return_dense, return_sparse, return_colbert_vecs)

    def encode_queries(
        self,
        queries: str | Sequence[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> Output:
        """``encode`` with the query instruction before each text, and ``query_max_length``."""
        return self._encode(
            _instructed(queries, self.query_instruction_for_retrieval, self.query_instruction_format),
            batch_size,
            self.query_max_length if max_length is None else max_length,
            return_dense,
            return_sparse,
            return_colbert_vecs,
        )

    def encode_corpus(
        self,
        corpus: str | Sequence[str],
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> Output:
        """``encode`` with the passage instruction before each text, and ``passage_max_length``."""
        return self._encode(
            _instructed(corpus, self.passage_instruction_for_retrieval, self.passage_instruction_format),
            batch_size,
            max_length,
            return_dense,
            return_sparse,
            return_colbert_vecs,
        )

    def convert_id_to_token(
        self, lexical_weights: Mapping[str, float] | Sequence[Mapping[str, float]]
    ) -> dict[str, float] | list[dict[str, float]]:
        """Lexical weights with tokens for ids, to be read by people; one text's come without a list around them."""
        texts = [lexical_weights] if isinstance(lexical_weights, Mapping) else lexical_weights
        named = [{self._token(int(token)): weight for token, weight in weights.items()} for weights in texts]
        return named[0] if len(named) == 1 else named

    @overload
    def compute_lexical_matching_score(
        self, lexical_weights_1: Mapping[str, float], lexical_weights_2: Mapping[str, float]
    ) -> float: ...

    @overload
    def compute_lexical_matching_score(
        self, lexical_weights_1: list[LexicalWeights], lexical_weights_2: list[LexicalWeights]
    ) -> NDArray[np.float64]: ...

    def compute_lexical_matching_score(self, lexical_weights_1: Any, lexical_weights_2: Any) -> Any:
        """Sum over common tokens of the product of their weights.

        Args:
            lexical_weights_1: the weights of one text, or a list of n.
            lexical_weights_2: in the same form, one or m.

        Returns:
            A number, or float64 [n, m].

        Raises:
            ValueError: one is a dict and the other a list.
        """
        one = [isinstance(given, Mapping) for given in (lexical_weights_1, lexical_weights_2)]
        if one[0] != one[1]:
            raise ValueError("lexical weights: expected two dicts or two lists of dicts, as encode returns them")
        if one[0]:
            common = lexical_weights_1.keys() & lexical_weights_2.keys()
            return sum(lexical_weights_1[token] * lexical_weights_2[token] for token in common)
        return np.array(
            [[self.compute_lexical_matching_score(a, b) for b in lexical_weights_2] for a in lexical_weights_1]
        )

    def colbert_score(self, q_reps: FloatArray, p_reps: FloatArray) -> float:
        """Mean over the query's rows of the best inner product with a passage's row (theirs: a torch scalar)."""
        return scoring.multi_vector_score(q_reps, p_reps)

    def compute_score(
        self,
        sentence_pairs: Sequence[Sequence[str]] | Sequence[str],
        batch_size: int | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: Sequence[float] | None = None,
    ) -> dict[Mode, list[float]] | dict[Mode, float] | list[float]:
        """Scores of (query, passage) pairs.

        Args:
            sentence_pairs: n pairs, or one, whose values then come without the list around them.
            batch_size: texts per forward pass at most.
            max_query_length: tokens kept of a query.
            max_passage_length: tokens kept of a passage.
            weights_for_different_modes: of dense, sparse, colbert; None weighs them equally. The two combined scores
                are weighted means: ours (``m3_vdb.scoring.hybrid_score``) are weighted sums.

        Returns:
            {"colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense"}: n numbers each; [] for no pairs.
        """
        if len(sentence_pairs) == 0:
            return []
        if isinstance(sentence_pairs[0], str):
            scores = self._scores(
                [sentence_pairs], batch_size, max_query_length, max_passage_length, weights_for_different_modes
            )
            return {mode: values[0] for mode, values in scores.items()}
        return self._scores(
            sentence_pairs, batch_size, max_query_length, max_passage_length, weights_for_different_modes
        )

    def _encode(
        self,
        sentences: str | Sequence[str],
        batch_size: int | None,
        max_length: int | None,
        return_dense: bool | None,
        return_sparse: bool | None,
        return_colbert_vecs: bool | None,
    ) -> Output:
        wanted = (
            self.return_dense if return_dense is None else return_dense,
            self.return_sparse if return_sparse is None else return_sparse,
            self.return_colbert_vecs if return_colbert_vecs is None else return_colbert_vecs,
        )
        texts = [sentences] if isinstance(sentences, str) else list(many_texts(sentences))
        vectors = self.packed(texts, batch_size, self.passage_max_length if max_length is None else max_length, wanted)
        output: Output = {
            "dense_vecs": vectors.dense,
            "lexical_weights": _lexical_weights(vectors) if wanted[1] else None,
            "colbert_vecs": [part.multi_vector for part in vectors] if wanted[2] else None,
        }
        if isinstance(sentences, str):
            return {key: None if value is None else value[0] for key, value in output.items()}
        return output

    def _scores(
        self,
        pairs: Sequence[Any],
        batch_size: int | None,
        max_query_length: int | None,
        max_passage_length: int | None,
        weights: Sequence[float] | None,
    ) -> dict[Mode, list[float]]:
        every = (True, True, True)
        query_length = self.query_max_length if max_query_length is None else max_query_length
        passage_length = self.passage_max_length if max_passage_length is None else max_passage_length
        queries = self.packed([query for query, _ in pairs], batch_size, query_length, every)
        passages = self.packed([passage for _, passage in pairs], batch_size, passage_length, every)
        dense, sparse, colbert = (1.0, 1.0, 1.0) if weights is None else weights
        scores: dict[Mode, list[float]] = {
            "colbert": [],
            "sparse": [],
            "dense": [],
            "sparse+dense": [],
            "colbert+sparse+dense": [],
        }
        for query, passage in zip(queries, passages, strict=True):
            parts = scoring.score(query, passage)
            both = dense * parts.dense + sparse * parts.sparse
            scores["colbert"].append(parts.multi_vector)
            scores["sparse"].append(parts.sparse)
            scores["dense"].append(parts.dense)
            scores["sparse+dense"].append(both / (dense + sparse))
            scores["colbert+sparse+dense"].append((both + colbert * parts.multi_vector) / (dense + sparse + colbert))
        return scores

    def packed(
        self, texts: list[str], batch_size: int | None, max_length: int, wanted: tuple[bool, bool, bool]
    ) -> M3Embeddings:
        """What both classes make their results of; warns at the line that called the caller's caller.

        Args:
            texts: n texts.
            batch_size: texts per forward pass at most.
            max_length: tokens kept of a text.
            wanted: whether dense, sparse, multi-vector are.
        """
        vectors = self.embed.encode_documents(
            texts,
            dense=wanted[0],
            sparse=wanted[1],
            multi_vector=wanted[2],
            max_length=min(max_length, self.embed.model_max_length),
            batch_size=self.batch_size if batch_size is None else batch_size,
        )
        if cut := int(vectors.truncated.sum()):
            warnings.warn(
                f"{cut} of {len(texts)} texts were cut to {max_length} tokens: pass a larger max_length (this model "
                f"takes {self.embed.model_max_length})",
                stacklevel=4,
            )
        return vectors if self.truncate_dim is None else _shortened(vectors, self.truncate_dim)

    def _token(self, token_id: int) -> str:
        """The text of a piece: "hello" for "▁hello", as a Hugging Face tokenizer decodes it."""
        piece = self.embed.tokenizer.id_to_token(token_id) or ""
        return piece.removeprefix("▁").replace("▁", " ")


def _require(met: bool, given: str, reason: str) -> None:
    if not met:
        raise ConfigError(f"{given}: {reason}")


def _device(devices: str | int | list[str] | list[int] | None) -> str:
    """The device of ``M3EmbeddingFunction`` for FlagEmbedding's ``devices``."""
    several = devices if isinstance(devices, list) else [devices]
    if several == [None]:
        return "auto"
    first = str(several[0]) if len(several) == 1 else None
    if first == "cpu":
        return "cpu"
    if first in {"0", "cuda", "cuda:0"}:
        return "cuda"
    raise ConfigError(f"devices={devices!r}: expected None, 'cpu' or 'cuda:0' (CUDA_VISIBLE_DEVICES says which GPU)")


def _instructed(texts: str | Sequence[str], instruction: str | None, form: str) -> str | Sequence[str]:
    if instruction is None:
        return texts
    form = form.replace("\\n", "\n")
    return form.format(instruction, texts) if isinstance(texts, str) else [form.format(instruction, t) for t in texts]


def _lexical_weights(vectors: M3Embeddings) -> list[LexicalWeights]:
    rows: list[LexicalWeights] = []
    for part in vectors:
        sparse = cast(SparseVector, part.sparse)
        rows.append(defaultdict(int, zip(map(str, sparse.ids.tolist()), sparse.weights, strict=True)))  # type: ignore[arg-type]
    return rows


def _shortened(vectors: M3Embeddings, width: int) -> M3Embeddings:
    """Dense vectors and multi-vector rows cut to their first numbers and scaled to length 1."""
    return replace(vectors, dense=_cut(vectors.dense, width), multi_vector=_cut(vectors.multi_vector, width))


def _cut(rows: FloatArray | None, width: int) -> FloatArray | None:
    if rows is None:
        return None
    kept = rows[:, :width]
    lengths = np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)  # the floor of torch's normalize
    unit: FloatArray = kept / lengths
    return unit
