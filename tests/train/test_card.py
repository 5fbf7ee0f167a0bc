"""Picture and model card of a run, from logs made up here: what they show, and what they keep to themselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
import transformers
import yaml

from train.config import FinetuneConfig, LoRA, Phase, PretrainConfig, Schedule, Watch
from train.engine.card import write_card
from train.engine.plot import plot_training, read_log
from train.engine.run import Outcome
from train.retrieval.config import EvaluateOptions
from train.retromae.config import RetroMAEConfig, RetroMAESettings

HEADS = ("dense", "sparse", "multi_vector")
BARE = {"loss": 1.0, "tokens": 10.0}  # a small picture is a quick one
MODES = {"dense": 0.5, "sparse": 0.4, "all": 0.6}
THREE = Schedule(
    dense=Phase(steps=40, losses=["dense"], train=["embeddings", "encoder"], learning_rate=2e-5),
    heads=Phase(steps=40, losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"], head_learning_rate=3e-4),
    unified=Phase(steps=40, self_distill=True, train=["encoder", "sparse", "multi_vector"], freeze_layers=4),
)


def measures_of(step: int, heads: tuple[str, ...]) -> dict[str, float]:
    """Loss falls by .01 a step, accuracy rises; all exact, so that means can be computed by hand."""
    found = {"loss": 2 - step / 100, "tokens": 1000.0, "gradient_norm": 1.0, "tokens_per_second": 500.0, "padding": 0.1}
    for head in heads:
        found |= {f"loss/{head}": 3 - step / 100, f"accuracy/{head}": step / 200}
    if "sparse" in heads:
        found |= {"sparse/active_dimensions": 80.0 - step / 10, "sparse/zero_share": 0.25}
    if len(heads) == 3:
        found |= {"loss/inter": 1.0, "loss/distill": 0.5}
    return found


def write_log(out: Path, phases: list[tuple[str, int, dict[str, float] | tuple[str, ...]]]) -> None:
    """``training.jsonl`` of phases (name, steps, heads or measures), 3 seconds a step."""
    out.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for name, steps, content in phases:
        for i in range(steps):
            step = len(lines) + 1
            measures = content if isinstance(content, dict) else measures_of(step, content)
            lines.append({"step": step, "steps": 120, "phase": name, "measures": measures})
            lines[-1] |= {"learning_rate": 1e-5 * (steps - i) / steps, "seconds": 3.0}
    (out / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_evaluations(out: Path, values: dict[int, float]) -> None:
    """Step → nDCG@10 of the mode "all"; the other modes are .1 and .2 below."""
    lines = [
        {"step": step, "value": value, "mean": {m: {"nDCG@10": value - 0.6 + v, "RR": 0.25} for m, v in MODES.items()}}
        for step, value in values.items()
    ]
    for line in lines:
        line["mean"]["all"]["nDCG@10"] = line["value"]  # type: ignore[index]
    (out / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_checkpoint(out: Path, step: int, *, colbert_dim: int = 96, processes: int = 2) -> Path:
    """What the card reads of a checkpoint; the weights are not among it."""
    path = out / f"step-{step:06d}"
    (path / "state").mkdir(parents=True)
    shape = {"hidden_size": 384, "vocab_size": 190_000, "max_position_embeddings": 514, "num_hidden_layers": 12}
    (path / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    torch.save({"weight": torch.zeros(colbert_dim, 384), "bias": torch.zeros(colbert_dim)}, path / "colbert_linear.pt")
    trainer = {"position": {"step": step, "tokens": step * 1000}, "config": {}}
    (path / "state" / "trainer.json").write_text(json.dumps(trainer), encoding="utf-8")
    for rank in range(processes):
        (path / "state" / f"random-{rank}.safetensors").touch()
    return path


def finetune_config(out: Path, **changes: Any) -> FinetuneConfig:
    """Settings with absolute paths everywhere, as a real run may have."""
    rows = out.parent / "secret" / "my_rows.jsonl"
    rows.parent.mkdir(exist_ok=True)
    rows.write_text("x" * 1234, encoding="utf-8")
    options = EvaluateOptions(work=out.parent / "secret" / "work")
    watch = Watch(data=[str(out.parent / "secret" / "french"), "data/german"], every=20, options=options)
    given = {"model": out.parent / "secret" / "my_base", "data": [rows], "out": out, "phases": THREE, "watch": watch}
    return FinetuneConfig(**(given | changes))


def run_of_three(out: Path) -> None:
    """Three phases of 40 steps with evaluations, best at step 80."""
    write_log(out, [("dense", 40, HEADS[:1]), ("heads", 40, HEADS[1:]), ("unified", 40, HEADS)])
    write_evaluations(out, {40: 0.5, 80: 0.75, 120: 0.625})


def pixels(path: Path) -> np.ndarray[Any, Any]:
    """The picture, [height, width, 4]."""
    return np.asarray(matplotlib.image.imread(path))


def table(card: str, begins: str) -> dict[str, list[str]]:
    """First column → the others, of the table whose head begins so."""
    lines = card[card.index(f"| {begins}") :].split("\n\n", maxsplit=1)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells if row[0] != "---"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with cards in its last and its best checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "my_run"
    run_of_three(out)
    last, _ = write_checkpoint(out, 120), write_checkpoint(out, 80)
    (out / "best.txt").write_text("step-000080\n", encoding="utf-8")
    write_card(finetune_config(out), Outcome(last))
    return out


@pytest.fixture(scope="module")
def card(finished: Path) -> str:
    """The card of the last checkpoint."""
    return (finished / "step-000120" / "README.md").read_text(encoding="utf-8")


def test_picture_is_drawn_and_copied(finished: Path) -> None:
    image = pixels(finished / "training.png")
    assert image.shape[1] == 1540  # 14 inches
    assert 900 < image.shape[0] < 1400  # six panels in three rows
    assert len(np.unique(image[..., 0])) > 50  # lines, not a blank sheet
    for step in (80, 120):
        assert (finished / f"step-{step:06d}" / "training.png").read_bytes() == (finished / "training.png").read_bytes()


def test_no_path_of_this_machine(finished: Path, card: str) -> None:
    best = (finished / "step-000080" / "README.md").read_text(encoding="utf-8")
    for text in (card, best):
        assert "secret" not in text
        assert str(finished.parent) not in text
        assert not re.search(r"(?<![\w<.:])/(?:tmp|home|work|root)\b", text)
        assert "`my_rows.jsonl`, 1,234 bytes" in text


def test_front_matter_shape_and_training(card: str) -> None:
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "base_model": "my_base",
        "library_name": "sentence-transformers",
        "tags": ["sentence-transformers", "feature-extraction", "bge-m3", "sparse", "colbert"],
    }
    assert "# my_run, step 120" in card
    assert "fine-tuned for dense, sparse and multi-vector" in card
    assert "Dense: 384 dimensions" in card
    assert "190,000 pieces" in card
    assert "96 dimensions per token" in card
    assert "up to 512 tokens" in card
    assert "120 optimiser steps over 120,000 tokens (6.0 minutes of steps)" in card
    assert "processes: 2, seed: 0, bf16" in card
    assert f"torch {torch.__version__}, transformers {transformers.__version__}." in card
    assert "Not trained" not in card
    assert table(card, "setting")["batching.tokens"] == ["0"]


def test_phases(card: str) -> None:
    rows = table(card, "phase")
    assert rows["dense"] == ["steps: 40", "40", "2e-05", "–", "embeddings, encoder", "dense"]
    heads = "sparse, multi_vector"
    assert rows["heads"] == ["steps: 40", "40", "–", "0.0003", heads, f"{heads}, combined"]
    trained = f"encoder, {heads} without 4 lower layers"
    losses = f"dense, {heads}, combined, self-distillation"
    assert rows["unified"] == ["steps: 40", "40", "1e-05", "0.0001", trained, losses]


def test_evaluations_and_measures(card: str) -> None:
    assert "mean over `french`, `german` (test)" in card
    assert table(card, "step 120, this checkpoint |") == {
        "step 120, this checkpoint": ["nDCG@10", "RR"],
        "dense": ["0.5250", "0.2500"],
        "sparse": ["0.4250", "0.2500"],
        "all": ["0.6250", "0.2500"],
    }
    assert table(card, "step 80, the best so far by all/nDCG@10")["all"] == ["0.7500", "0.2500"]
    assert "mean of the last steps (6)" in card  # 5 % of 120: steps 115 to 120, on average 117.5
    rows = table(card, "measure")
    assert rows["loss"] == ["0.825"]
    assert rows["accuracy/sparse"] == ["0.5875"]
    assert rows["sparse/active_dimensions"] == ["68.25"]
    assert rows["tokens_per_second"] == ["500"]
    assert not {"step", "seconds", "learning_rate"} & set(rows)


def test_card_of_the_best_knows_nothing_of_later_steps(finished: Path) -> None:
    text = (finished / "step-000080" / "README.md").read_text(encoding="utf-8")
    assert "80 optimiser steps over 80,000 tokens (4.0 minutes of steps)" in text
    assert table(text, "phase")["unified"][1] == "0"
    assert "| step 80, this checkpoint, the best so far by all/nDCG@10 |" in text
    assert "step 120" not in text
    rows = table(text, "measure")
    assert rows["loss"] == ["1.215"]  # steps 77 to 80
    assert "loss/dense" not in rows  # of the phase before


@pytest.mark.parametrize(("colbert_dim", "call"), [(96, '("CHECKPOINT", colbert_dim=96)'), (384, '("CHECKPOINT")')])
def test_use(tmp_path: Path, colbert_dim: int, call: str) -> None:
    write_log(tmp_path / "run", [("unified", 1, BARE)])
    last = write_checkpoint(tmp_path / "run", 1, colbert_dim=colbert_dim)
    write_card(finetune_config(tmp_path / "run"), Outcome(last, "interrupted"))
    text = (last / "README.md").read_text(encoding="utf-8")
    assert f"BGEM3FlagModel{call}`" in text
    assert "`python -m onnx_export CHECKPOINT BUNDLE`" in text
    assert "Stopped before its regular end: interrupted." in text
    assert "Retrieval" not in text


def test_pretrain_says_which_heads_it_left(tmp_path: Path) -> None:
    out = tmp_path / "run"
    write_log(out, [("pretrain", 3, HEADS[:1])])
    config = PretrainConfig(model=tmp_path / "b", data=[tmp_path / "no.jsonl"], out=out, lora=LoRA(rank=8))
    last = write_checkpoint(out, 3)
    write_card(config, Outcome(last))
    text = (last / "README.md").read_text(encoding="utf-8")
    assert "Stage 1 of M3-Embedding" in text
    assert "Not trained in this run, but as in the base: sparse, multi_vector." in text
    assert table(text, "phase")["pretrain"] == ["epochs: 1", "3", "5e-05", "–", "adapters (LoRA)", "dense"]
    assert "- `no.jsonl`\n" in text  # which is gone, so its size is unknown


def test_retromae_is_a_base(tmp_path: Path) -> None:
    out = tmp_path / "run"
    measures = {"loss": 5.0, "loss/mlm": 2.0, "loss/decoder": 3.0, "accuracy/mlm": 0.5, "accuracy/decoder": 0.25}
    write_log(out, [("retromae", 4, measures | {"tokens": 10.0, "gradient_norm": 1.0, "tokens_per_second": 4.0})])
    settings = RetroMAESettings(max_length=512)
    config = RetroMAEConfig(model=tmp_path / "b", data=[tmp_path / "t.jsonl"], out=out, retromae=settings)
    last = write_checkpoint(out, 4)
    write_card(config, Outcome(last))
    text = (last / "README.md").read_text(encoding="utf-8")
    assert "Stage 0 of M3-Embedding" in text
    assert "python -m train pretrain --model CHECKPOINT" in text
    assert "FlagEmbedding" not in text
    assert "Not trained in this run, but as in the base: sparse, multi_vector." in text
    assert table(text, "phase")["retromae"][4:] == ["embeddings, encoder, decoder, MLM head", "MLM, decoder"]
    assert table(text, "setting")["retromae.encoder_mask"] == ["0.3"]
    assert table(text, "measure")["accuracy/decoder"] == ["0.25"]
    assert pixels(out / "training.png").shape[0] < 900  # two rows: nothing is sparse


def test_no_checkpoint_no_card_and_no_log_no_picture(tmp_path: Path) -> None:
    out = tmp_path / "run"
    write_log(out, [("unified", 2, HEADS)])
    write_card(finetune_config(out), Outcome(out, "interrupted"))
    assert [path.name for path in out.iterdir()] == ["training.jsonl"]
    (out / "training.jsonl").unlink()
    last = write_checkpoint(out, 5)
    assert plot_training(out) is None
    write_card(finetune_config(out), Outcome(last))
    text = (last / "README.md").read_text(encoding="utf-8")
    assert "training.png" not in text
    assert "5 optimiser steps" in text


def test_log_has_columns_and_phases(tmp_path: Path) -> None:
    run_of_three(tmp_path)
    log = read_log(tmp_path, last=50)
    assert log.phases == [("dense", slice(0, 40)), ("heads", slice(40, 50))]
    assert np.isnan(log.columns["loss/sparse"][:40]).all()
    assert log.columns["loss/sparse"][40] == 3 - 0.41


ODD = measures_of(1, HEADS) | {"gradient_norm": float("nan"), "loss/dense": float("inf")}


@pytest.mark.parametrize(
    "phases",
    [[("unified", 1, HEADS)], [("dense", 5, HEADS[:1]), ("unified", 5_000, HEADS)], [("unified", 3, ODD)]],
    ids=["one step", "many steps", "not finite"],
)
def test_every_log_can_be_drawn_without_its_torn_last_line(tmp_path: Path, phases: list[Any]) -> None:
    write_log(tmp_path, phases)
    write_evaluations(tmp_path, {2: 0.5})
    for name in ("training.jsonl", "evaluations.jsonl"):
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write('{"step": 121, "measures": {"lo')
    assert len(read_log(tmp_path).columns["step"]) == sum(steps for _, steps, _ in phases)
    path = plot_training(tmp_path)
    assert path is not None
    assert pixels(path).shape[1] == 1540


def test_drawing_leaves_global_state_alone(tmp_path: Path) -> None:
    write_log(tmp_path, [("unified", 2, BARE)])
    code = f"""
import sys
from pathlib import Path
from train.engine.plot import plot_training
assert plot_training(Path({str(tmp_path)!r}))
assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
