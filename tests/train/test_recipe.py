"""A whole recipe on the tiny checkpoint: in one go, in pieces, killed; and everything that is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml
from rich.console import Console

from m3_vdb.encoding.bundle import Bundle
from m3_vdb.errors import ConfigError
from tests.train._collections import write_collection
from tests.train._runs import tensors, write_rows
from tests.train.test_resume import wait_for_step
from train.commands import INTERRUPTED
from train.recipe.config import ExportConfig, RecipeConfig
from train.recipe.file import RESULTS, read_recipe
from train.recipe.run import StepError, run_recipe
from train.stages import STAGES

ROOT = Path(__file__).parents[2]
M3_SMALL = ROOT / "train" / "recipes" / "m3-small.yaml"
RUN = """
    device: cpu
    precision: fp32
    batching: {rows: 6}
    query_max_length: 16
    passage_max_length: 24
    dropout: 0.1"""
RECIPE = f"""
steps:
  rows:
    stage: select
    data: $data/rows.jsonl
    cap: 20
  long:
    stage: extend
    model: CHECKPOINT
    max_length: 96
  zero:
    stage: retromae
    model: $long
    data: $data/texts.jsonl{RUN.replace("query_max_length: 16", "micro_tokens: 512")}
    retromae: {{max_length: 96}}
    phase: {{steps: 2}}
  first:
    stage: pretrain
    model: $zero
    data: $rows{RUN}
    phase: {{steps: 3, losses: [dense], train: [encoder], learning_rate: 1e-3}}
  mined:
    stage: mine
    model: $first
    data: $rows
    first: 2
    last: 8
    negatives: 3
    ratio: null
  about:
    stage: topics
    model: $first
    data: $rows
    passages: 4
  tuned:
    stage: finetune
    model: $first
    data: [$mined, $about]
    group_size: 3
    save_every: 2{RUN}
    phases:
      unified: {{steps: 4, train: [encoder, sparse, multi_vector], self_distill: true, learning_rate: 1e-3}}
  between:
    stage: average
    models: [$first, $tuned]
    weights: [1, 3]
  narrow:
    stage: project
    model: $between
    data: $rows
    colbert_dim: 8
    texts: 4
  figures:
    stage: evaluate
    model: $narrow
    collections: $data/topics
    modes: dense
"""
BUNDLE = """
  tiny:
    stage: export
    checkpoint: $narrow
"""


class Say(Console):
    """A console that keeps what is said."""

    def __init__(self) -> None:
        super().__init__(stderr=True, quiet=True)
        self.lines: list[str] = []

    def print(self, text="", *args, **kwargs) -> None:
        self.lines.append(str(text))


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """Diagrams are tested elsewhere and take a second each."""
    monkeypatch.setattr("train.engine.card.plot_training", lambda *arguments, **options: None)


@pytest.fixture
def kitchen(tiny_checkpoint, tmp_path):
    """A folder with a data folder and the recipe."""
    rows = write_rows(tmp_path / "data" / "rows.jsonl")
    texts = [{"text": f"{json.loads(line)['pos'][0]} and more"} for line in rows.read_text("utf-8").splitlines()]
    (tmp_path / "data" / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    write_collection(tmp_path / "data" / "topics")
    write(tmp_path, RECIPE.replace("CHECKPOINT", str(tiny_checkpoint)))
    return tmp_path


def write(folder: Path, recipe: str) -> None:
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")


def change(folder: Path, old: str, new: str) -> None:
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert old in recipe
    write(folder, recipe.replace(old, new))


def cook(folder: Path, *, out: str = "out", until: str | None = None, finished: bool = True) -> list[str]:
    """Run the recipe to its end, or to its interruption; returns what was said."""
    said = Say()
    config = RecipeConfig(file=folder / "recipe.yaml", out=folder / out, data=folder / "data", until=until)
    assert run_recipe(config, said) == finished
    return said.lines


def start(folder: Path) -> subprocess.Popen[str]:
    arguments = [folder / "recipe.yaml", "--out", folder / "out", "--data", folder / "data"]
    return subprocess.Popen(
        [sys.executable, "-m", "train", "recipe", *map(str, arguments)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # the same roundings as here
    )


def assert_same(first: Path, second: Path) -> None:
    expected, found = tensors(first), tensors(second)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def refused(folder: Path, message: str, error: type[Exception] = ConfigError) -> str:
    """The one-line error of a recipe that must not run; nothing is made or changed."""
    before = sorted((path, path.stat().st_mtime_ns) for path in (folder / "out").rglob("*") if path.is_file())
    with pytest.raises(error, match=message) as caught:
        cook(folder)
    after = [(path, path.stat().st_mtime_ns) for path in (folder / "out").rglob("*") if path.is_file()]
    assert [entry for entry in sorted(after) if entry[0].name != ".lock"] == [e for e in before if e[0].name != ".lock"]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recipe_goes_the_whole_way_and_goes_on_after_any_step(kitchen):
    cook(kitchen, until="first")
    assert not (kitchen / "out" / "mined").exists()
    change(kitchen, "    modes: dense\n", f"    modes: dense\n{BUNDLE}")
    said = cook(kitchen)
    assert said[:4] == [f"{name}: finished before" for name in ("rows", "long", "zero", "first")]
    assert said[-1] == str(kitchen / "out" / "tiny" / "bundle")
    bundle = Bundle.open(kitchen / "out" / "tiny" / "bundle")
    assert (bundle.name, bundle.multi_vector_dim, bundle.max_length) == ("tiny", 8, 96)
    assert json.loads((kitchen / "out" / "figures" / "figures" / "metrics.json").read_text())["mean"].keys() == {
        "dense"
    }
    assert len((kitchen / "out" / "mined" / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == 20
    assert not (kitchen / "out" / "mined" / "work").exists()
    steps = [step.name for step in read_recipe(kitchen / "recipe.yaml")]
    times = [path.stat().st_mtime_ns for path in sorted((kitchen / "out").rglob("*")) if path.name != ".lock"]
    assert cook(kitchen)[:-1] == [f"{name}: finished before" for name in steps]
    assert times == [path.stat().st_mtime_ns for path in sorted((kitchen / "out").rglob("*")) if path.name != ".lock"]
    # Elsewhere, with new times, without the data that only finished steps read: still good.
    shutil.copytree(kitchen / "out", kitchen / "copy", copy_function=shutil.copyfile)
    for path in (kitchen / "data").glob("*.jsonl"):
        os.utime(path, ns=(1, 1))
    shutil.rmtree(kitchen / "data" / "topics")
    assert cook(kitchen, out="copy")[:-1] == [f"{name}: finished before" for name in steps]


def shorten(folder: Path) -> None:
    """Leave out two steps, and train longer in the last."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    steps = {name: step for name, step in recipe["steps"].items() if name in ("rows", "long", "first", "tuned")}
    steps["first"]["model"], steps["tuned"]["data"] = "$long", "$rows"
    steps["tuned"]["phases"]["unified"]["steps"] = 24
    write(folder, yaml.safe_dump({"steps": steps}, sort_keys=False))


