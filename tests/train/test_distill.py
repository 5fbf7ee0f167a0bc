"""Distillation: the loss by hand, and what it brings a model that is to be exported at int4."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError
from onnx_export.weights import dequantize_matrix, quantize_matrix
from tests.train._runs import TOPICS
from train.config import Batching, Phase
from train.distill.config import DistillConfig
from train.distill.stage import Differences, distill, embedding_metric
from train.model import M3Model, M3Output

WORDS = [word for topic in TOPICS for word in topic.split()]


def settings(checkpoint: Path, folder: Path, **changes) -> DistillConfig:
    texts = folder / "texts.jsonl"
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.choice(WORDS, 1 + i % 14))} for i in range(64)]
    texts.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    base = DistillConfig(
        model=checkpoint,
        data=[texts],
        out=folder / "out",
        device="cpu",
        precision="fp32",
        batching=Batching(tokens=0, rows=16),
        micro_tokens=64,
        max_length=32,
        export_precision="int4",
        phase=Phase(
            epochs=10.0, train=["encoder", "sparse", "multi_vector"], learning_rate=3e-3, head_learning_rate=1e-3
        ),
    )
    return replace(base, **changes)


def run(config: DistillConfig):
    reports, warnings = [], []
    outcome = distill(config, report=reports.append, warn=warnings.append)
    return outcome, reports, warnings


def test_the_differences_by_hand():
    found = M3Output(
        dense=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        token_weights=torch.tensor([[0.0, 0.5, 0.0], [0.0, 1.0, 9.0]]),
        multi_vector=torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]),
    )
    wanted = M3Output(
        dense=torch.tensor([[0.6, 0.8], [0.0, 1.0]]),
        token_weights=torch.tensor([[0.0, 1.5, 0.0], [0.0, 1.0, 0.0]]),
        multi_vector=torch.tensor([[[0.0, 1.0], [0.8, 0.6]], [[0.0, 1.0], [0.0, 1.0]]]),
    )
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    differences = Differences.between(found, wanted, mask)
    assert float(differences.dense) == pytest.approx(0.4)  # 1 - 0.6 and 1 - 1
    assert float(differences.sparse) == pytest.approx(1.0)  # (0.5 - 1.5)²; 9 stands at padding
    assert float(differences.multi_vector) == pytest.approx(1.2)  # 1 - 0, 1 - 0.8, 1 - 1; the last is padding


def test_a_distilled_int4_model_is_closer_to_its_teacher(tiny_checkpoint, tmp_path):
    config = settings(tiny_checkpoint, tmp_path)
    outcome, reports, warnings = run(config)
    assert warnings == []
    losses = [report.measures["loss"] for report in reports]
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])
    assert reports[-1].measures["loss"] == pytest.approx(
        sum(reports[-1].measures[f"loss/{part}"] for part in ("dense", "sparse", "multi_vector"))
    )
    teacher, student = M3Model.load(tiny_checkpoint), M3Model.load(outcome.checkpoint)
    tokens = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json").encode(
        ["der vector search", "か な"], max_length=32
    )
    cosine = [float(a.dense @ b.dense) for a, b in zip(teacher.embed(tokens), student.embed(tokens), strict=True)]
    assert min(cosine) > 0.95


def test_what_was_distilled_is_on_the_grid_of_int4(tiny_checkpoint, tmp_path):
    config = settings(tiny_checkpoint, tmp_path, phase=Phase(steps=2, train=["encoder"], losses=["dense"]))
    outcome, _, _ = run(config)
    before, after = (M3Model.load(path).encoder.state_dict() for path in (tiny_checkpoint, outcome.checkpoint))
    name = "encoder.layer.0.output.dense.weight"
    packed, scales, _, _ = quantize_matrix(before[name].numpy())
    correction = after[name].numpy() - dequantize_matrix(packed, scales)
    assert np.linalg.matrix_rank(correction, tol=1e-4) <= 32
    assert len(after[name]) > 32, "or any matrix has that rank"


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tiny_checkpoint, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    for folder in (whole, half):
        folder.mkdir()
    phase = Phase(steps=4, train=["encoder", "sparse", "multi_vector"], learning_rate=1e-3)
    expected = M3Model.load(run(settings(tiny_checkpoint, whole, phase=phase, save_every=2))[0].checkpoint)
    config = settings(tiny_checkpoint, half, phase=phase, save_every=2)

    class StoppedError(Exception):
        pass

    def stop(report):
        if report.step == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        distill(config, report=stop, warn=print)
    found = M3Model.load(run(replace(config, resume=True))[0].checkpoint)
    for (name, one), other in zip(expected.state_dict().items(), found.state_dict().values(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"export_precision": "fp32"}, "its own teacher: give teacher"),
        ({"phase": Phase(epochs=1.0)}, "remove 'embeddings' from phase.train"),
        ({"memory": "gradcache"}, "for contrastive losses"),
        ({"micro_tokens": 0}, "cannot try sizes"),
        ({"max_length": 1}, "give at least"),
    ],
)
def test_settings_that_cannot_be(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path / "model", tmp_path, **changes)


def test_another_teacher_teaches_the_weights_themselves(tiny_checkpoint, tmp_path):
    other = M3Model.load(tiny_checkpoint)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if "encoder.layer" in name and weight.dim() == 2:
                weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    other.save(tmp_path / "other", tokenizer_json=(tiny_checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    _, reports, _ = run(settings(tiny_checkpoint, tmp_path, teacher=tmp_path / "other", export_precision="fp32"))
    losses = [report.measures["loss"] for report in reports]
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_the_metric_of_the_embeddings_is_what_an_error_costs(tiny_checkpoint):
    """By central differences: the mean square of what changes in dense vector and rows if one embedding is off."""
    model = M3Model.load(tiny_checkpoint)
    tokenizer = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(400)]
    metric = embedding_metric(model, tokenizer.encode(texts, max_length=16), first=0)
    costs, axes = np.linalg.eigh(metric)
    for cost, axis in ((costs[32], axes[:, 32]), (costs[-1], axes[:, -1])):
        found = []
        for text in texts[:20]:
            ids, mask = (torch.from_numpy(a) for a in tokenizer.encode([text], max_length=16).padded(np.array([0])))
            for place in range(ids.shape[1]):
                plus, minus = (changed_outputs(model, ids, mask, place, sign * 1e-2 * axis) for sign in (1, -1))
                found.append(np.square((plus - minus) / 2e-2).sum())
        assert np.mean(found) == pytest.approx(cost, rel=0.5)  # the metric draws one direction for a text
    assert costs[-1] > 3 * costs[32]
    assert costs[0] < 1e-6 * costs[-1], "the first LayerNorm removes what all numbers share"


@torch.no_grad()
def changed_outputs(model, ids, mask, place, error):
    """Dense vector and rows with an error in one token's embedding."""

    def add(module, inputs, output):
        output[0, place] += torch.from_numpy(error).float()
        return output

    hook = model.encoder.get_input_embeddings().register_forward_hook(add)
    output = model(ids, mask)
    hook.remove()
    return np.concatenate([output.dense.numpy().ravel(), output.multi_vector.numpy().ravel()])
