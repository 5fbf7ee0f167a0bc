"""Settings: what is refused, what a mode needs, and that reading them is cheap and possible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from m3_vdb.errors import ConfigError
from m3_vdb.weights import PRESETS, Weights
from train.retrieval.config import EvaluateConfig, EvaluateOptions, MineConfig, MineOptions, SearchOptions


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchOptions(query_max_length=2), "query_max_length=2"),
        (lambda: SearchOptions(passage_max_length=0), "passage_max_length=0"),
        (lambda: SearchOptions(rerank=0), "rerank=0"),
        (lambda: SearchOptions(batch_tokens=0), "batch_tokens=0"),
        (lambda: SearchOptions(shard_size=0), "shard_size=0"),
        (lambda: SearchOptions(dtype="float16"), "dtype='float16': expected one of float32, bfloat16"),
        (lambda: SearchOptions(weights="1,2"), "weights='1,2'"),
        (lambda: SearchOptions(dense_sparse_weights="1,1,1"), "third weight must be 0"),
        (lambda: MineOptions(modes=()), "modes"),
        (lambda: MineOptions(modes=("dense", "all")), "dense, sparse, multi_vector"),
        (lambda: MineOptions(modes=("dense", "dense")), "each once"),
        (lambda: MineOptions(first=0), "first=0"),
        (lambda: MineOptions(first=20, last=10), "first=20, last=10"),
        (lambda: MineOptions(negatives=0), "negatives=0"),
        (lambda: MineOptions(margin=-0.1), "margin=-0.1"),
        (lambda: MineOptions(ratio=1.1), "ratio=1.1"),
        (lambda: MineOptions(ratio=0), "ratio=0"),
        (lambda: MineOptions(sample="best"), "sample='best'"),
        (lambda: MineOptions(score="hybrid"), "score='hybrid'"),
        (lambda: EvaluateOptions(modes=("bm25",)), "modes"),
        (lambda: EvaluateOptions(depth=50), "depth=50"),
        (lambda: EvaluateOptions(max_documents=0), "max_documents=0"),
        (lambda: EvaluateOptions(max_queries=-1), "max_queries=-1"),
        (lambda: MineConfig(model=Path("m"), data=[], out=Path("o")), "data is empty"),
        (lambda: EvaluateConfig(model=Path("m"), collections=[]), "collections is empty"),
        (lambda: EvaluateConfig(model=Path("m"), collections=["c"], runs=True), "runs=True needs out"),
    ],
)
def test_what_cannot_work_is_refused_and_named(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)


def test_a_mode_has_its_weights():
    options = SearchOptions(weights="long_document", dense_sparse_weights="long_dense_sparse")
    assert options.weights_of("all") == PRESETS["long_document"]
    assert options.weights_of("dense_sparse") == PRESETS["long_dense_sparse"]
    assert options.weights_of("sparse") == Weights(0, 1, 0)
    assert options.weights_of("multi_vector") == Weights(0, 0, 1)
    assert (SearchOptions().weights_of("all"), SearchOptions().weights_of("dense_sparse")) == (
        Weights(1, 0.3, 1),
        Weights(1, 0.3, 0),
    )


@pytest.mark.parametrize(
    ("modes", "parts"),
    [
        (["dense"], ("dense",)),
        (["sparse"], ("sparse",)),
        (["multi_vector"], ("dense", "multi_vector")),
        (["dense_sparse"], ("dense", "sparse")),
        (["all"], ("dense", "sparse", "multi_vector")),
        (["sparse", "dense"], ("dense", "sparse")),
    ],
)
def test_a_mode_needs_the_parts_that_it_scores_and_searches(modes, parts):
    assert SearchOptions().parts_of(modes) == parts


def test_parts_follow_the_options():
    assert SearchOptions(rerank_sparse=True).parts_of(["multi_vector"]) == ("dense", "sparse", "multi_vector")
    assert SearchOptions(dense_sparse_weights="1,0,0").parts_of(["dense_sparse"]) == ("dense", "sparse")
    assert SearchOptions(weights="0,1,1").parts_of(["all"]) == ("dense", "sparse", "multi_vector")
    assert SearchOptions(weights="1,0,1").parts_of(["all"]) == ("dense", "multi_vector")


def test_reading_the_settings_imports_nothing_heavy():
    code = "import sys, train.retrieval.config; print(sorted({'torch', 'faiss', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_line_can_be_made_of_the_settings():
    import jsonargparse

    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(MineConfig, "mine")
    arguments = ["--mine.model=m", '--mine.data=["a", "b"]', "--mine.out=o", "--mine.modes=[dense]"]
    read = parser.parse_args([*arguments, "--mine.ratio=null", "--mine.margin=0.1", "--mine.dtype=bfloat16"])
    expected = MineConfig(
        model=Path("m"),
        data=[Path("a"), Path("b")],
        out=Path("o"),
        modes=("dense",),
        ratio=None,
        margin=0.1,
        dtype="bfloat16",
    )
    assert MineConfig(**vars(read.mine)) == expected
    helped = " ".join(parser.format_help().split())
    for words in ("worst rank that is taken", "JSONL file to create", "tokens kept of a query"):
        assert words in helped