def test_an_interrupted_and_killed_training_ends_with_the_same_weights(kitchen):
    shorten(kitchen)
    run = kitchen / "out" / "tuned" / "run"
    log, stamp = run / "training.jsonl", kitchen / "out" / "tuned" / "stamp.json"
    process = start(kitchen)
    wait_for_step(run, 3, process)
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == INTERRUPTED, said
    assert "stopped: interrupted; the same command goes on" in said
    done = len(log.read_text(encoding="utf-8").splitlines())
    assert (run / f"step-{done:06d}").is_dir()  # nothing that was done is lost
    assert 3 <= done < 24
    begun = log.read_text(encoding="utf-8").splitlines()[0]
    change(kitchen, "group_size: 3", "group_size: 2")
    refused(kitchen, r"step 'tuned': .* was made with other settings \(group_size: 3 → 2\): delete ")
    change(kitchen, "group_size: 2", "group_size: 3")
    change(kitchen, "save_every: 2", "save_every: 3")  # does not change the model
    process = start(kitchen)
    wait_for_step(run, done + 4, process)
    process.kill()
    assert "long: finished before" in process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGKILL
    assert json.loads(stamp.read_text())["made"] == ""
    assert not (run / "step-000024").exists()
    assert "first: finished before" in cook(kitchen)
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 25))
    assert lines[0] == begun  # gone on with, not begun again
    assert json.loads(stamp.read_text())["result"] == "run/step-000024"
    cook(kitchen, out="whole")
    assert_same(kitchen / "whole" / "tuned" / "run" / "step-000024", run / "step-000024")


def test_any_other_step_can_be_interrupted_too(kitchen, monkeypatch):
    def extend(settings, console):
        settings.out.mkdir()
        (settings.out / "half").write_text("", encoding="utf-8")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr("train.recipe.run.STAGES", STAGES | {"extend": (STAGES["extend"][0], extend)})
        assert cook(kitchen, finished=False)[-1] == "stopped: interrupted; the same command goes on"
    assert signal.getsignal(signal.SIGTERM) == before
    cook(kitchen, until="long")
    assert not (kitchen / "out" / "long" / "checkpoint" / "half").exists()


def test_what_changed_is_refused_with_all_that_was_made_from_it(kitchen):
    cook(kitchen, until="mined")
    out = kitchen / "out"
    change(kitchen, "steps: 3, ", "steps: 2, ")
    message = refused(kitchen, r"step 'first': .* was made with other settings \(phase\.steps: 3 → 2\)")
    assert f"delete {out / 'first'} {out / 'mined'}, or give another --out" in message
    shutil.rmtree(out / "first")
    assert f"delete {out / 'mined'}," in refused(kitchen, "step 'mined': .* from an earlier result of 'first'")
    shutil.rmtree(out / "mined")
    assert cook(kitchen, until="mined")[:3] == [f"{name}: finished before" for name in ("rows", "long", "zero")]
    assert [path.name for path in (out / "first" / "run").glob("step-*")] == ["step-000002"]


