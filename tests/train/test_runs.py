"""The recorded commands in ``runs/``, with a stand-in for Python that notes them and makes what they would write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from train.__main__ import STAGES, make_parser, with_brackets

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "runs").glob("*.sh"))
TRAININGS = ("retromae", "pretrain", "finetune", "distill")
PYTHON = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
arguments = sys.argv[1:]
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps(arguments) + "\\n")
out = Path(arguments[arguments.index("--out") + 1] if "--out" in arguments else arguments[3])
assert not out.exists() or "--resume" in arguments, out
if arguments[2] == os.environ.get("INTERRUPT"):
    raise SystemExit(130)
if "--resume" in arguments:
    (out / "step-000009").mkdir(parents=True, exist_ok=True)
    (out / "step-000010").mkdir(exist_ok=True)
else:
    out.touch()
"""


@pytest.fixture
def commands(tmp_path):
    """Runs a script and returns (exit code, its commands)."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON, encoding="utf-8")
    (tmp_path / "bin" / "python").chmod(0o755)
    files = {name: f"{tmp_path}/{name.lower()}" for name in ("DATA", "OUT", "MODEL", "TEXTS", "PAIRS", "ROWS")}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def run(script: Path, **more: str) -> tuple[int, list[list[str]]]:
        notes = tmp_path / "notes.jsonl"
        notes.write_text("", encoding="utf-8")
        environment = os.environ | files | {"PATH": path, "NOTES": str(notes), "LAUNCH": "python"} | more
        done = subprocess.run(["bash", str(script)], cwd=tmp_path, env=environment, capture_output=True, check=False)
        return done.returncode, [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_command_has_options_that_exist(script, commands):
    code, found = commands(script)
    assert code == 0
    assert found[-1][:2] == ["-m", "onnx_export"]
    parser = make_parser()
    for _, module, *arguments in found[:-1]:
        assert module == "train"
        if "--config" in arguments:
            at = arguments.index("--config") + 1
            arguments[at] = str(ROOT / arguments[at])
        parsed = parser.parse_args(with_brackets(arguments))
        settings = STAGES[parsed.stage][0]
        chosen = parser.instantiate(parsed)[parsed.stage]
        settings(**{field.name: getattr(chosen, field.name) for field in fields(settings)})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_second_start_repeats_nothing_and_resumes_each_training(script, commands):
    _, first = commands(script)
    code, second = commands(script)
    assert code == 0
    assert second == [command for command in first if command[2] in TRAININGS]


def test_an_interrupted_script_resumes_at_its_step(commands):
    (script,) = (path for path in SCRIPTS if path.stem == "m3-small")
    code, begun = commands(script, INTERRUPT="mine")
    assert code == 130
    assert begun[-1][2] == "mine"
    _, rest = commands(script)
    stages = [
        "pretrain",
        "finetune",
        "mine",
        "finetune",
        "topics",
        "finetune",
        "finetune",
        "average",
        "project",
        "topics",
        "finetune",
        "average",
        "distill",
    ]
    assert [command[2] for command in rest[:-1]] == stages


def test_each_stage_starts_from_the_last_checkpoint_of_the_one_before(commands):
    (script,) = (path for path in SCRIPTS if path.stem == "m3-small")
    _, found = commands(script)
    models = [c[c.index("--model") + 1].split("/", 3)[-1] for c in found if "--model" in c and c[2] == "finetune"]
    assert models[-1].endswith("/narrow")
    assert all(name.endswith("/step-000010") for name in models[:-1])
    assert [name.split("/")[-2] for name in models[:-1]] == ["stage1", "warmup", "tuned", "tuned"]
