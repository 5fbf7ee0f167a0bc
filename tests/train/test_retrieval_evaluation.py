"""Evaluation of scores written by hand, and of a tiny model on collections on disk."""

from __future__ import annotations

import json

import pytest
import torch

from m3_vdb import scoring
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.evaluation.metrics import measure
from m3_vdb.evaluation.protocol import MODES
from tests.train._retrieval import DOCUMENTS, QRELS, QUERIES, TableEncoder, write_collection
from train.model import M3Model
from train.retrieval import evaluation
from train.retrieval.config import EvaluateConfig, EvaluateOptions
from train.retrieval.evaluation import (
    CollectionResult,
    EvaluateResult,
    evaluate,
    evaluate_model,
    read_collections,
    search_collection,
    table,
)
from train.session import embedding_function

SHORT = EvaluateOptions(query_max_length=16, passage_max_length=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("beir") / "one", DOCUMENTS, QUERIES | {"other": "x"}, QRELS)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")


@pytest.fixture
def model(tiny_checkpoint):
    return M3Model.load(tiny_checkpoint)


def test_without_ir_measures_nothing_is_encoded_first(monkeypatch, model, tokenizer, folder):
    monkeypatch.setitem(__import__("sys").modules, "ir_measures", None)
    monkeypatch.setattr(evaluation, "encode_passages", pytest.fail)
    with pytest.raises(MissingExtraError, match=r"m3-vdb\[eval\]"):
        evaluate_model(embedding_function(model, tokenizer), read_collections([folder], SHORT), SHORT)


def test_all_five_modes_on_scores_that_are_written_by_hand(tmp_path):
    names = ["a", "b", "c", "d"]
    folder = write_collection(tmp_path / "c", {n: n for n in names}, {"1": "q"}, {("1", "b"): 1})
    encoder = TableEncoder(
        {("q", n): s for n, s in zip(names, [0.5, 0.4, 0.3, 0.2], strict=True)},
        sparse={("q", "c"): 2.0, ("q", "b"): 1.0},
        multi_vector={("q", n): s for n, s in zip(names, [-0.5, 0.0, -0.4, 0.6], strict=True)},
    )
    options = EvaluateOptions(rerank=3)
    (collection,) = read_collections([folder], options)
    (runs,) = search_collection(encoder, collection, options)
    order = {mode: list(run["1"]) for mode, run in runs.items()}
    assert order == {
        "dense": ["a", "b", "c", "d"],
        "sparse": ["c", "b"],
        "multi_vector": ["b", "c", "a"],  # d is not among the dense top 3
        "dense_sparse": ["c", "b", "a", "d"],  # .3 + .3 · 2, .4 + .3 · 1, .5, .2
        "all": ["b", "c", "a"],  # .4 + .3 + 0, .3 + .6 − .4, .5 + 0 − .5
    }
    assert runs["all"]["1"]["c"] == pytest.approx(0.5, abs=1e-3)
    figures = {mode: measure(run, collection.qrels)["RR@10"] for mode, run in runs.items()}
    assert figures == {"dense": 0.5, "sparse": 0.5, "multi_vector": 1, "dense_sparse": 0.5, "all": 1}


def test_figures_of_a_model_are_those_of_brute_force(model, tokenizer, folder):
    result = evaluate_model(embedding_function(model, tokenizer), read_collections([folder], SHORT), SHORT)
    one = result.collections["one"]
    assert (one.documents, one.queries, list(one.figures)) == (30, 7, list(MODES))
    embed = embedding_function(model, tokenizer)
    queries, passages = (embed.encode_documents(texts.values(), max_length=32) for texts in (QUERIES, DOCUMENTS))
    parts = {name: [scoring.score(query, p) for p in passages] for name, query in zip(QUERIES, queries, strict=True)}
    qrels: dict[str, dict[str, int]] = {}
    for (query, passage), grade in QRELS.items():
        qrels.setdefault(query, {})[passage] = grade
    for mode in MODES:
        run = {
            query: {
                name: scoring.hybrid_score(part, SHORT.weights_of(mode))
                for name, part in zip(DOCUMENTS, parts[query], strict=True)
                if mode != "sparse" or part.sparse > 0
            }
            for query in QUERIES
        }
        assert one.figures[mode] == pytest.approx(measure(run, qrels)), mode
    assert 0.2 < one.figures["sparse"]["nDCG@10"] < 1


def test_a_passage_with_the_id_of_the_query_is_found(folder):
    text = DOCUMENTS["d7"]
    encoder = TableEncoder({(QUERIES["d7"], text): 0.9} | {(query, "none"): 0.0 for query in QUERIES.values()})
    options = EvaluateOptions(modes=("dense",))
    (runs,) = search_collection(encoder, *read_collections([folder], options), options)
    assert next(iter(runs["dense"]["d7"])) == "d7"


def test_blocks_of_queries_change_no_figure(model, tokenizer, folder, monkeypatch, tmp_path):
    whole = evaluate_model(
        embedding_function(model, tokenizer), read_collections([folder], SHORT), SHORT, runs=tmp_path / "whole"
    )
    monkeypatch.setattr(evaluation, "BLOCK", 3)
    blocks = evaluate_model(
        embedding_function(model, tokenizer), read_collections([folder], SHORT), SHORT, runs=tmp_path / "blocks"
    )
    for mode in MODES:
        assert blocks.mean[mode] == pytest.approx(whole.mean[mode])
        lines = [(tmp_path / name / f"one.{mode}.trec").read_text().splitlines() for name in ("whole", "blocks")]
        assert [line.split()[:4] for line in lines[0]] == [line.split()[:4] for line in lines[1]]
        assert len({line.split()[0] for line in lines[0]}) >= 6


