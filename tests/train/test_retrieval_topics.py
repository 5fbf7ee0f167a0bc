"""Rows by topic: with vectors written by hand, and with a tiny model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from m3_vdb.errors import ConfigError
from tests.train._retrieval import packed
from train.data.rows import dataset_of
from train.retrieval.config import TopicsConfig
from train.retrieval.topics import cluster, topics, with_topics

NO_FILES = TopicsConfig(model=Path("m"), data=[Path("d")], out=Path("o"), passages=4)


class Points:
    """Texts such as "2.7": a vector near axis 2."""

    model_max_length = 8192

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_documents(self, texts, *, max_length, dense, sparse, multi_vector):
        assert (dense, sparse, multi_vector) == (True, False, False)
        self.encoded += texts
        vectors = np.stack([np.eye(8)[int(text[0])] + 0.05 * np.sin(np.arange(8) * float(text)) for text in texts])
        return packed(
            (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), None, None, count=len(texts)
        )


def rows_of(axes, *, each=5, **fields):
    return [
        {"query": f"{q} about {a}.{i}", "pos": [f"{a}.{i}"], **fields} for a in axes for i in range(each) for q in "xy"
    ]


def grouped(rows, config=NO_FILES):
    return with_topics(Points(), rows, config, report=lambda line: None)


def test_like_passages_share_a_topic_and_all_questions_about_one_do():
    found = grouped(rows_of("013", source="s"))
    topic_of = {(row["pos"][0][0], row["topic"]) for row in found}
    assert len(topic_of) == len({axis for axis, _ in topic_of}) == len({topic for _, topic in topic_of}) == 3


def test_rows_keep_order_and_fields_and_lose_an_older_topic():
    rows = rows_of("01", lang="de", neg=["n"], topic=77)
    found = grouped(rows)
    assert [{**row, "topic": 77} for row in found] == rows
    assert {row["topic"] for row in found} == {0, 1}


def test_the_order_of_rows_changes_nothing():
    rows = rows_of("0123")
    topic = {row["query"]: row["topic"] for row in grouped(rows)}
    assert {row["query"]: row["topic"] for row in grouped(rows[::-1])} == topic


def test_each_passage_is_encoded_once_and_a_small_data_set_not_at_all():
    encoder = Points()
    rows = [*rows_of("01", source="large"), *rows_of("2", source="small")]
    found = with_topics(encoder, rows, NO_FILES, report=lambda line: None)
    assert Counter(encoder.encoded) == {f"{a}.{i}": 1 for a in "01" for i in range(5)}
    assert {dataset_of(row) for row in found} == {"large//0", "large//1", "small/"}


def test_a_small_topic_is_dissolved_into_its_neighbours():
    vectors = np.concatenate([np.tile(np.eye(4)[axis], (20, 1)) for axis in range(3)] + [[[0.1, 0, 0.2, 0.97]]])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = cluster(vectors, 4, seed=0)
    sizes = np.bincount(found)
    assert sizes[sizes > 0].min() >= 0.5 * len(vectors) / 4
    assert found[-1] == found[45]  # axis 2 is the nearest of the rest


def test_equal_vectors_are_one_topic():
    found = cluster(np.tile(np.eye(4, dtype=np.float32)[1], (10, 1)), 3, seed=0)
    assert len(set(found.tolist())) == 1


@pytest.mark.parametrize("change", [{"data": []}, {"passages": 1}, {"passage_max_length": 2}, {"batch_tokens": 0}])
def test_settings_that_make_no_sense(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        TopicsConfig(**{"model": Path("m"), "data": [Path("d")], "out": Path("o"), **change})


def test_files_in_files_out(tiny_checkpoint, tmp_path):
    data, out = tmp_path / "rows.jsonl", tmp_path / "out" / "rows.jsonl"
    rows = [{"query": f"q {i}", "pos": [f"{word} {i}"]} for i in range(8) for word in ("vector", "index")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TopicsConfig(model=tiny_checkpoint, data=[data], out=out, passages=8, device="cpu")
    lines: list[str] = []
    topics(config, report=lines.append)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["query"], row["pos"]) for row in written] == [(row["query"], row["pos"]) for row in rows]
    assert "16 passages, about 2 topics" in lines[0]
    assert all(row["topic"] in {0, 1} for row in written)
    with pytest.raises(ConfigError, match="exists"):
        topics(config, report=lines.append)
