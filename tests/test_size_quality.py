"""The benchmark of size and quality: each form is what a user would store, and costs what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from benchmarks import size_quality
from benchmarks.size_quality import Form, narrowed
from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.long_documents import LongDocuments
from m3_vdb.errors import ConfigError
from m3_vdb.evaluation import MODES, evaluate, open_collections
from tests.evaluation._toy import collection
from tests.evaluation.test_cli_eval import write


def curve(folder: Path, *options: object) -> list[dict]:
    app = Typer()
    app.command()(size_quality.main)
    done = CliRunner().invoke(app, [str(one) for one in (folder, "--split", "test", *options)])
    assert done.exit_code == 0, done.output
    return json.loads(done.output.splitlines()[-1])["curve"]


def test_a_form_costs_and_finds_what_the_same_collection_does(tmp_path: Path):
    folder = write(tmp_path / "help", collection(n=8))
    lines = curve(folder, "--widths", "96,32", "--factors", "1,3", "--storages", "float32,quarter")
    assert len(lines) == 8
    found = {(line["width"], line["factor"], line["storage"]): line for line in lines}
    embed = M3EmbeddingFunction(on_truncate="ignore")
    for factor in (1, 3):
        (task,) = open_collections(str(folder))
        expected = evaluate(
            [task], embed, "memory://", modes=["multi_vector", "all"], long_documents=LongDocuments(pool_factor=factor)
        ).mean
        for mode in ("multi_vector", "all"):
            assert found[96, factor, "float32"][mode] == pytest.approx(expected[mode]["nDCG@10"].value, abs=1e-4)
    one = found[96, 1, "float32"]
    assert one["bytes"] == pytest.approx(one["rows"] * 96 * 4, rel=1e-4)
    assert found[32, 3, "quarter"]["bytes"] == pytest.approx(found[32, 3, "quarter"]["rows"] * 32, rel=1e-4)
    assert one["rows"] / 3 <= found[96, 3, "float32"]["rows"] < one["rows"] / 3 + 1, "rounded up, document by document"
    assert found[32, 1, "float32"]["multi_vector"] != one["multi_vector"]


def test_rows_are_averaged_or_cut():
    embed = M3EmbeddingFunction(on_truncate="ignore")
    whole = embed.encode_documents(["one text of several words", "another one"])
    pooled, cut = (Form(16, 2, "float32", cut=cut).of(whole) for cut in (False, True))
    assert np.linalg.norm(pooled.multi_vector, axis=1) == pytest.approx(1, abs=1e-6)
    assert len(pooled.multi_vector) == len(cut.multi_vector) < len(whole.multi_vector)
    np.testing.assert_allclose(cut[0].multi_vector[0], narrowed(whole, 16)[0].multi_vector[0], atol=1e-6)
    assert not np.allclose(pooled.multi_vector, cut.multi_vector, atol=1e-3)


def test_directions_of_training_rows_come_first(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    texts = [one.text for one in collection(n=8).documents]
    rows.write_text("".join(json.dumps({"query": "?", "pos": [text]}) + "\n" for text in texts), encoding="utf-8")
    embed = M3EmbeddingFunction(on_truncate="ignore")
    given = embed.encode_documents(texts)
    turned = size_quality.rotation(embed, rows)(given)
    np.testing.assert_allclose(
        turned.multi_vector @ turned.multi_vector.T, given.multi_vector @ given.multi_vector.T, atol=1e-4
    )
    strength = (turned.multi_vector**2).mean(axis=0)
    # Encoded twice, in other batches: bfloat16 keeps 8 bits of a number, and these are squares of about 0.01.
    assert (np.diff(strength) < 1e-4).all(), "strongest first"
    assert strength[0] > 100 * strength[-1]
    assert size_quality.rotation(embed, None)(given) is given


def test_an_unknown_storage_is_refused():
    with pytest.raises(ConfigError, match="storage 'tiny': expected some of float32, half, quarter"):
        size_quality.forms_of([96], [1], ["tiny"], cut=False)
    assert set(size_quality.MODES) <= set(MODES)
