"""Write ``compat.json``: what FlagEmbedding 1.4.2 and milvus-model 0.2.12 answer on the tests' tiny model.

Run once, by hand, from the root of the checkout; the project itself needs neither. First write the tiny checkpoint with
the project's own environment, then record in an environment of the peers::

    .venv/bin/python -m pytest tests/test_compat.py --basetemp /tmp/tiny
    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.13.0 FlagEmbedding==1.4.2 milvus-model==0.2.12 'transformers<5'
    /tmp/peers/bin/python tests/golden/make_compat.py /tmp/tiny/tiny0/checkpoint
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
from FlagEmbedding import BGEM3FlagModel
from milvus_model.hybrid import BGEM3EmbeddingFunction

TEXTS = [
    "the vector search",
    "",
    "a",
    "repeat repeat repeat repeat",
    "ein Wort und die Suche",
    "数据库的向量检索",
    "hello world, one query of the document index and one dense score",
    "как поиск слово",
    "🙂 unknown",
]
PAIRS = [(0, 4), (6, 0), (3, 3), (2, 5), (7, 6)]
WEIGHTS = [0.4, 0.2, 0.4]
ALL = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


def plain(value):
    """JSON values of what the peers return."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "toarray"):
        csr = value.tocsr()
        csr.sort_indices()
        return {
            "data": csr.data.tolist(),
            "indices": csr.indices.tolist(),
            "indptr": csr.indptr.tolist(),
            "shape": list(csr.shape),
        }
    if hasattr(value, "tolist"):
        return np.asarray(value, np.float64).round(9).tolist()
    return value


def main() -> None:
    checkpoint = sys.argv[1]
    model = BGEM3FlagModel(checkpoint, use_fp16=False, devices="cpu", colbert_dim=16)
    told = BGEM3FlagModel(
        checkpoint,
        use_fp16=False,
        devices="cpu",
        colbert_dim=16,
        query_instruction_for_retrieval="query: ",
        query_instruction_format="{}{}",
        truncate_dim=8,
        return_sparse=True,
        return_colbert_vecs=True,
    )
    milvus = BGEM3EmbeddingFunction(checkpoint, device="cpu", return_colbert_vecs=True, colbert_dim=16)
    encoded = model.encode(TEXTS, **ALL, max_length=64)
    weights = encoded["lexical_weights"]
    pairs = [(TEXTS[q], TEXTS[p]) for q, p in PAIRS]
    long = " ".join(["search the index"] * 8)
    recorded = {
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("FlagEmbedding", "milvus-model", "transformers", "torch")
        },
        "texts": TEXTS,
        "encode": encoded,
        "default": model.encode(TEXTS[:2]),
        "one": model.encode(TEXTS[6], **ALL),
        "cut": {"text": long, "output": model.encode([long], **ALL, max_length=12)},
        "queries": told.encode_queries(TEXTS[:3]),
        "corpus": told.encode_corpus(TEXTS[:3]),
        "pairs": PAIRS,
        "weights": WEIGHTS,
        # One pair a call: a batch's padding rows are zeros, a floor under late interaction.
        "scores": [model.compute_score([pair], weights_for_different_modes=WEIGHTS) for pair in pairs],
        "one_pair": model.compute_score(pairs[0]),
        "no_pairs": model.compute_score([]),
        "lexical": model.compute_lexical_matching_score(weights[:3], weights[3:]),
        "lexical_one": model.compute_lexical_matching_score(weights[0], weights[6]),
        "colbert": float(model.colbert_score(encoded["colbert_vecs"][0], encoded["colbert_vecs"][6])),
        "tokens": model.convert_id_to_token(weights),
        "tokens_one": model.convert_id_to_token(weights[0]),
        "milvus": milvus(TEXTS),
        "milvus_dim": milvus.dim,
    }
    out = Path(__file__).with_name("compat.json")
    out.write_text(json.dumps(plain(recorded), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


main()
