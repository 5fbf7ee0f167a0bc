"""``python -m train`` as a user runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.train._collections import write_collection
from tests.train._runs import write_rows
from train.__main__ import STAGES, list_options, make_parser, with_brackets
from train.model import M3Model

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "train" / "recipes").glob("*.yaml"))
"""Settings of one stage, which the name ends with."""


def fast(checkpoint: Path, folder: Path) -> list[object]:
    rows = write_rows(folder / "rows.jsonl")
    options = ["--model", checkpoint, "--data", rows, "--out", folder / "out", "--device", "cpu", "--group_size", 3]
    return [*options, "--batching.rows", 6, "--batching.tokens", 0, "--phases.unified.steps", 2]


def test_help_names_every_stage_without_importing_torch(train):
    code, shown, _ = train("--help")
    assert code == 0
    assert all(stage in shown for stage in STAGES)
    probe = "import sys, train.__main__; sys.exit(bool({'torch', 'datasets', 'faiss', 'openai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=False).returncode == 0
    code, shown, _ = train()
    assert code == 2, "without a stage"
    assert "Available subcommands" in shown


@pytest.fixture(scope="module")
def parser():
    return make_parser()


@pytest.mark.parametrize("stage", STAGES)
def test_help_explains_every_option(stage, parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args([stage, "--help"])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert "SETTING_WITHOUT_HELP" not in text
    for name in STAGES[stage][0].__dataclass_fields__:
        assert f"--{name}" in text or f"{name.upper()}  " in text, name
    # every option's help begins on its line or the next; an undocumented one would only show its type
    for i, line in enumerate(lines):
        if line.startswith("  --") and "." in line.split()[0]:
            assert not " ".join(lines[i : i + 8]).split(None, 2)[2].lstrip().startswith("(type:"), line


def test_commands_that_report_lines_name_functions_that_exist():
    from train import commands

    for name in ("mine", "select", "topics", "evaluate"):
        module, function = getattr(commands, name).args
        assert callable(getattr(import_module(module), function))


def test_lists_may_be_given_without_brackets():
    assert with_brackets(["finetune", "--data", "a.jsonl", "--model", "m"])[2] == '["a.jsonl"]'
    assert with_brackets(["finetune", "--data", "[a, b]"])[2] == "[a, b]"
    assert "--phases.unified.train" in set(list_options(STAGES["finetune"][0]))


def test_extend_makes_room_and_leaves_short_texts_as_they_were(tiny_checkpoint, tmp_path, train):
    before = M3Model.load(tiny_checkpoint)
    options = ["--model", tiny_checkpoint, "--out", tmp_path / "long", "--max_length", before.max_length * 3]
    assert train("extend", *options)[0] == 0
    after = M3Model.load(tmp_path / "long")
    assert after.max_length == before.max_length * 3
    ids = torch.full((1, before.max_length), 7)
    with torch.inference_mode():
        old, new = (model(ids, torch.ones_like(ids)) for model in (before, after))
    assert torch.equal(old.dense, new.dense)
    code, _, said = train("extend", "--model", tmp_path / "long", "--out", tmp_path / "short", "--max_length", 8)
    assert code == 1
    assert said.splitlines()[-1].startswith("error: max_length=8: the encoder reads")


def test_a_run_writes_checkpoint_card_and_picture(tiny_checkpoint, tmp_path, train):
    """A settings file is overridden by the options after it."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("group_size: 2\nphases:\n  unified:\n    steps: 5\n    self_distill: false\n", encoding="utf-8")
    code, _, said = train("finetune", "--config", recipe, *fast(tiny_checkpoint, tmp_path))
    assert code == 0, said
    checkpoint = tmp_path / "out" / "step-000002"
    *_, step, cost, following, last = said.splitlines()
    assert step.startswith("step 2 of 2, 0:00:0"), "where there is no terminal, progress is lines"
    assert cost.startswith("2 optimiser steps over ")
    assert following == f"next: python -m onnx_export {checkpoint} BUNDLE, then --model BUNDLE for m3-vdb"
    assert last == str(checkpoint)
    assert (checkpoint / "sparse_linear.pt").is_file()
    assert "python -m onnx_export" in (checkpoint / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "training.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((checkpoint / "state" / "trainer.json").read_text())["config"]
    assert settings["group_size"] == 3
    assert settings["phases"]["unified"]["self_distill"] is False


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_settings_file_is_valid(recipe, train):
    paths = ["--model", "model", "--data", "rows.jsonl", "--out", "out"]
    code, shown, said = train(recipe.stem.split("-")[-1], "--config", recipe, *paths, "--print_config")
    assert code == 0, said
    assert "model: model" in shown


def test_evaluate_and_mine_run_on_a_checkpoint(tiny_checkpoint, tmp_path, train):
    collection = write_collection(tmp_path / "topics")
    options = ["--model", tiny_checkpoint, "--collections", collection, "--out", tmp_path / "figures"]
    assert train("evaluate", *options)[0] == 0
    figures = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert set(figures["mean"]) == {"dense", "sparse", "multi_vector", "dense_sparse", "all"}
    rows, mined = write_rows(tmp_path / "rows.jsonl"), tmp_path / "mined.jsonl"
    assert train("mine", "--model", tiny_checkpoint, "--data", rows, "--out", mined, "--first", 2)[0] == 0
    first = json.loads(mined.read_text(encoding="utf-8").splitlines()[0])
    assert len(first["neg"]) == len(first["neg_scores"]) > 0


def test_synthesize_says_what_it_would_cost(tmp_path, train):
    (tmp_path / "articles.jsonl").write_text(json.dumps({"text": "Who keeps the lighthouse? " * 200}), "utf-8")
    options = ["--articles", tmp_path / "articles.jsonl", "--out", tmp_path / "rows.jsonl", "--model", "stub"]
    code, _, said = train("synthesize", *options, "--dry_run", "true")
    assert code == 0, said
    assert "dry run: 1 requests, about" in said
    assert not (tmp_path / "rows.jsonl").exists()


FILES = ["--model", "m", "--data", "d"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*FILES, "--out", "o", "--grop_size", "3"], 2, "unrecognized arguments"),
        (FILES, 2, "out"),
        ([*FILES, "--out", "o", "--group_size", "x"], 2, "group_size"),
        ([*FILES, "--out", "o", "--group_size", "0"], 1, "group_size=0"),
        ([*FILES, "--out", "o", "--epochs", "0"], 1, "error: epochs=0.0: must be positive"),
        ([*FILES, "--out", "o"], 1, "m does not exist: expected the folder of a checkpoint"),
    ],
)
def test_an_error_is_one_line(train, arguments, code, message):
    failed, _, said = train("finetune", *arguments)
    assert failed == code, said
    assert message in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_a_bad_row_is_named_with_brackets_intact(tiny_checkpoint, tmp_path, train):
    options = fast(tiny_checkpoint, tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"pos": ["p"]}\n', encoding="utf-8")
    code, _, said = train("finetune", *options)
    assert code == 1
    expected = f'error: {tmp_path / "rows.jsonl"}, line 1: expected {{"query": str, "pos": [str], "neg": [str]}}'
    assert said.splitlines()[-1].startswith(expected)


def test_a_damaged_checkpoint_is_one_line(tiny_checkpoint, tmp_path, train):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    torch.save(torch.nn.Linear(64, 1), folder / "sparse_linear.pt")
    code, _, said = train("finetune", *fast(folder, tmp_path))
    assert code == 1
    (line,) = said.splitlines()
    assert line.startswith("error: ")
    assert "sparse_linear.pt" in line
    assert "Python objects" in line


def test_short_options_for_length_and_rate_of_a_fine_tuning(tiny_checkpoint, tmp_path, train):
    options = [*fast(tiny_checkpoint, tmp_path)[:-4], "--batching.rows", 12, "--batching.tokens", 0]
    code, _, said = train("finetune", *options, "--epochs", 2, "--learning_rate", "3.0e-5")
    assert code == 0, said
    log = [json.loads(line) for line in (tmp_path / "out" / "training.jsonl").read_text().splitlines()]
    assert log[-1]["steps"] == len(log) == 4, "24 rows, 12 of them a step, twice"
    assert max(line["learning_rate"] for line in log) == 3e-5
    assert "phase unified has only 4 optimiser steps (2 batches per epoch), too few to learn from" in said
