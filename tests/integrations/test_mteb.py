"""``mteb.evaluate`` with the fused score, on tasks made here: no hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

import mteb  # noqa: E402
from datasets import Dataset  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models import SearchProtocol  # noqa: E402

from m3_vdb import HybridIndex, LongDocuments, M3EmbeddingFunction  # noqa: E402
from m3_vdb.errors import ConfigError  # noqa: E402
from m3_vdb.integrations.mteb import M3Search  # noqa: E402

ROWS = [json.loads(line) for line in (Path(__file__).parents[1] / "fixtures/multilingual.jsonl").open(encoding="utf-8")]
ENGLISH = [row for row in ROWS if row["lang"] == "en" and row["source"] == "libreoffice"]


def make_task(kind: str) -> AbsTaskRetrieval:
    """The titles of texts find the texts; in a reranking task, each title's candidates are five texts."""

    class Toy(AbsTaskRetrieval):
        metadata = TaskMetadata(
            type=kind,
            name=f"Titles{kind}",
            description="Titles find their texts.",
            reference="https://www.libreoffice.org",
            dataset={"path": "none", "revision": "none"},
            category="t2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=("2024-01-01", "2024-01-01"),
            dialect=[],
            domains=[],
            task_subtypes=[],
            license="mpl-2.0",
            annotations_creators="derived",
            modalities=["text"],
            sample_creation="found",
            bibtex_citation="",
        )

        def load_data(self, **_):
            ids = [row["id"] for row in ENGLISH]
            ranked = {id: (ids[i:] + ids[:i])[:5] for i, id in enumerate(ids)}
            split = {
                "queries": Dataset.from_list([{"id": row["id"], "text": row["title"]} for row in ENGLISH]),
                "corpus": Dataset.from_list([{"id": row["id"], "title": "", "text": row["text"]} for row in ENGLISH]),
                "relevant_docs": {id: {id: 1} for id in ids},
                "top_ranked": ranked if kind == "Reranking" else None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Toy()


def ndcg(model: M3Search, kind: str) -> float:
    result = mteb.evaluate(model, make_task(kind), cache=None, co2_tracker=False, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]["ndcg_at_10"]


@pytest.fixture(scope="module")
def embed():
    return M3EmbeddingFunction()


def test_the_fused_score_is_measured_in_memory_and_through_a_folder(embed, tmp_path):
    in_memory = M3Search(model=embed)
    folder = M3Search(str(tmp_path / "{task}.qdrant"), model=embed)
    assert isinstance(folder, SearchProtocol)
    fused = ndcg(in_memory, "Retrieval")
    assert fused > 0.6
    assert ndcg(folder, "Retrieval") == pytest.approx(fused, abs=1e-6)
    assert ndcg(folder, "Retrieval") == pytest.approx(fused, abs=1e-6), "the collection is emptied first"
    folder.close()
    with HybridIndex.open(tmp_path / "TitlesRetrieval-default-test.qdrant", model=embed) as index:
        assert index.count() == len(ENGLISH)
    dense = M3Search(model=embed, weights=(1, 0, 0))
    assert ndcg(dense, "Retrieval") != pytest.approx(fused, abs=1e-3)
    names = [model.mteb_model_meta for model in (in_memory, folder, dense)]
    assert len({meta.experiment_name for meta in names}) == 3
    assert {meta.name for meta in names} == {"m3-vdb/m3-small"}


def test_reranking_ranks_the_given_documents_only(embed):
    assert ndcg(M3Search(model=embed), "Reranking") > 0.8


def test_scores_are_those_of_the_index_and_passes_are_few(session, passes):
    from tests.serving._fakes import embed_with

    model = M3Search(model=embed_with(session))
    task = make_task("Retrieval")
    rows = [{"id": str(i), "text": row["text"], "title": row["title"]} for i, row in enumerate(ENGLISH[:5])]
    queries = [
        {"id": "a", "text": "formula bar"},
        {"id": "b", "text": "formula", "instruction": "bar"},
        {"id": "c", "text": [{"role": "user", "content": "formula"}]},
    ]
    with pytest.raises(ConfigError, match="call index first"):
        model.search(queries, top_k=2)
    with passes() as texts:
        model.index(rows, task_metadata=task.metadata, hf_split="test", hf_subset="default", num_proc=None)
    assert sum(texts) == len(rows)
    with passes() as texts:
        found = model.search(queries, top_k=2)
    assert texts == [3], "one pass for a batch of queries"
    with passes() as texts:
        ranked = model.search(queries, top_k=2, top_ranked={"a": ["4", "0", "2"], "b": ["3"]})
    assert texts == [3]
    assert {id: set(scores) <= {"4", "0", "2", "3"} and len(scores) for id, scores in ranked.items()} == {
        "a": 2,
        "b": 1,
        "c": 0,
    }
    with HybridIndex.open("memory://", model=embed_with(session)) as index:
        index.add(rows)
        for id, text in {"a": "formula bar", "b": "formula bar", "c": "user: formula"}.items():
            assert found[id] == {hit.document.id: hit.score for hit in index.query(text, limit=2)}


def test_a_store_needs_a_place_per_task():
    with pytest.raises(ConfigError, match=r"expected memory://, or a URL with \{task\}"):
        M3Search("notes.qdrant")


def test_long_documents_have_one_score(embed):
    twin = M3EmbeddingFunction(max_length=40)
    model = M3Search(model=twin, long_documents=LongDocuments(plan="split"))
    model.index(
        [{"id": "long", "text": " ".join(row["text"] for row in ENGLISH[:3])}],
        task_metadata=make_task("Retrieval").metadata,
        hf_split="test",
        hf_subset="default",
    )
    assert list(model.search([{"id": "q", "text": "formula bar"}], top_k=10)["q"]) == ["long"]
