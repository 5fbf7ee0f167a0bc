"""``benchmarks.train_step``: same texts for both trainers, right counts, and FlagEmbedding's loss if it is there."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from benchmarks.train_step import SHORTEST, batching, draw, lengthen, write_rows
from m3_vdb.encoding.tokenizer import Tokenizer
from tests.train import _runs
from train.data.batches import RowSizes, plan_epoch

ROOT = Path(__file__).parents[1]
BATCH, GROUP, STEPS = 3, 3, 2
QUERY, PASSAGE = 16, 24
NUMBERS = {
    "seconds",
    "cpu_seconds",
    "tokens_per_s",
    "tokens",
    "padded_tokens",
    "padding",
    "forwards",
    "peak_mib",
    "above_mib",
    "first_loss",
}


def _benchmark(checkpoint: Path, rows: Path, *options: str) -> tuple[dict[str, Any], str]:
    """(JSON line, everything before it)."""
    sizes = {"--steps": STEPS, "--batch": BATCH, "--group": GROUP, "--rounds": 1, "--threads": 1}
    lengths = {"--query-max-length": QUERY, "--passage-max-length": PASSAGE}
    given = [str(item) for pair in (sizes | lengths).items() for item in pair]
    command = [sys.executable, "-m", "benchmarks.train_step", str(checkpoint), str(rows), "--precision", "fp32"]
    done = subprocess.run([*command, *given, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text, _, line = done.stdout.rstrip().rpartition("\n")
    return json.loads(line), text


@pytest.mark.soak
def test_ours_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = _runs.write_rows(tmp_path / "rows.jsonl")
    found, text = _benchmark(tiny_checkpoint, rows)
    assert "FlagEmbedding is left out" in text
    settings = {"batch": BATCH, "group": GROUP, "steps": STEPS, "rounds": 1, "precision": "fp32", "threads": 1}
    assert settings.items() <= found.items()
    for workload in ("short", "mixed"):
        assert set(found[workload]) == {"ours"}
        ours = found[workload]["ours"]
        assert set(ours) == NUMBERS | {"attention"}
        assert all(np.isfinite(ours[name]) and ours[name] >= 0 for name in NUMBERS)
        assert ours["padding"] == pytest.approx(1 - ours["tokens"] / ours["padded_tokens"], abs=1e-3)
        assert ours["forwards"] >= 2
    assert found["mixed"]["ours"]["tokens"] > found["short"]["ours"]["tokens"]
    assert set(found["lexical"]) == {"ours"}

    tokenizer = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")
    counted = draw(rows, rows=BATCH * (STEPS + 2), group=GROUP)[BATCH:-BATCH]  # neither the warm-up nor the spare batch
    queries = tokenizer.encode([row["query"] for row in counted], max_length=QUERY)
    passages = tokenizer.encode([text for row in counted for text in row["pos"] + row["neg"]], max_length=PASSAGE)
    tokens = (queries.lengths.sum() + passages.lengths.sum()) / STEPS
    assert found["short"]["ours"]["tokens"] == pytest.approx(tokens, abs=0.1)


def test_both_files_hold_the_same_batches(tmp_path: Path) -> None:
    drawn = draw(_runs.write_rows(tmp_path / "rows.jsonl"), rows=12, group=GROUP)
    files = write_rows(drawn, tmp_path, BATCH)
    theirs, ours = ([json.loads(line) for line in files[name].open()] for name in ("flagembedding", "ours"))
    assert theirs == drawn
    sizes = RowSizes(*(np.array([len(row["pos"][0]) for row in ours], dtype=np.int64) for _ in range(2)), np.zeros(12))
    plan = plan_epoch(sizes, batching(BATCH), least=2, seed=0, epoch=0)
    assert [ours[number] for rows in plan for number in rows] == drawn


def test_mixed_passages_have_very_different_lengths(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = draw(_runs.write_rows(tmp_path / "rows.jsonl"), rows=20, group=GROUP)
    longest = 64
    mixed = lengthen(rows, tokenizers.Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json")), longest)
    assert [row["query"] for row in mixed] == [row["query"] for row in rows]
    tokenizer = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")
    lengths = tokenizer.count([text for row in mixed for text in row["pos"] + row["neg"]])
    assert len(lengths) == 20 * GROUP
    assert SHORTEST - 1 <= lengths.min() < 20
    assert 50 < lengths.max() <= longest + 1
    assert np.median(lengths) == pytest.approx((SHORTEST * longest) ** 0.5, rel=0.2)


@pytest.mark.integration
@pytest.mark.skipif(find_spec("FlagEmbedding") is None, reason="FlagEmbedding is not installed in this Python")
def test_flagembedding_does_the_same_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = _runs.write_rows(tmp_path / "rows.jsonl")
    found, _ = _benchmark(tiny_checkpoint, rows, "--peer-python", sys.executable)
    for workload in ("short", "mixed"):
        ours, peer, ratio = (found[workload][name] for name in ("ours", "flagembedding", "ratio"))
        assert ours["tokens"] == peer["tokens"]
        assert peer["forwards"] == 2
        assert peer["padded_tokens"] >= ours["padded_tokens"]
        assert abs(ratio["first_loss_difference"]) < 1e-4
    assert found["lexical"]["ours"]["loss"] == pytest.approx(found["lexical"]["flagembedding"]["loss"], rel=1e-4)
