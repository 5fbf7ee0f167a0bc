"""Settings: the defaults, what is refused and by which name, and their JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

from m3_vdb.errors import ConfigError
from train.config import (
    EDGES,
    HEADS,
    Batching,
    FinetuneConfig,
    LoRA,
    Objective,
    Phase,
    PretrainConfig,
    Refresh,
    RunConfig,
    Schedule,
    Watch,
    as_json,
)
from train.edit_config import ImportBaseConfig, ProjectConfig
from train.retrieval.config import EvaluateOptions

FILES: dict[str, Any] = {"model": Path("model"), "data": [Path("rows.jsonl")], "out": Path("out")}


def run(**changes: Any) -> RunConfig:
    return RunConfig(**FILES | changes)


def finetune(**changes: Any) -> FinetuneConfig:
    return FinetuneConfig(**FILES | changes)


def pretrain(**changes: Any) -> PretrainConfig:
    return PretrainConfig(**FILES | changes)


RANGES: dict[str, tuple[list[float], list[float], list[tuple[Callable[..., Any], str]]]] = {
    "must be positive": (
        [0, -1, -0.5],
        [1],
        [
            *((Batching, "scale"), (Objective, "temperature"), (Objective, "reranker_temperature"), (Watch, "every")),
            *((run, "accumulate"), (run, "max_grad_norm"), (run, "workers"), (finetune, "group_size")),
        ],
    ),
    "must not be negative": (
        [-1, -1e-9],
        [0, 1],
        [
            *((Batching, "tokens"), (Batching, "rows"), (Objective, "reranker_weight"), (LoRA, "rank")),
            *((Phase, "steps"), (Phase, "epochs"), (Phase, "learning_rate"), (Phase, "head_learning_rate")),
            *((Watch, "patience"), (run, "micro_tokens"), (run, "weight_decay"), (run, "save_every"), (run, "keep")),
            (Refresh, "every"),
        ],
    ),
    "a share between 0 and 1": (
        [-1e-9, 1.1],
        [0, 1],
        [(run, "dropout"), (run, "warmup"), (LoRA, "dropout"), (pretrain, "shuffle")],
    ),
}
"""What is said → (values that are refused, values that are allowed, settings)."""
CASES = [(*case, said, *values) for said, (*values, cases) in RANGES.items() for case in cases]


@pytest.mark.parametrize(("make", "name", "said", "bad", "good"), CASES, ids=lambda value: str(value)[:20])
def test_a_number_out_of_its_range_is_refused_by_name(make, name, said, bad, good):
    for value in bad:
        with pytest.raises(ConfigError, match=rf"^{name}={value}: {said}$"):
            make(**{name: value})
    for value in good:
        make(**{name: value})


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "edges beside a table": (lambda: Batching(table="finetune", edges=[10]), r"batching\.edges=\[10\].*has its own"),
    "edges fall": (lambda: Batching(edges=[100, 50]), r"batching\.edges=\[100, 50\]"),
    "an edge twice": (lambda: Batching(edges=[50, 50]), r"batching\.edges"),
    "an edge at zero": (lambda: Batching(edges=[0, 50]), r"batching\.edges"),
    "no losses": (lambda: Phase(losses=[]), r"losses=\[\]"),
    "no parts": (lambda: Phase(train=[]), r"train=\[\]"),
    "one head twice": (
        lambda: Phase(losses=["dense", "dense"], train=["encoder"], self_distill=True),
        r"losses=\['dense', 'dense'\]: each head once",
    ),
    "sparse without its loss": (
        lambda: Phase(losses=["dense"], train=["encoder", "sparse"]),
        "'sparse' without its loss: add it to losses",
    ),
    "multi_vector without its loss": (
        lambda: Phase(losses=["dense", "sparse"], train=["encoder", "multi_vector"]),
        "'multi_vector' without its loss: add it to losses",
    ),
    "self-distillation of one": (
        lambda: Phase(losses=["dense"], train=["encoder"], self_distill=True),
        r"self_distill needs at least two losses .*\['dense'\]",
    ),
    "frozen layers below moving embeddings": (
        lambda: Phase(freeze_layers=2),
        "freeze_layers .*remove 'embeddings' from train",
    ),
    "a metric without a measure": (lambda: Watch(metric="all"), r"watch\.metric='all': .*MODE/MEASURE"),
    "a metric of no mode": (lambda: Watch(metric="best/nDCG@10"), r"watch\.metric='best/nDCG@10': .*\bmulti_vector\b"),
    "a metric of no measure": (lambda: Watch(metric="all/nDCG@11"), r"watch\.metric='all/nDCG@11': .*\bnDCG@10\b"),
    "a metric that is not evaluated": (
        lambda: Watch(options=EvaluateOptions(modes=("dense",))),
        r"watch\.metric='all/nDCG@10': .*one of dense and",
    ),
    "no data": (lambda: run(data=[]), "data is empty"),
    "short queries": (lambda: run(query_max_length=2), "query_max_length=2, passage_max_length=8192: at least 3"),
    "short passages": (lambda: run(passage_max_length=2), "query_max_length=512, passage_max_length=2: at least 3"),
    "nothing to pretrain": (
        lambda: pretrain(phase=Phase(losses=["dense"], train=["encoder"])),
        "phase has neither steps nor epochs",
    ),
    "nothing to fine-tune": (
        lambda: finetune(phases=Schedule(unified=Phase())),
        "all phases are skipped: .*steps or epochs",
    ),
    "a dense loss that moves nothing": (  # with the parts that there are, another check comes first
        lambda: Phase(losses=["dense"], train=["dense"]),  # type: ignore[list-item]
        "dense loss trains nothing without the encoder: add 'encoder' to train",
    ),
    "fewer frozen layers than none": (lambda: Phase(freeze_layers=-1), "freeze_layers=-1: must not be negative"),
    "what every run refuses, in stage 1": (lambda: pretrain(data=[]), "data is empty"),
    "what every run refuses, in stage 2": (lambda: finetune(workers=0), "workers=0"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_work_is_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_limits_at_their_bounds_are_allowed():
    assert Batching(tokens=0, rows=1).limits()[0] == (1, None)
    assert Batching(edges=[]).limits() == [(None, 16_384)]
    assert Batching(edges=[1, 2]).limits() == [(None, 16_384)] * 3
    assert replace(Batching(), table="pretrain").bounds == list(EDGES) != Batching().bounds
    assert run(query_max_length=3, passage_max_length=3, dropout=None).dropout is None
    assert (pretrain(shuffle=0).shuffle, pretrain(shuffle=1).shuffle) == (0, 1)
    assert Phase(freeze_layers=2, train=["encoder", "sparse"]).freeze_layers == 2
    assert Phase(losses=["dense", "sparse"], train=["sparse"]).skipped
    assert Phase(losses=["dense"], train=["embeddings"], epochs=0.5).skipped is False
    assert Watch(metric="dense/R@100", options=EvaluateOptions(modes=("dense",))).metric == "dense/R@100"


def test_defaults_are_those_of_the_paper_and_the_readme():
    config = finetune()
    assert config.group_size == 8  # a positive and seven hard negatives
    rates = {"learning_rate": 1e-5, "head_learning_rate": 1e-4}
    assert config.phases == Schedule(
        dense=Phase(losses=["dense"], train=["embeddings", "encoder"], **rates),
        heads=Phase(losses=["sparse", "multi_vector"], train=["sparse", "multi_vector"], **rates),
        unified=Phase(epochs=1.0, self_distill=True, **rates),
    )
    objective = config.objective
    assert (objective.temperature, objective.reranker_weight, objective.reranker_temperature) == (0.02, 0.0, 1.0)
    assert (objective.inter_weights, objective.loss_weights) == ((1.0, 0.3, 1.0), (1.0, 0.1, 1.0))
    assert (objective.symmetric, objective.mask_duplicates) == (False, True)
    assert (config.batching.tokens, config.batching.rows, config.batching.table) == (0, 0, "none")
    assert config.batching.edges == [64, 128, 256, 500, 1000, 2000, 3000, 4000, 5000, 6000, 7000]
    assert (config.query_max_length, config.passage_max_length, config.micro_tokens) == (512, 8192, 8192)
    assert (config.precision, config.attention, config.memory, config.on_bad_row) == ("bf16", "auto", "plain", "stop")
    assert (config.warmup, config.weight_decay, config.max_grad_norm, config.dropout) == (0.1, 0.01, 1.0, 0.0)
    assert (config.lora.rank, config.refresh.every, config.watch.data) == (0, 0, [])
    assert (config.refresh.options.negatives, config.refresh.options.modes) == (7, ("dense", "sparse"))
    assert (config.watch.metric, config.watch.patience) == ("all/nDCG@10", 0)


def test_the_defaults_of_pre_training_are_those_of_the_paper():
    config = pretrain()
    assert config.shuffle == 0.002
    assert (config.warmup, config.weight_decay) == (0.1, 0.01)
    assert (config.query_max_length, config.passage_max_length) == (512, 8192)
    assert config.phase == Phase(epochs=1.0, losses=["dense"], train=["embeddings", "encoder"], learning_rate=5e-5)


def test_a_schedule_runs_its_phases_in_order_without_the_skipped_ones():
    one = Phase(steps=1)
    assert list(Schedule()) == [("unified", Schedule().unified)]
    assert [name for name, _ in Schedule(unified=one, heads=one, dense=one)] == ["dense", "heads", "unified"]
    assert list(Schedule(dense=one, unified=Phase())) == [("dense", one)]


def test_defaults_are_not_shared():
    first, second = finetune(), finetune()
    first.phases.unified.losses.append("dense")
    first.batching.edges.append(1)
    assert second.phases.unified.losses == list(HEADS)
    assert second.batching.edges == Batching().edges != first.batching.edges


@pytest.mark.parametrize(
    "config",
    [
        finetune(data=[Path("a"), Path("b/c")], watch=Watch(data=["x"]), refresh=Refresh(every=5, corpus=Path("c"))),
        pretrain(dropout=None, batching=Batching(table="pretrain", scale=0.01)),
        ImportBaseConfig(Path("out")),
        ProjectConfig(Path("model"), Path("data"), Path("out")),
    ],
    ids=lambda config: type(config).__name__,
)
def test_settings_are_plain_json(config):
    written = as_json(config)
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert set(written) == {field.name for field in fields(config)}


def test_json_tells_settings_apart_and_settings_do_not_change():
    written = [as_json(c) for c in (finetune(), finetune(seed=1), finetune(objective=Objective(temperature=0.03)))]
    assert written[0] == as_json(finetune())
    assert written[0] != written[1] != written[2] != written[0]
    with pytest.raises(FrozenInstanceError):
        finetune().seed = 1  # type: ignore[misc]
