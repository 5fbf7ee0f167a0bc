"""Benchmarks of models: the base before training on the tasks of ``m3-vdb eval``, lost languages, figures by source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import XLMRobertaModel
from typer import Typer
from typer.testing import CliRunner

from benchmarks import udhr, zero_shot
from benchmarks.base_model import NAME, PASSAGE, QUERY, Encoded, MeanPooled, mean_pool, search
from benchmarks.debian.by_source import by_source
from m3_vdb import Document, M3EmbeddingFunction, Weights
from m3_vdb.cli.main import app
from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError, ModelOutputError
from m3_vdb.evaluation import Collection, Query, open_collections
from m3_vdb.evaluation.metrics import read_run, write_run
from m3_vdb.stores import MemoryStore

WORDS = ["vector", "search", "index", "query", "text", "document", "dense", "sparse", "token", "model", "score"]
WORDS += ["Suche", "Wort", "recherche", "mot", "слово"]


def last_line(main, *arguments):
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]), lines[:-1]


def write(folder, documents, queries, *, split="test"):
    """BEIR: document id → text, query id → (language, text, id of its document)."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = [{"_id": name, "title": "", "text": text} for name, text in documents.items()]
    asked = [{"_id": name, "text": text, "metadata": {"lang": lang}} for name, (lang, text, _) in queries.items()]
    for name, items in (("corpus", corpus), ("queries", asked)):
        lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items]
        with (folder / f"{name}.jsonl").open("w" if name == "corpus" else "a", encoding="utf-8") as file:
            file.writelines(lines)
    judged = "".join(f"{name}\t{document}\t1\n" for name, (_, _, document) in queries.items())
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    return MeanPooled.load(tiny_checkpoint, dtype="float32")


@pytest.fixture
def help_pages(tmp_path):
    """Forty documents, twelve reported queries in two languages, four dev queries."""
    documents = {f"d{i:02}": f"{WORDS[i % 16]} {WORDS[i // 3]} {i}" for i in range(40)}
    asked = {f"q{i:02}": (("de", "fr")[i % 2], f"{WORDS[i]} {i}", f"d{3 * i:02}") for i in range(12)}
    dev = {f"v{i}": ("de", f"{WORDS[i]} {i}", f"d{37 + i}") for i in range(3)}
    write(tmp_path / "pages", documents, asked)
    return write(tmp_path / "pages", documents, dev, split="dev")


