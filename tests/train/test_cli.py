"""``python -m train`` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train._collections import write_collection
from tests.train._runs import write_rows
from train.__main__ import STAGES, list_options, with_brackets
from train.model import M3Model

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "train" / "recipes").glob("*.yaml"))
"""Settings of one stage, which the name ends with."""


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "train", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def fast(checkpoint: Path, folder: Path, steps: int = 2) -> list[object]:
    rows = write_rows(folder / "rows.jsonl")
    options = ["--model", checkpoint, "--data", rows, "--out", folder / "out", "--device", "cpu", "--group_size", 3]
    return [*options, "--batching.rows", 6, "--batching.tokens", 0, "--phases.unified.steps", steps]


def test_help_names_every_stage_without_importing_torch():
    shown = train("--help")
    assert shown.returncode == 0
    assert all(stage in shown.stdout for stage in STAGES)
    probe = "import sys, train.__main__; sys.exit(bool({'torch', 'datasets', 'faiss'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=False).returncode == 0


def test_no_stage_shows_the_help():
    shown = train()
    assert shown.returncode == 2
    assert "Available subcommands" in shown.stdout


@pytest.mark.parametrize("stage", STAGES)
def test_help_explains_every_option(stage):
    lines = train(stage, "--help").stdout.splitlines()
    text = "\n".join(lines)
    assert "SETTING_WITHOUT_HELP" not in text
    settings = STAGES[stage][0]
    for name in settings.__dataclass_fields__:
        assert f"--{name}" in text or f"{name.upper()}  " in text, name
    # every option's help begins on its line or the next; an undocumented one would only show its type
    options = [i for i, line in enumerate(lines) if line.startswith("  --") and "." in line.split()[0]]
    for i in options:
        block = " ".join(lines[i : i + 8])
        assert not block.split(None, 2)[2].lstrip().startswith("(type:"), block


def test_lists_may_be_given_without_brackets():
    assert with_brackets(["finetune", "--data", "a.jsonl", "--model", "m"])[2] == '["a.jsonl"]'
    assert with_brackets(["finetune", "--data", "[a, b]"])[2] == "[a, b]"
    assert "--phases.unified.train" in set(list_options(STAGES["finetune"][0]))


def test_extend_makes_room_and_leaves_short_texts_as_they_were(tiny_checkpoint, tmp_path):
    before = M3Model.load(tiny_checkpoint)
    done = train(
        "extend", "--model", tiny_checkpoint, "--out", tmp_path / "long", "--max_length", before.max_length * 3
    )
    assert done.returncode == 0, done.stderr
    after = M3Model.load(tmp_path / "long")
    assert after.max_length == before.max_length * 3
    ids = torch.full((1, before.max_length), 7)
    with torch.inference_mode():
        old, new = (model(ids, torch.ones_like(ids)) for model in (before, after))
    assert torch.equal(old.dense, new.dense)
    again = train("extend", "--model", tmp_path / "long", "--out", tmp_path / "short", "--max_length", 8)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("error: max_length=8: the encoder reads")


def test_finetune_writes_a_checkpoint_a_card_and_says_where(tiny_checkpoint, tmp_path):
    done = train("finetune", *fast(tiny_checkpoint, tmp_path))
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "out" / "step-000002"
    assert done.stderr.splitlines()[-1] == str(checkpoint)
    assert (checkpoint / "sparse_linear.pt").is_file()
    assert "python -m onnx_export" in (checkpoint / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "training.png").read_bytes().startswith(b"\x89PNG")


def test_a_settings_file_is_overridden_by_options_after_it(tiny_checkpoint, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("group_size: 2\nphases:\n  unified:\n    steps: 5\n    self_distill: false\n", encoding="utf-8")
    done = train("finetune", "--config", recipe, *fast(tiny_checkpoint, tmp_path, steps=1))
    assert done.returncode == 0, done.stderr
    state = json.loads((tmp_path / "out" / "step-000001" / "state" / "trainer.json").read_text())
    assert state["config"]["group_size"] == 3
    assert state["config"]["phases"]["unified"]["self_distill"] is False


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_settings_file_is_valid(recipe):
    stage = recipe.stem.split("-")[-1]
    paths = ["--model", "model", "--data", "rows.jsonl", "--out", "out"]
    shown = train(stage, "--config", recipe, *paths, "--print_config")
    assert shown.returncode == 0, shown.stderr
    assert "model: model" in shown.stdout


def test_evaluate_and_mine_run_on_a_checkpoint(tiny_checkpoint, tmp_path):
    collection = write_collection(tmp_path / "topics")
    shown = train("evaluate", "--model", tiny_checkpoint, "--collections", collection, "--out", tmp_path / "figures")
    assert shown.returncode == 0, shown.stderr
    figures = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert set(figures["mean"]) == {"dense", "sparse", "multi_vector", "dense_sparse", "all"}
    rows = write_rows(tmp_path / "rows.jsonl")
    mined = train("mine", "--model", tiny_checkpoint, "--data", rows, "--out", tmp_path / "mined.jsonl", "--first", 2)
    assert mined.returncode == 0, mined.stderr
    first = json.loads((tmp_path / "mined.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert len(first["neg"]) == len(first["neg_scores"]) > 0


def test_synthesize_says_what_it_would_cost(tmp_path):
    (tmp_path / "articles.jsonl").write_text(json.dumps({"text": "Who keeps the lighthouse? " * 200}), "utf-8")
    options = ["--articles", tmp_path / "articles.jsonl", "--out", tmp_path / "rows.jsonl", "--model", "stub"]
    done = train("synthesize", *options, "--dry_run", "true")
    assert done.returncode == 0, done.stderr
    assert "dry run: 1 requests, about" in done.stderr
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["finetune", "--model", "m", "--data", "d", "--out", "o", "--grop_size", "3"], 2, "unrecognized arguments"),
        (["finetune", "--model", "m", "--data", "d"], 2, "out"),
        (["finetune", "--model", "m", "--data", "d", "--out", "o", "--group_size", "x"], 2, "group_size"),
        (["finetune", "--model", "m", "--data", "d", "--out", "o", "--group_size", "0"], 1, "group_size=0"),
        (
            ["finetune", "--model", "missing", "--data", "d", "--out", "o"],
            1,
            "missing does not exist: expected the folder of a checkpoint",
        ),
    ],
)
def test_an_error_is_one_line(tmp_path, arguments, code, message):
    failed = train(*arguments)
    assert failed.returncode == code, failed.stderr
    assert message in failed.stderr.splitlines()[-1]
    assert failed.stderr.count("\n") == 1
    assert "Traceback" not in failed.stderr


def test_a_bad_row_is_named_with_brackets_intact(tiny_checkpoint, tmp_path):
    options = fast(tiny_checkpoint, tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"pos": ["p"]}\n', encoding="utf-8")
    failed = train("finetune", *options)
    assert failed.returncode == 1
    expected = f'error: {tmp_path / "rows.jsonl"}, line 1: expected {{"query": str, "pos": [str], "neg": [str]}}'
    assert failed.stderr.splitlines()[-1].startswith(expected)


def test_the_end_says_what_was_made_what_it_cost_and_what_comes_next(tiny_checkpoint, tmp_path):
    done = train("finetune", *fast(tiny_checkpoint, tmp_path))
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    last = f"{tmp_path / 'out' / 'step-000002'}"
    assert said[-1] == last
    assert said[-2] == f"next: python -m onnx_export {last} BUNDLE, then --model BUNDLE for m3-vdb"
    assert said[-3].startswith("2 optimiser steps over ")
    assert said[-4].startswith("step 2 of 2, 0:00:0"), "where there is no terminal, progress is lines"


def test_short_options_for_length_and_rate_of_a_fine_tuning(tiny_checkpoint, tmp_path):
    options = ["--epochs", 2, "--learning_rate", "3.0e-5", "--batching.rows", 12, "--batching.tokens", 0]
    rows = write_rows(tmp_path / "rows.jsonl")
    settings = ["--model", tiny_checkpoint, "--data", rows, "--out", tmp_path / "out", "--device", "cpu"]
    done = train("finetune", *settings, *options, "--group_size", 3)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (tmp_path / "out" / "training.jsonl").read_text().splitlines()]
    assert log[-1]["steps"] == len(log) == 4, "24 rows, 12 of them a step, twice"
    assert max(line["learning_rate"] for line in log) == 3e-5
    assert "phase unified has only 4 optimiser steps (2 batches per epoch), too few to learn from" in done.stderr
    wrong = train("finetune", *settings[:-2], "--resume", "true", "--epochs", 0)
    assert wrong.returncode == 1
    assert wrong.stderr.strip() == "error: epochs=0.0: must be positive"