def test_other_input_files_are_refused(kitchen):
    cook(kitchen, until="long")
    rows = kitchen / "data" / "rows.jsonl"
    old = rows.read_bytes()
    rows.write_bytes(old[::-1])  # of the same size
    assert "delete" in refused(kitchen, r"step 'rows': .* was made from another \$data/rows\.jsonl")
    rows.write_bytes(old)
    cook(kitchen, until="rows")


def test_a_step_that_failed_begins_anew(kitchen):
    rows = kitchen / "data" / "rows.jsonl"
    old = rows.read_bytes()
    rows.write_bytes(b'{"pos": ["p"]}\n')
    with pytest.raises(StepError, match=rf"recipe\.yaml, step 'rows': {rows}, line 1: expected"):
        cook(kitchen, until="rows")
    rows.write_bytes(old)
    cook(kitchen, until="rows")


def test_a_folder_that_no_recipe_made_is_left_alone(kitchen):
    (kitchen / "out" / "long").mkdir(parents=True)
    (kitchen / "out" / "long" / "thesis.txt").write_text("mine", encoding="utf-8")
    refused(kitchen, "long was not made by a recipe")


def test_two_processes_do_not_share_a_folder(kitchen):
    import fcntl

    (kitchen / "out").mkdir()
    with (kitchen / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(kitchen, "is in use: another process")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("group_size: 3", "grop_size: 3", "step 'tuned': Option 'grop_size' is not accepted"),
        ("group_size: 3", "group_size: 0", "step 'tuned': group_size=0: must be positive"),
        ("group_size: 3", "group_size: [3]", "step 'tuned': Parser key \"group_size\": Expected"),
        ("{steps: 2}", "2", "step 'zero': Parser key \"phase\": Expected options. Got value: 2"),
        ("colbert_dim: 8", "resume: true", "step 'narrow': 'resume' is set by the recipe"),
        ("colbert_dim: 8", "out: here", "step 'narrow': 'out' is set by the recipe"),
        ("stage: mine", "stage: min", "step 'mined': stage='min': expected one of import-base"),
        ("stage: mine\n", "stag: mine\n", "step 'mined': stage=None"),
        ("model: $narrow", "model: $tiny", r"step 'figures': model: \$tiny: no earlier step"),
        ("model: $long", "model: $first", r"step 'zero': model: \$first: no earlier step"),
        ("model: $long", "model: $rows", r"step 'zero': model: \$rows: the result of select is rows, expected a check"),
        ("data: $rows\n    first", "data: $first\n    first", "step 'mined': data: .* a checkpoint, expected rows"),
        ("model: $long", "model: $long/step", r"step 'zero': model: \$long/step: expected \$STEP"),
        ("  mined:", "  tuned:", "is not YAML: 'tuned' is given twice"),
        ("  mined:", "  data:", "step 'data': expected a name"),
        ("steps:", "stages:", "expected 'steps:'"),
        ("steps:", "steps: [", "is not YAML"),
        ("$data/rows.jsonl\n    cap", "$data/none.jsonl\n    cap", r"step 'rows': .*/data/none\.jsonl does not exist"),
        ("$data/topics", "$data/none*", r"step 'figures': .*none\* does not exist"),
    ],
)
def test_a_bad_recipe_is_refused_before_anything_runs(kitchen, old, new, message):
    change(kitchen, old, new)
    shown = refused(kitchen, message)
    assert str(kitchen / "recipe.yaml") in shown


def test_an_unknown_last_step_is_refused(kitchen):
    with pytest.raises(ConfigError, match=r"until='tune': .* has rows, long"):
        cook(kitchen, until="tune")


def test_the_recipe_of_the_default_model_is_valid_and_in_order():
    steps = read_recipe(M3_SMALL)
    assert [step.stage for step in steps if step.stage != "select"] == [
        "import-base",
        "extend",
        "pretrain",
        "finetune",
        "mine",
        "finetune",
        "topics",
        "finetune",
        "finetune",
        "average",
        "project",
        "export",
    ]
    used = {name for step in steps for name in step.uses}
    assert {step.name for step in steps} - used == {"bundle"}  # nothing is made in vain


def test_the_step_left_to_gpus_is_valid_too(tmp_path):
    lines = M3_SMALL.read_text(encoding="utf-8").splitlines()
    first = lines.index("  # long:")
    block = []
    for line in lines[first:]:
        if not line.startswith("  #"):
            break
        block.append(line.replace("# ", "", 1))
    base = "steps:\n  base: {stage: import-base}\n"
    write(tmp_path, base + "\n".join(block) + "\n")
    assert [step.stage for step in read_recipe(tmp_path / "recipe.yaml")] == ["import-base", "retromae"]


def test_every_stage_that_makes_a_model_or_rows_can_be_a_step():
    assert set(RESULTS) == set(STAGES) - {"recipe", "synthesize"} | {"export"}


def test_the_exporter_knows_the_precisions():
    from onnx_export.weights import SCHEMES

    assert set(get_args(get_type_hints(ExportConfig)["precision"])) == set(SCHEMES)
