"""Mining with a tiny model, in memory and from file to file."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from m3_vdb import scoring
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError, DocumentError
from m3_vdb.weights import Weights
from tests.train._retrieval import read_jsonl, write_jsonl
from train.model import M3Model
from train.retrieval import mining
from train.retrieval.config import MineConfig, MineOptions
from train.retrieval.mining import mine, mine_rows
from train.session import embedding_function

WORDS = (
    "the",
    "vector",
    "search",
    "index",
    "query",
    "text",
    "document",
    "dense",
    "sparse",
    "der",
    "die",
    "das",
    "Suche",
)


def some_rows(count=12):
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=6)) for _ in range(5 * count)]
    queries = [" ".join(rng.choices(WORDS, k=3)) for _ in range(count)]
    return [
        {"query": query, "pos": texts[5 * i : 5 * i + 1], "neg": texts[5 * i + 1 : 5 * i + 5]}
        for i, query in enumerate(queries)
    ]


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return M3Model.load(tiny_checkpoint)


def test_mined_scores_are_those_of_the_reference(model, tokenizer):
    options = MineOptions(first=2, last=30, negatives=4, ratio=None, query_max_length=16, passage_max_length=32)
    embed = embedding_function(model, tokenizer)
    found, report = mine_rows(embed, some_rows(), options)
    assert report.negatives == 48
    queries = embed.encode_queries([one["query"] for one in found], max_length=16)
    for one, query in zip(found, queries, strict=True):
        passages = embed.encode_documents(one["pos"] + one["neg"], max_length=32)
        expected = [scoring.hybrid_score(scoring.score(query, passage), Weights(1, 0.3, 1)) for passage in passages]
        # float16 rows of the corpus: 2⁻¹¹ of a coordinate
        np.testing.assert_allclose(one["pos_scores"] + one["neg_scores"], expected, atol=1e-3)
        assert not set(one["neg"]) & set(one["pos"])


def test_a_model_in_training_stays_in_training_and_learns_on(model, tokenizer):
    model.train()
    mine_rows(embedding_function(model, tokenizer), some_rows(2), MineOptions(first=1, negatives=1))
    assert all(module.training for module in model.modules())
    ids = torch.tensor([[0, 5, 6, 2]])
    model(ids, torch.ones_like(ids)).dense[:, 0].sum().backward()
    model.zero_grad()
    model.eval()


def config(checkpoint, folder, **changes):
    options = {"first": 2, "last": 30, "negatives": 3, "query_max_length": 16, "passage_max_length": 32}
    return MineConfig(model=checkpoint, data=[folder / "rows.jsonl"], out=folder / "out.jsonl", **(options | changes))


def test_files_in_files_out_and_a_second_run_is_the_same(tiny_checkpoint, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{**one, "lang": "de", "n": i} for i, one in enumerate(some_rows())])
    texts = [text for one in some_rows() for text in one["neg"]]
    passages = [{"docid": f"d{i}", "text": text} for i, text in enumerate(texts)]
    pool = write_jsonl(tmp_path / "corpus.jsonl", passages)
    lines: list[str] = []
    report = mine(config(tiny_checkpoint, tmp_path, corpus=pool, work=tmp_path / "work"), report=lines.append)
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [one["n"] for one in found] == list(range(12))
    assert report.rows == 12
    for one in found:
        assert one["neg"] == [texts[int(name[1:])] for name in one.get("neg_ids", [])]
        assert len(one["neg_scores"]) == len(one["neg"])
    assert sum(len(one["neg"]) for one in found) == report.negatives > 12
    assert "encoded 48 of 48 passages" in lines
    assert f"{report.negatives} negatives" in lines[-1]

    (tmp_path / "out.jsonl").rename(tmp_path / "first.jsonl")
    lines.clear()
    mine(config(tiny_checkpoint, tmp_path, corpus=pool, work=tmp_path / "work"), report=lines.append)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "first.jsonl").read_bytes()
    assert not any("encoded" in line for line in lines)


def test_an_existing_file_is_not_overwritten(tiny_checkpoint, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "rows.jsonl", some_rows(3))
    monkeypatch.setattr(mining, "mine_rows", lambda *_, **__: ([{"query": "q"}, {"query": object()}], None))
    with pytest.raises(TypeError):
        mine(config(tiny_checkpoint, tmp_path), report=print)
    assert not (tmp_path / "out.jsonl").exists()
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(ConfigError, match=r"out\.jsonl exists: give a new file"):
        mine(config(tiny_checkpoint, tmp_path), report=print)
    assert (tmp_path / "out.jsonl").read_text() == "precious"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"pos": ["p"]}, "expected"),
        ({"query": 3, "pos": ["p"]}, "expected"),
        ({"query": "q"}, "'pos' must be a list with at least one string"),
        ({"query": "q", "pos": []}, "'pos' must be a list with at least one string"),
        ({"query": "q", "pos": "p"}, "'pos' must be a list of strings"),
        ({"query": "q", "pos": ["p"], "neg": [1]}, "'neg' must be a list of strings"),
        ({"query": "q", "pos": ["p"], "pos_ids": ["a", "b"]}, "'pos_ids' must be a list with an id for each of 1"),
        ({"query": "q", "pos": ["\ud800"]}, "lone surrogate"),
        ("no row", "expected a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tiny_checkpoint, tmp_path, bad, message):
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"query": "q", "pos": ["p"], "neg": None}) + "\n\n" + json.dumps(bad) + "\n"
    )
    with pytest.raises(DocumentError, match=rf"rows\.jsonl, line 3: .*{message}") as error:
        mine(config(tiny_checkpoint, tmp_path), report=print)
    assert error.value.index == 2
