"""The whole training in two minutes on a CPU: tokenizer, stages 1 and 2, mining, evaluation, export and search.

``python -m examples.train_tiny [FOLDER]``, from the root of the repository, trains a two-layer model from random
weights on the titles and texts of tests/fixtures/multilingual.jsonl. "all" improves with every stage, but 950 texts are
too few to train the sparse head (which starts as word overlap with random weights). For a model to use, start from a
pre-trained one (README, "Train and export").
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from rich.console import Console
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3_vdb import Document, HybridIndex, M3EmbeddingFunction, open_store
from onnx_export.export import convert
from train.commands import evaluate, mine, train
from train.config import Batching, FinetuneConfig, Phase, PretrainConfig, Schedule
from train.import_base import tokenizer_json
from train.model import M3Model
from train.retrieval.config import EvaluateConfig, MineConfig

CORPUS = Path("tests/fixtures/multilingual.jsonl")
HELD_OUT = 8
"""Every eighth title is a test query and never trained on."""
console = Console(stderr=True)


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_data(folder: Path) -> tuple[list[dict[str, str]], Path, Path]:
    """(documents, training pairs, test collection in BEIR layout); each line of a text is also a query for the text."""
    documents = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    documents = [document for document in documents if document["title"]]
    pairs: list[dict[str, object]] = []
    for i, d in enumerate(documents):
        lines = [line for line in d["text"].splitlines() if len(line) > 20][:4]
        queries = [d["title"], *lines] if i % HELD_OUT else lines
        pairs += [{"query": query, "pos": [d["text"]], "source": d["source"]} for query in queries]
    test = folder / "titles"
    write_lines(test / "corpus.jsonl", [{"_id": d["id"], "title": "", "text": d["text"]} for d in documents])
    asked = documents[::HELD_OUT]
    write_lines(test / "queries.jsonl", [{"_id": f"q-{d['id']}", "text": d["title"]} for d in asked])
    (test / "qrels").mkdir()
    judgements = "".join(f"q-{d['id']}\t{d['id']}\t1\n" for d in asked)
    (test / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgements, encoding="utf-8")
    return documents, write_lines(folder / "pairs.jsonl", pairs), test


def write_random_model(documents: list[dict[str, str]], path: Path) -> Path:
    """Two layers of width 128, with a Unigram tokenizer trained on the documents."""
    learner = tokenizers.Tokenizer(tokenizers.models.Unigram())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(vocab_size=6_000, special_tokens=[], show_progress=False)
    learner.train_from_iterator([text for d in documents for text in (d["title"], d["text"])], trainer)
    learned = json.loads(learner.to_str())["model"]["vocab"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *(piece for piece, _ in learned), "<mask>"]
    scores = np.array([0.0] * 4 + [score for _, score in learned] + [0.0], dtype=np.float32)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(pieces),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=1,
    )
    model = M3Model(XLMRobertaModel(config, add_pooling_layer=False), colbert_dim=32)
    model.save(path, tokenizer_json=tokenizer_json(pieces, scores))
    return path


def main(folder: Path) -> None:
    """Train, export and search in an empty folder."""
    transformers.utils.logging.disable_progress_bar()
    documents, pairs, test = write_data(folder)
    start = write_random_model(documents, folder / "start")
    shared = {
        "device": "cpu",
        "batching": Batching(tokens=0, rows=48),
        "query_max_length": 32,
        "passage_max_length": 96,
    }

    console.rule("Stage 1: titles find their texts, dense only")
    dense = Phase(steps=100, losses=["dense"], train=["embeddings", "encoder"], learning_rate=1e-3)
    train(PretrainConfig(model=start, data=[pairs], out=folder / "stage1", phase=dense, **shared), console)  # type: ignore[arg-type]
    first = folder / "stage1" / "step-000100"

    console.rule("Hard negatives, mined with that model")
    mined = folder / "mined.jsonl"
    mine(MineConfig(model=first, data=[pairs], out=mined, first=6, last=50, negatives=3, ratio=None), console)

    console.rule("Stage 2: the heads alone, then everything with self-distillation")
    phases = Schedule(
        heads=Phase(
            steps=15, losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"], head_learning_rate=5e-3
        ),
        unified=Phase(steps=35, self_distill=True, learning_rate=5e-4, head_learning_rate=2e-3),
    )
    train(
        FinetuneConfig(model=first, data=[mined], out=folder / "stage2", group_size=3, phases=phases, **shared),  # type: ignore[arg-type]
        console,
    )
    last = folder / "stage2" / "step-000050"

    console.rule(f"nDCG@10 of {len(documents[::HELD_OUT])} titles that were never seen, among {len(documents)} texts")
    for name, model in (("random", start), ("stage 1", first), ("stage 2", last)):
        console.print(f"after: {name}")
        evaluate(EvaluateConfig(model=model, collections=[str(test)], out=folder / name.replace(" ", "")), console)

    console.rule("Exported to ONNX and searched")
    convert(last, folder / "bundle", precision="fp32", name="tiny", also=M3Model.load(last).embed)
    with (
        M3EmbeddingFunction(folder / "bundle", on_truncate="ignore") as embed,
        HybridIndex(embed, open_store("memory://", identity=embed.identity)) as index,
    ):
        index.add([Document(d["id"], d["text"], payload={"title": d["title"]}) for d in documents])
        for document in documents[:: HELD_OUT * 20]:
            hit = index.query(document["title"], limit=1)[0]
            console.print(f"{document['title']!r} → {hit.document.text[:80]!r}", markup=False, highlight=False)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/train_tiny"))
