"""Stage 2 end to end on a tiny model."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import BundleError, ConfigError, DocumentError, ModelOutputError
from tests.train._runs import UNIFIED, config, run, tensors
from train.config import Anchor, Batching, LoRA, Objective, Phase, Schedule, Watch
from train.contrastive.anchor import with_prefix

TERMS = {"loss", "loss/dense", "loss/sparse", "loss/multi_vector", "loss/inter", "loss/distill"}


def fall(reports) -> float:
    """Loss of the last three steps as a share of that of the first three."""
    losses = [report.measures["loss"] for report in reports]
    return sum(losses[-3:]) / sum(losses[:3])


def test_the_loss_falls(trained):
    assert len(trained[1]) == 8
    assert fall(trained[1]) < 0.8
    assert all(math.isfinite(report.measures["gradient_norm"]) for report in trained[1])
    assert trained[2] == []  # nothing to warn of


def test_the_log_has_one_line_a_step_with_every_measure(trained):
    folder, reports, _ = trained
    lines = [json.loads(line) for line in (folder / "out" / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line, report in zip(lines, reports, strict=True):
        measures = line["measures"]
        assert measures == report.measures
        assert measures.keys() >= TERMS | {f"accuracy/{head}" for head in ("dense", "sparse", "multi_vector")}
        assert measures["candidates"] == 18  # 6 rows of 3 passages
        assert 0 < measures["sparse/active_dimensions"] < 24
        assert 0 <= measures["padding"] < 0.5
        assert measures["teacher_entropy"] >= 0
        assert measures["peak_memory_mib"] > 100


def test_checkpoints_are_written_and_nothing_else_is_left(trained):
    out = trained[0] / "out"
    assert {path.name for path in out.iterdir()} == {"step-000005", "step-000008", "training.jsonl"}
    state = json.loads((out / "step-000008" / "state" / "trainer.json").read_text())
    assert state["position"]["step"] == 8
    assert state["config"]["objective"]["temperature"] == 0.02
    assert not list(out.rglob("*.pkl")) + list(out.rglob("optimizer.bin"))


def test_trained_weights_move_and_frozen_ones_do_not(trained, tiny_checkpoint):
    before, after = tensors(tiny_checkpoint), tensors(trained[0] / "out" / "step-000008")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        frozen = "embeddings." in name or "encoder.layer.0." in name
        # a key bias shifts all scores of a query alike: softmax cancels it and it has no gradient
        if not name.endswith("key.bias"):
            assert torch.equal(tensor, before[name]) == frozen, name
    assert torch.isfinite(torch.cat([tensor.flatten() for tensor in after.values()])).all()


def test_the_checkpoint_carries_the_tokenizer_unchanged(trained, tiny_checkpoint):
    name = "tokenizer.json"
    assert (trained[0] / "out" / "step-000008" / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
    assert Tokenizer.from_file(trained[0] / "out" / "step-000008" / name).vocab_size > 100


def test_an_anchor_changes_what_is_learnt(tiny_checkpoint, tmp_path):
    losses = []
    for anchor in (None, Anchor(tiny_checkpoint, weight=5.0)):
        phase = replace(UNIFIED, steps=1)
        settings = config(tiny_checkpoint, tmp_path / str(len(losses)), phases=Schedule(unified=phase), anchor=anchor)
        _, reports, _ = run(settings)
        losses.append(reports[0].measures)
    plain, anchored = losses
    assert anchored["loss/dense"] == pytest.approx(plain["loss/dense"], rel=1e-6)
    assert abs(anchored["loss/distill"] - plain["loss/distill"]) > 1e-4
    assert anchored["teacher_entropy"] > plain["teacher_entropy"]


def test_a_prefix_of_the_anchor_is_as_if_it_were_in_the_text(tiny_checkpoint):
    tokenizer = Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")
    texts = ["read the file", "a", "write " * 40]
    prefix = tokenizer.encode(["query: "], max_length=16).ids[1:-1]
    found = with_prefix(tokenizer.encode(texts, max_length=64), prefix, longest=20)
    expected = tokenizer.encode([f"query: {text}" for text in texts], max_length=20)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.offsets.tolist() == expected.offsets.tolist()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_checkpoint, tmp_path):
    results = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        phases = Schedule(unified=replace(UNIFIED, steps=3))
        outcome, _, _ = run(config(tiny_checkpoint, tmp_path / name, phases=phases, seed=seed, dropout=None))
        results.append(tensors(outcome.checkpoint))
    first, again, other = results
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert not torch.equal(other["sparse_linear.weight"], first["sparse_linear.weight"])


def test_three_phases_each_train_their_parts(tiny_checkpoint, tmp_path):
    schedule = Schedule(
        dense=Phase(steps=2, losses=["dense"], train=["encoder"], learning_rate=1e-3),
        heads=Phase(
            steps=2, losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"], head_learning_rate=1e-2
        ),
        unified=replace(UNIFIED, steps=2),
    )
    _, reports, _ = run(config(tiny_checkpoint, tmp_path, phases=schedule, keep=0))
    assert [report.phase for report in reports] == ["dense"] * 2 + ["heads"] * 2 + ["unified"] * 2
    assert [report.learning_rate for report in reports][:4] == [1e-3, 1e-3, 1e-2, 1e-2]
    states = [tensors(tiny_checkpoint), *(tensors(tmp_path / "out" / f"step-{n:06d}") for n in (2, 4, 6))]
    layer, head = "encoder.encoder.layer.1.output.dense.weight", "sparse_linear.weight"
    moved = [[not torch.equal(a[name], b[name]) for a, b in itertools.pairwise(states)] for name in (layer, head)]
    assert moved == [[True, False, True], [False, True, True]]
    first, second, third = (report.measures for report in reports[::2])
    assert {name for name in first if name.startswith("loss/")} == {"loss/dense"}
    assert {name for name in second if name.startswith("loss/")} == {"loss/sparse", "loss/multi_vector", "loss/inter"}
    assert {name for name in third if name.startswith("loss/")} == TERMS - {"loss"}


def test_a_phase_may_be_given_in_epochs(tiny_checkpoint, tmp_path):
    phases = Schedule(unified=replace(UNIFIED, steps=0, epochs=1.5))
    _, reports, _ = run(config(tiny_checkpoint, tmp_path, phases=phases, accumulate=2))
    assert len(reports) == 3  # 24 rows in batches of 6, two batches a step


def test_accumulated_batches_average_their_gradients(tiny_checkpoint, tmp_path):
    # one epoch of four batches at rate 0: the mean of the single steps' losses is the accumulated step's loss
    phases = Schedule(unified=replace(UNIFIED, steps=4, learning_rate=0.0, head_learning_rate=0.0))
    _, single, _ = run(config(tiny_checkpoint, tmp_path / "a", phases=phases))
    once = Schedule(unified=replace(phases.unified, steps=1))
    _, together, _ = run(config(tiny_checkpoint, tmp_path / "b", phases=once, accumulate=4))
    mean = sum(report.measures["loss"] for report in single) / 4
    assert together[0].measures["loss"] == pytest.approx(mean, rel=1e-5)
    assert together[0].measures["tokens"] == sum(report.measures["tokens"] for report in single)


def test_weights_that_do_not_move_are_said_aloud(tiny_checkpoint, tmp_path):
    phases = Schedule(unified=replace(UNIFIED, steps=1, learning_rate=0.0, head_learning_rate=0.0))
    _, _, warnings = run(config(tiny_checkpoint, tmp_path, phases=phases, weight_decay=0.0))
    assert any("did not move" in warning and "learning rate 0" in warning for warning in warnings)


def test_bfloat16_keeps_float32_weights(tiny_checkpoint, tmp_path):
    outcome, reports, _ = run(config(tiny_checkpoint, tmp_path, precision="bf16"))
    assert fall(reports) < 0.8
    after = tensors(outcome.checkpoint)
    for name in ("encoder.encoder.layer.1.output.dense.weight", "colbert_linear.weight"):
        assert not torch.equal(after[name], after[name].bfloat16().float()), name


def test_adapters_are_trained_and_merged(tiny_checkpoint, tmp_path):
    phases = Schedule(unified=replace(UNIFIED, learning_rate=1e-2))
    outcome, reports, _ = run(config(tiny_checkpoint, tmp_path, lora=LoRA(rank=4), phases=phases))
    before, after = tensors(tiny_checkpoint), tensors(outcome.checkpoint)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    encoder = {name for name in changed if name.startswith("encoder.")}
    assert encoder == {
        f"encoder.encoder.layer.{i}.attention.self.{part}.weight" for i in (0, 1) for part in ("query", "key", "value")
    }
    delta = after["encoder.encoder.layer.1.attention.self.value.weight"]
    delta = delta - before["encoder.encoder.layer.1.attention.self.value.weight"]
    assert torch.linalg.matrix_rank(delta, rtol=1e-3) <= 4
    assert fall(reports) < 0.9


@pytest.mark.parametrize("missing", ["tokenizer.json", "sparse_linear.pt"])
def test_an_incomplete_checkpoint_is_refused(tiny_checkpoint, tmp_path, missing):
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    (copy / missing).unlink()
    with pytest.raises(BundleError, match=missing.split(".")[0]):
        run(config(copy, tmp_path / "run"))


def test_an_output_directory_with_content_is_refused_and_left_alone(tiny_checkpoint, tmp_path):
    settings = config(tiny_checkpoint, tmp_path)
    settings.out.mkdir()
    (settings.out / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match=r"is not empty.*resume"):
        run(settings)
    assert [path.name for path in settings.out.iterdir()] == ["mine.txt"]


def test_a_row_without_negatives_is_named_unless_no_group_needs_them(tiny_checkpoint, tmp_path):
    settings = config(tiny_checkpoint, tmp_path)
    rows = settings.data[0].read_text(encoding="utf-8").splitlines()
    rows[7] = json.dumps({"query": "q", "pos": ["p"], "neg": []})
    settings.data[0].write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DocumentError, match=r"rows\.jsonl, line 8: 'neg' is empty"):
        run(settings)
    shutil.rmtree(settings.out)
    _, _, warnings = run(replace(settings, on_bad_row="skip"))
    assert any("1 bad rows were skipped" in warning and "23 remain" in warning for warning in warnings)
    assert "line 8" in (settings.out / "rejected.txt").read_text()
    shutil.rmtree(settings.out)
    _, reports, warnings = run(replace(settings, group_size=1))
    assert warnings == []
    assert {report.measures["candidates"] for report in reports} == {6.0}


def test_too_few_rows_for_a_batch_are_refused(tiny_checkpoint, tmp_path):
    settings = config(tiny_checkpoint, tmp_path)
    settings.data[0].write_text(settings.data[0].read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    with pytest.raises(ConfigError, match="1 training rows give no batch of 2"):
        run(settings)


def test_repeated_positives_do_not_count_against_each_other(tiny_checkpoint, tmp_path):
    settings = config(tiny_checkpoint, tmp_path, phases=Schedule(unified=replace(UNIFIED, steps=1)))
    rows = [json.dumps({"query": f"vector {i}", "pos": ["the same"], "neg": [f"a {i}", f"b {i}"]}) for i in range(6)]
    settings.data[0].write_text("\n".join(rows), encoding="utf-8")
    _, reports, warnings = run(settings)
    assert reports[0].measures["candidates"] == 13  # of 18, the five others' positives left out
    assert any("28% of the candidates answer a query" in warning for warning in warnings)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(tiny_checkpoint, tmp_path):
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    torch.save({"weight": torch.zeros(1, 64), "bias": torch.full((1,), 3e38)}, copy / "sparse_linear.pt")
    settings = config(copy, tmp_path / "run", phases=Schedule(unified=replace(UNIFIED, self_distill=False)))
    with pytest.raises(ModelOutputError, match=r"step 1: loss nan.* on rows \[.*\] of data set") as caught:
        run(settings)
    assert 0 <= caught.value.index < 24
    assert list(settings.out.iterdir()) == []


def test_a_dying_sparse_head_is_said_aloud(tiny_checkpoint, tmp_path):
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    torch.save({"weight": torch.zeros(1, 64), "bias": torch.full((1,), -1.0)}, copy / "sparse_linear.pt")
    _, reports, warnings = run(config(copy, tmp_path / "run"))
    assert reports[0].measures["sparse/zero_share"] == 1.0
    assert sum("the head is dying" in warning for warning in warnings) == 1  # said once, not at every step


def test_tensorboard_gets_every_measure(tiny_checkpoint, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    phases = Schedule(unified=replace(UNIFIED, steps=3))
    run(config(tiny_checkpoint, tmp_path, phases=phases, trackers=["tensorboard"]))
    events = next((tmp_path / "out").rglob("events.out.tfevents.*"))
    read = EventAccumulator(str(events))
    read.Reload()
    assert len(read.Scalars("loss/sparse")) == 3
    assert set(read.Tags()["scalars"]) >= TERMS


def test_automatic_sub_batches_and_token_budgets(tiny_checkpoint, tmp_path):
    settings = config(tiny_checkpoint, tmp_path, micro_tokens=0, batching=Batching(tokens=200), memory="gradcache")
    _, reports, _ = run(settings)
    assert all(report.measures["tokens"] <= 200 for report in reports)


def test_evaluation_picks_the_best_checkpoint_and_stops_early(tiny_checkpoint, tmp_path):
    from tests.train._collections import write_collection

    folder = write_collection(tmp_path / "collection")
    watch = Watch(data=[str(folder)], every=2, patience=1)
    phases = Schedule(unified=replace(UNIFIED, steps=20, learning_rate=0.0, head_learning_rate=0.0))
    outcome, reports, lines = run(config(tiny_checkpoint, tmp_path, phases=phases, watch=watch, keep=1))
    assert outcome.stopped == "early stopping"
    assert len(reports) == 4  # nothing moves, so the second evaluation is no better than the first
    entries = [json.loads(line) for line in (tmp_path / "out" / "evaluations.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4]
    assert entries[0]["value"] == entries[1]["value"] == entries[0]["mean"]["all"]["nDCG@10"] > 0
    assert (tmp_path / "out" / "best.txt").read_text() == "step-000002\n"
    assert {path.name for path in (tmp_path / "out").glob("step-*")} == {"step-000002", "step-000004"}
    assert any("all/nDCG@10" in line for line in lines)


def test_reranker_scores_teach(tiny_checkpoint, tmp_path):
    from tests.train._runs import write_rows

    settings = config(tiny_checkpoint, tmp_path, objective=Objective(reranker_weight=1.0, reranker_temperature=2.0))
    write_rows(settings.data[0], scores=True)
    _, reports, _ = run(settings)
    terms = [report.measures["loss/reranker"] for report in reports]
    assert sum(terms[-3:]) < sum(terms[:3])