def test_the_mean_is_that_of_the_tokens_alone():
    hidden = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [100.0, 100.0]], [[1.0, 0.0], [1.0, 0.0], [1.0, 3.0]]])
    pooled = mean_pool(hidden.bfloat16(), torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert pooled.dtype == torch.float32
    assert pooled.numpy() == pytest.approx(np.array([[0.6, 0.8], [0.5**0.5, 0.5**0.5]]), abs=1e-6)


def test_vectors_are_those_of_the_encoder_by_hand(tiny_checkpoint, base):
    encoder = XLMRobertaModel.from_pretrained(tiny_checkpoint, add_pooling_layer=False).eval()
    tokenizer = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")
    texts = ["the vector search", "", "как поиск слово, one query of the document index"]
    for prefix in ("query: ", "passage: "):
        found = base.encode(texts, prefix=prefix, max_length=512)
        for text, vector in zip(texts, found.vectors, strict=True):
            ids = torch.from_numpy(tokenizer.encode([f"{prefix}{text}"], max_length=64).ids.astype(np.int64))
            with torch.no_grad():
                mean = encoder(input_ids=ids[None]).last_hidden_state[0].mean(dim=0)
            assert vector == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_prefixes_count_lengths_count_and_bfloat16_is_near(tiny_checkpoint, base):
    texts = ["hello world " * 40, "hello world"]
    query, passage = (base.encode(texts, prefix=prefix, max_length=512) for prefix in (QUERY, PASSAGE))
    assert (query.truncated, passage.truncated) == (1, 1)
    assert query.tokens < 2 * 64
    assert np.abs(query.vectors - passage.vectors).max() > 0.01
    cut = base.encode(texts, prefix=QUERY, max_length=8)
    assert np.abs(cut.vectors[0] - query.vectors[0]).max() > 0.01
    half = MeanPooled.load(tiny_checkpoint, dtype="bfloat16").encode(texts, prefix=QUERY, max_length=512)
    difference = np.abs(half.vectors - query.vectors).max()
    assert 1e-6 < difference < 0.1


def test_a_diverged_encoder_is_named(tiny_checkpoint):
    broken = MeanPooled.load(tiny_checkpoint, dtype="float32")
    with torch.no_grad():
        broken.model.encoder.encoder.layer[0].output.dense.bias[0] = torch.nan
    with pytest.raises(ModelOutputError, match="item 0"):
        broken.encode(["a"], prefix=QUERY, max_length=8)


@pytest.mark.parametrize("tunes", [False, True])
def test_the_same_queries_and_documents_as_m3_vdb_eval(tmp_path, help_pages, tiny_bundle, tunes):
    chosen = ["--max-documents", "14", "--max-queries", "4"]
    asked = ["eval", str(help_pages), "--store", "memory://", "--out", str(tmp_path / "out"), "--model", tiny_bundle]
    modes = ["--modes", "dense_sparse,dense", "--tune-weights"] if tunes else ["--modes", "dense"]
    done = CliRunner().invoke(app, [*map(str, asked), *modes, *chosen])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    run = read_run(tmp_path / "out" / "pages" / "dense.trec")
    (kept,) = zero_shot.read([str(help_pages)], max_documents=14, max_queries=4, dev_split="dev" if tunes else None)
    assert len(run) == 8
    assert kept.queries.keys() == run.keys()
    assert all({one.id for one in kept.documents} == found.keys() for found in run.values())
    (other,) = zero_shot.read([str(help_pages)], max_documents=14, max_queries=4, seed=1)
    assert other.queries.keys() != run.keys()


@dataclass
class Table:
    """An encoder whose vectors are given."""

    vectors: dict[str, list[float]]
    dtype: str = "float32"

    @property
    def model(self):
        return SimpleNamespace(dim=2, max_length=99)

    def encode(self, texts, *, prefix, max_length):
        return Encoded(np.array([self.vectors[prefix + text] for text in texts], dtype=np.float32), 3 * len(texts), 0)


def test_figures_that_can_be_checked_by_eye(tmp_path, monkeypatch):
    """Both German queries find their document first, the French one second: nDCG@10 is 1, 1 and 1/log2(3)."""
    queries = {"q1": ("de", "eins", "a"), "q2": ("de", "zwei", "b"), "q3": ("fr", "un", "a")}
    place = write(tmp_path / "toy", {"a": "A", "b": "B", "c": "C"}, queries)
    vectors = {"passage: A": [1, 0], "passage: B": [0, 1], "passage: C": [-1, 0]}
    vectors |= {"query: eins": [1, 0], "query: zwei": [0.6, 0.8], "query: un": [0.6, 0.8]}
    monkeypatch.setattr(zero_shot.MeanPooled, "load", lambda *_, **__: Table(vectors))
    found, lines = last_line(zero_shot.main, "base", place, "--max-length", 512)
    assert [(group["lang"], group["documents"], group["queries"]) for group in found["groups"]] == [
        ("de", 3, 2),
        ("fr", 3, 1),
    ]
    assert [group["nDCG@10"] for group in found["groups"]] == pytest.approx([1, 0.63093], abs=1e-5)
    assert [group["RR@10"] for group in found["groups"]] == [1, 0.5]
    assert found["mean"]["nDCG@10"]["value"] == pytest.approx((1 + 0.63093) / 2, abs=1e-5), "languages count once"
    assert found["pooled"]["nDCG@10"]["value"] == pytest.approx((2 + 0.63093) / 3, abs=1e-5), "queries count once"
    assert found["mean"]["R@100"]["value"] == 1
    assert found["max_length"] == 99
    assert [line.split()[:1] for line in lines[-5:]] == [["documents"], ["toy"], ["toy"], ["mean"], ["pooled"]]


def test_a_hundred_documents_are_kept_and_they_are_the_best():
    angles = np.linspace(0, 3, 150)
    vectors = {f"passage: {i}": [np.cos(a), np.sin(a)] for i, a in enumerate(angles)}
    documents = [Document(f"d{i}", str(i)) for i in range(150)]
    collection = Collection("c", documents, {"q": Query("x")}, {"q": {"d0": 1}})
    searched = search(Table({**vectors, "query: x": [1, 0]}), collection, max_length=9)
    assert searched.runs[NAME]["q"].keys() == {f"d{i}" for i in range(100)}
    assert searched.runs[NAME]["q"]["d0"] == pytest.approx(1)
    assert (searched.documents, searched.cost.tokens) == (150, 450)


def test_the_whole_command_on_a_checkpoint(help_pages, tiny_checkpoint):
    found, _ = last_line(zero_shot.main, tiny_checkpoint, help_pages, "--max-documents", 20, "--dtype", "float32")
    assert [(group["lang"], group["queries"]) for group in found["groups"]] == [("de", 6), ("fr", 6)]
    assert found["mean"]["R@100"]["value"] == 1, "twenty documents are all found"
    assert 0 < found["mean"]["nDCG@10"]["value"] < 1


def test_answers_are_refused(tmp_path, monkeypatch):
    unjudged = Collection("mkqa", [Document("a", "A")], {"q": Query("x")}, answers={"q": ["A"]})
    monkeypatch.setattr(zero_shot, "open_collections", lambda *_, **__: [unjudged])
    with pytest.raises(ConfigError, match="mkqa: no judgements"):
        zero_shot.read([str(tmp_path)])


@pytest.fixture
def articles(tmp_path):
    """Six articles; "la" quotes them, "fr" asks for the next one with the words of this."""
    texts = [" ".join(WORDS[i : i + 3]) for i in range(0, 12, 2)]
    documents = {f"{i:02}": text for i, text in enumerate(texts)}
    queries = {f"q-la-{i}": ("la", text, f"{i:02}") for i, text in enumerate(texts)}
    queries |= {f"q-fr-{i}": ("fr", text, f"{(i + 1) % 6:02}") for i, text in enumerate(texts)}
    return write(tmp_path / "udhr", documents, queries)


def test_articles_in_two_languages(tmp_path, articles, tiny_checkpoint, tiny_bundle, base):
    page = tmp_path / "udhr.md"
    options = ["--model", tiny_bundle, "--collection", articles, "--dtype", "float32", "--markdown", page]
    options += ["--max-length", 64]
    found, lines = last_line(udhr.main, tiny_checkpoint, *options)
    figures = found["by_language"]
    assert figures["la"]["dense"] == 1, "a text is nearest to itself"
    assert figures["fr"]["dense"] == 0, "and not to the next"
    (collection,) = open_collections(articles)
    vectors = {
        prefix: base.encode([one.content for one in collection.documents], prefix=prefix, max_length=128).vectors
        for prefix in (QUERY, PASSAGE)
    }
    best = (vectors[QUERY] @ vectors[PASSAGE].T).argmax(axis=1)
    assert figures["la"]["base"] == pytest.approx(np.mean(best == np.arange(6)))
    assert figures["fr"]["base"] == pytest.approx(np.mean(best == (np.arange(6) + 1) % 6))
    assert found["languages"] == 2
    assert lines[0].split()[:4] == ["language", "base", "dense", "all"]
    assert "| all languages | 2 |" in page.read_text(encoding="utf-8")
    only, _ = last_line(udhr.main, tiny_checkpoint, *options, "--languages", "la")
    assert only["by_language"] == {"la": figures["la"]}


def test_scores_are_those_of_a_store(articles, tiny_bundle):
    (collection,) = open_collections(articles)
    embed = M3EmbeddingFunction(tiny_bundle)
    runs = udhr.bundle_runs(embed, collection)
    documents = list(collection.documents)
    with MemoryStore(embed.identity) as store:
        store.upsert(documents, embed.encode_documents([one.content for one in documents]))
        for name, query in collection.queries.items():
            (embedding,) = embed.encode_queries([query.text])
            for mode, weights in (("dense", Weights(1, 0, 0)), ("all", Weights(1, 0.3, 1))):
                expected = dict(store.rank(embedding, weights=weights, limit=6))
                assert runs[mode][name] == pytest.approx(expected, abs=1e-5)


FIGURES = {
    "sw": {"base": 0.8, "dense": 0.7, "all": 0.6},  # 0.8 − 0.7 is more than 0.1 in binary
    "yo": {"base": 0.4, "dense": 0.1, "all": 0.0},  # the base did not have it
    "de": {"base": 1.0, "dense": 1.0, "all": 1.0},
    "th": {"base": 0.5, "dense": 0.2, "all": 0.7},
}


def test_what_counts_as_lost():
    found = udhr.summarise(FIGURES)
    assert found["lost"] == {"dense": ["th"], "all": ["sw"]}
    assert found["gained"] == {"dense": 0, "all": 1}
    assert (found["languages"], found["known"]) == (4, 3)
    assert found["mean"] == {"base": 0.675, "dense": 0.5, "all": 0.575}
    assert found["mean_of_known"] == pytest.approx({"base": 0.7667, "dense": 0.6333, "all": 0.7667})
    assert udhr.summarise({"yo": FIGURES["yo"]})["mean_of_known"] == {}


def test_the_greatest_loss_is_on_top():
    head, *lines = udhr.rows(FIGURES)
    assert head == ["language", "base", "dense", "all", "dense − base", "all − base"]
    assert [line[0] for line in lines] == ["yo", "sw", "de", "th"]
    assert lines[1] == ["sw", "0.80", "0.70", "0.60", "-0.10", "-0.20"]


def test_markdown_names_the_lost_ones_alone():
    page = udhr.markdown(FIGURES).splitlines()
    assert page[0] == "|  | languages | base | dense | all | lost more than 0.1, dense | lost more than 0.1, all |"
    assert page[2:4] == [
        "| all languages | 4 | 0.675 | 0.500 | 0.575 |  |  |",
        "| base at 0.5 or more | 3 | 0.767 | 0.633 | 0.767 | 1 | 1 |",
    ]
    assert [line.split(" | ")[0] for line in page[5:]] == ["| language", "| ---", "| sw", "| th"]
    assert "language" not in udhr.markdown({"de": FIGURES["de"]}).split("\n", 1)[1].replace("all languages", "")


def test_every_collection_counts_once_in_the_mean_of_a_source(tmp_path):
    """de: lo found first and second, gnome found first; fr: lo not found; one query of de was thinned away."""
    asked = {"q-lo/1": ("de", "a", "lo/1"), "q-lo/2": ("de", "b", "lo/2"), "q-gnome/1": ("de", "c", "gnome/1")}
    asked_too = {"q-lo/1": ("fr", "a", "lo/1")}
    documents = {"lo/1": "a", "lo/2": "b", "gnome/1": "c"}
    de = write(tmp_path / "de", documents, asked | {"q-lo/3": ("de", "d", "lo/1")})
    fr = write(tmp_path / "fr", documents, asked_too)
    run = {
        "q-lo/1": {"lo/1": 2.0},
        "q-lo/2": {"lo/1": 2.0, "lo/2": 1.0},  # second: 1 / log2(3)
        "q-gnome/1": {"gnome/1": 1.0},
    }
    write_run(run, tmp_path / "out/de/all.trec", tag="all")
    write_run({"q-lo/1": {"lo/2": 1.0}}, tmp_path / "out/fr/all.trec", tag="all")
    means, queries = by_source(tmp_path / "out", [str(de), str(fr)])
    assert queries == {"lo": 3, "gnome": 1}
    assert means["gnome"] == {"all": 1.0}
    assert means["lo"]["all"] == pytest.approx(((1 + 0.6309297535714575) / 2 + 0) / 2)


def test_a_folder_without_runs_says_what_it_should_be(tmp_path):
    de = write(tmp_path / "de", {"lo/1": "a"}, {"q-lo/1": ("de", "a", "lo/1")})
    with pytest.raises(ConfigError, match="no run files"):
        by_source(tmp_path / "out", [str(de)])
