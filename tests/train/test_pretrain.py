"""Stages 0 and 1 end to end on a tiny model."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from m3_vdb.errors import ConfigError, DocumentError
from onnx_export.checkpoint import read_tokenizer
from tests.train._runs import TOPICS, tensors
from tests.train.test_resume import Killed
from train.config import Batching, Objective, Phase, PretrainConfig
from train.contrastive.stages import contrastive
from train.data.store import Lengths, RowStore
from train.engine.processes import Processes
from train.engine.run import Run
from train.model import M3Model
from train.retromae.config import RetroMAEConfig, RetroMAESettings
from train.retromae.masking import MaskedBatch
from train.retromae.model import DECODER_FILE
from train.retromae.stage import MaskedTexts, RetroMAETask, retromae


def write_pairs(path: Path) -> Path:
    rows = [{"query": topic, "pos": [f"{topic} of the document {i}"]} for i, topic in enumerate(TOPICS * 3)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def write_texts(path: Path) -> Path:
    texts = [{"text": " ".join([topic, "the vector search of one document and one query"] * 3)} for topic in TOPICS * 2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(text, ensure_ascii=False) for text in texts), encoding="utf-8")
    return path


def pairs_config(checkpoint: Path, folder: Path) -> PretrainConfig:
    return PretrainConfig(
        model=checkpoint,
        data=[write_pairs(folder / "pairs.jsonl")],
        out=folder / "out",
        device="cpu",
        precision="fp32",
        batching=Batching(tokens=0, rows=8),
        query_max_length=16,
        passage_max_length=32,
        phase=Phase(steps=12, losses=["dense"], train=["encoder"], learning_rate=1e-3),
    )


def texts_config(checkpoint: Path, folder: Path) -> RetroMAEConfig:
    return RetroMAEConfig(
        model=checkpoint,
        data=[write_texts(folder / "texts.jsonl")],
        out=folder / "out",
        device="cpu",
        precision="fp32",
        batching=Batching(tokens=300),
        micro_tokens=150,
        retromae=RetroMAESettings(max_length=100, decoder_masks=8),
        phase=Phase(steps=16, losses=["dense"], train=["embeddings", "encoder"], learning_rate=2e-3),
        dropout=0.1,
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_pairs_are_learned_and_only_the_encoder_moves(tiny_checkpoint, tmp_path, symmetric):
    reports = []
    settings = replace(pairs_config(tiny_checkpoint, tmp_path), objective=Objective(symmetric=symmetric))
    outcome = contrastive(settings, report=reports.append, warn=pytest.fail)
    losses = [report.measures["loss"] for report in reports]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert all(5 < report.measures["candidates"] <= 8 for report in reports)  # answers to equal queries are left out
    before, after = tensors(tiny_checkpoint), tensors(outcome.checkpoint)
    for name in ("sparse_linear.weight", "colbert_linear.weight", "encoder.embeddings.word_embeddings.weight"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(
        before["encoder.encoder.layer.0.output.dense.weight"], after["encoder.encoder.layer.0.output.dense.weight"]
    )


def test_retromae_learns_extends_positions_and_keeps_the_heads(tiny_checkpoint, tmp_path):
    reports = []
    outcome = retromae(texts_config(tiny_checkpoint, tmp_path), report=reports.append, warn=pytest.fail)
    for term in ("loss/mlm", "loss/decoder"):
        values = [report.measures[term] for report in reports]
        assert sum(values[-4:]) < 0.8 * sum(values[:4]), term
    assert reports[0].measures["loss"] == pytest.approx(
        reports[0].measures["loss/mlm"] + reports[0].measures["loss/decoder"]
    )
    model = M3Model.load(outcome.checkpoint)
    assert model.max_length == 100
    assert (outcome.checkpoint / DECODER_FILE).is_file()
    assert torch.equal(model.sparse_linear.weight, M3Model.load(tiny_checkpoint).sparse_linear.weight)


def test_a_killed_retromae_run_goes_on_bit_by_bit_with_its_decoder(tiny_checkpoint, tmp_path):
    whole = retromae(texts_config(tiny_checkpoint, tmp_path / "whole"), report=lambda r: None, warn=pytest.fail)
    settings = replace(texts_config(tiny_checkpoint, tmp_path / "killed"), save_every=3)
    settings = replace(settings, data=[tmp_path / "whole" / "texts.jsonl"])

    def stop(report):
        if report.step == 8:
            raise Killed

    with pytest.raises(Killed):
        retromae(settings, report=stop, warn=pytest.fail)
    reports = []
    resumed = retromae(replace(settings, resume=True), report=reports.append, warn=pytest.fail)
    assert reports[0].step == 7
    expected, found = tensors(whole.checkpoint), tensors(resumed.checkpoint)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    files = [(outcome.checkpoint / DECODER_FILE).read_bytes() for outcome in (whole, resumed)]
    assert files[0] == files[1]


def test_sub_batches_give_the_gradients_of_the_whole_batch(tiny_checkpoint, tmp_path):
    settings = replace(texts_config(tiny_checkpoint, tmp_path), micro_tokens=10_000, dropout=0.0)
    tokenizer_json = read_tokenizer(tiny_checkpoint)
    store = RowStore(settings.data, tokenizer_json, Lengths(60, 60), kind="texts")
    run = Run(settings, tokenizer_json, Processes(settings), report=lambda step: None, warn=pytest.fail)
    task = RetroMAETask(run, M3Model.load(tiny_checkpoint), store)
    task.begin(settings.phase)
    (whole,) = task.collate(np.arange(7), epoch=0, share=1.0).parts
    fields = [field.name for field in dataclasses.fields(whole)]
    halves = [MaskedBatch(*(getattr(whole, name)[rows] for name in fields)) for rows in (slice(0, 3), slice(3, 7))]
    found = []
    for parts in ([whole], halves):
        task.model.zero_grad()
        batch = MaskedTexts(parts, 1, 1)
        measures = task.step(task.model, batch, settings.phase, scale=1.0, sync=lambda last: nullcontext())
        found.append(
            (measures.sums, {name: p.grad.clone() for name, p in task.model.named_parameters() if p.grad is not None})
        )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    largest = max(gradient.norm() for gradient in found[0][1].values())
    for name, gradient in found[0][1].items():
        assert (found[1][1][name] - gradient).norm() <= 1e-5 * max(gradient.norm(), 1e-2 * largest), name


def test_text_without_text_is_named(tiny_checkpoint, tmp_path):
    settings = texts_config(tiny_checkpoint, tmp_path)
    settings.data[0].write_text('{"text": "good"}\n{"txt": "bad"}\n')
    with pytest.raises(DocumentError, match=r"texts\.jsonl, line 2: expected"):
        retromae(settings, report=lambda r: None, warn=pytest.fail)


def test_gradcache_has_no_meaning_for_retromae():
    with pytest.raises(ConfigError, match="gradcache"):
        RetroMAEConfig(model=Path("m"), data=[Path("d")], out=Path("o"), memory="gradcache")
