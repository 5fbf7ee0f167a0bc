"""The recorded commands in ``runs/``, with a stand-in for Python that notes them and makes what they would write.

Those of the default model run as they are, too, on few rows and a tiny base.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from multiprocessing.connection import Client, Listener
from pathlib import Path
from threading import Thread

import pytest
from transformers import XLMRobertaConfig, XLMRobertaModel
from typer.testing import CliRunner

from m3_vdb import M3EmbeddingFunction
from onnx_export.__main__ import app as export
from tests.conftest import TINY_WORDS, tiny_pieces
from train.__main__ import STAGES, make_parser, with_brackets
from train.model import M3Model

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
CALLER = f"""#!{sys.executable}
import os, sys
from multiprocessing.connection import Client
with Client(os.environ["CALLS"], "AF_UNIX") as call:
    call.send(sys.argv[1:])
    raise SystemExit(call.recv())
"""
"""Has its command run by the test's process, where torch is imported already."""


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


def rows(kind: str, lang: str, doc_lang: str) -> Iterator[str]:
    """Lines of 40 training rows of made-up texts."""
    rng = random.Random(f"{kind} {lang}")

    def text(words: int) -> str:
        return " ".join(rng.choices(TINY_WORDS.split(), k=words))

    for number in range(40):
        row = {"query": text(4), "pos": [text(12)], "neg": [text(12) for _ in range(3)], "source": kind}
        yield json.dumps(row | {"lang": lang, "doc_lang": doc_lang, "concept": f"{kind}/{number}"}) + "\n"


def write_base(out: Path, tokenizer_json: str) -> None:
    """Six layers, 64 wide, with the tests' 231 pieces and the head that import-base would give it."""
    config = XLMRobertaConfig(
        vocab_size=len(tiny_pieces()),
        hidden_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = M3Model(XLMRobertaModel(config, add_pooling_layer=False), colbert_dim=128)
    model.save(out, tokenizer_json=tokenizer_json)


def serve_commands(address: str, script: subprocess.Popen[bytes], run: Callable[[list[str]], int]) -> int:
    """Run what a script's ``CALLER`` asks for until the script ends; return its exit code."""
    with Listener(address, "AF_UNIX") as listener:

        def tell_the_end() -> None:
            script.wait()
            with Client(address, "AF_UNIX") as call:
                call.send(None)

        Thread(target=tell_the_end, daemon=True).start()
        while True:
            with listener.accept() as call:
                if (arguments := call.recv()) is None:
                    return script.wait()
                call.send(run(arguments))


@pytest.mark.integration
def test_every_step_of_the_default_model_runs(tmp_path, train, tiny_tokenizer_json):
    """A twentieth of the steps, on few rows, in this process; a tiny base stands in for what import-base reads."""
    (tmp_path / "data").mkdir()
    for kind in ("pairs", "train", "parallel", "train_windows", "questions", "messages", "catalogues"):
        lines = [*rows(kind, "de", "en"), *rows(kind, "fr", "fr")]
        (tmp_path / "data" / f"{kind}.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(CALLER, encoding="utf-8")
    (tmp_path / "bin" / "python").chmod(0o755)
    environment = os.environ | {
        "DATA": str(tmp_path / "data"),
        "OUT": str(tmp_path / "out"),
        "SHRINK": "20",
        "CALLS": str(tmp_path / "calls"),
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }

    def run(arguments: list[str]) -> int:
        _, module, *options = arguments
        if module == "onnx_export":
            return CliRunner().invoke(export, options).exit_code
        if options[0] == "import-base":
            write_base(Path(options[-1]), tiny_tokenizer_json)
            return 0
        code, _, said = train(*options)
        assert code == 0, said
        return code

    with subprocess.Popen(["bash", str(ROOT / "runs" / "m3-small.sh")], env=environment) as script:
        assert serve_commands(environment["CALLS"], script, run) == 0
    embed = M3EmbeddingFunction(tmp_path / "out" / "bundle")
    assert embed.encode_queries(["Suche"]).multi_vector.shape[1] == 96