def test_evaluation_in_training_leaves_no_trace(model, tokenizer, folder):
    ids = torch.tensor([[0, 5, 6, 2]])
    model.train()
    model.encoder.embeddings.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    first = evaluate_model(embedding_function(model, tokenizer), read_collections([folder], SHORT), SHORT)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (
        evaluate_model(embedding_function(model.eval(), tokenizer), read_collections([folder], SHORT), SHORT) == first
    )  # and dropout was off
    model.train()
    model(ids, torch.ones_like(ids)).dense[:, 0].sum().backward()


def test_the_command_writes_figures_and_runs(tiny_checkpoint, folder, tmp_path):
    write_collection(tmp_path / "in" / "two", DOCUMENTS, dict(list(QUERIES.items())[:2]), {("q0", "d0"): 1})
    config = EvaluateConfig(
        model=tiny_checkpoint,
        collections=[str(folder), str(tmp_path / "in")],
        out=tmp_path / "out",
        runs=True,
        work=tmp_path / "work",
        modes=("dense", "all"),
        passage_max_length=32,
    )
    lines: list[str] = []
    result = evaluate(config, report=lines.append)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(written["collections"]) == ["one", "two"]
    assert written["mean"] == result.mean
    assert written["config"]["modes"] == ["dense", "all"]
    one, two = (result.collections[name].figures["all"]["nDCG@10"] for name in ("one", "two"))
    assert result.mean["all"]["nDCG@10"] == pytest.approx((one + two) / 2)
    assert {path.name for path in (tmp_path / "out" / "runs").iterdir()} == {
        f"{name}.{mode}.trec" for name in ("one", "two") for mode in ("dense", "all")
    }
    assert lines[-1] == table(result)
    assert sum("encoded" in line for line in lines) == 1  # both have the same documents

    lines.clear()
    run = (tmp_path / "out" / "runs" / "one.all.trec").read_text()
    assert evaluate(config, report=lines.append) == result
    assert (tmp_path / "out" / "runs" / "one.all.trec").read_text() == run
    assert not any("encoded" in line for line in lines)


def test_approximate_dense_search_is_an_option(model, tokenizer, folder):
    options = EvaluateOptions(query_max_length=16, passage_max_length=32, index="HNSW32")
    assert (
        evaluate_model(embedding_function(model, tokenizer), read_collections([folder], options), options).mean
        == evaluate_model(embedding_function(model, tokenizer), read_collections([folder], SHORT), SHORT).mean
    )


def test_the_table_has_a_line_a_collection_and_a_column_a_mode():
    def figures(dense, every):
        return {"dense": {"nDCG@10": dense, "RR@10": 0.0}, "all": {"nDCG@10": every, "RR@10": 0.125}}

    result = EvaluateResult(
        {"german": CollectionResult(12345, 7, figures(0.5, 0.75)), "fr": CollectionResult(9, 10, figures(0.25, 1.0))},
        figures(0.375, 0.875),
    )
    assert table(result).splitlines() == [
        "nDCG@10",
        "        documents  queries  dense    all",
        "german     12,345        7  0.500  0.750",
        "fr              9       10  0.250  1.000",
        "mean                        0.375  0.875",
    ]
    assert "0.125" in table(result, name="RR@10")


def test_thinning_keeps_what_is_judged_and_is_nested(folder):
    def read(**options):
        (found,) = read_collections([folder], EvaluateOptions(**options))
        return {document.id for document in found.documents}, set(found.queries), found

    everything, queries, _ = read()
    judged = {passage for _, passage in QRELS}
    assert (len(everything), queries) == (30, set(QUERIES))
    assert read(max_documents=1)[0] == judged
    twelve, fifteen = read(max_documents=12)[0], read(max_documents=15)[0]
    assert judged < twelve < fifteen < everything
    assert (len(twelve), len(fifteen)) == (12, 15)
    assert read(max_documents=12, seed=1)[0] != twelve == read(max_documents=12)[0]
    _, few, found = read(max_queries=2, max_documents=5)
    assert few < read(max_queries=4)[1] < set(QUERIES)
    assert set(found.qrels) == few
    assert {passage for grades in found.qrels.values() for passage in grades} <= {
        document.id for document in found.documents
    }
    assert len(found.documents) == 5


def test_collections_of_several_places_are_named_apart(tmp_path, folder):
    for name in ("a/de", "a/fr", "b/de"):
        write_collection(tmp_path / name, DOCUMENTS, QUERIES, QRELS)
    found = read_collections([f"{tmp_path}/*", tmp_path / "a" / "fr", folder], EvaluateOptions())
    assert [one.name for one in found] == [f"{tmp_path}/a/de", "fr", f"{tmp_path}/b/de", "one"]
    with pytest.raises(ConfigError, match=r"no collection in .*nothing.*corpus\.jsonl"):
        read_collections([tmp_path / "nothing"], EvaluateOptions())
    with pytest.raises(ConfigError, match=r"has no dev\.tsv .*it holds test\.tsv"):
        read_collections([folder], EvaluateOptions(split="dev"))
