"""The objective: by hand where a person can follow, and the whole of numerics.md §4 once more in NumPy."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import torch

from tests.train._toy import random_model, random_token_batch
from train.finetune import Encoded, score_batch
from train.losses import Objective, distillation, info_nce, unified_loss

POSITIVE = torch.tensor([0, 2, 1])


def random_scores(seed: int = 0) -> list[torch.Tensor]:
    """Dense, sparse and multi-vector scores of 3 queries and 5 candidates, float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(3)]


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def objective_in_numpy(
    dense: np.ndarray, sparse: np.ndarray, multi_vector: np.ndarray, constants: Objective, *, teacher: np.ndarray
) -> dict[str, float]:
    """numerics.md §4, line by line."""
    tau = constants.temperature
    w1, w2, w3 = constants.inter_weights
    l1, l2, l3 = constants.loss_weights
    inter = w1 * dense + w2 * sparse + w3 * multi_vector
    nce = {
        name: -np.mean([log_softmax(s / tau)[row, column] for row, column in enumerate(POSITIVE.tolist())])
        for name, s in {"dense": dense, "sparse": sparse, "multi_vector": multi_vector, "inter": inter}.items()
    }
    base = (l1 * nce["dense"] + l2 * nce["sparse"] + l3 * nce["multi_vector"] + nce["inter"]) / 4
    prime = [-(teacher * log_softmax(s / tau)).sum(axis=1).mean() for s in (dense, sparse, multi_vector)]
    distill = (l1 * prime[0] + l2 * prime[1] + l3 * prime[2]) / 3
    return nce | {"distill": distill, "total": (base + distill) / 2, "without": base}


def teacher_of(scores: list[np.ndarray], constants: Objective) -> np.ndarray:
    """softmax(s_inter / τ)."""
    inter = sum(w * s for w, s in zip(constants.inter_weights, scores, strict=True))
    return np.exp(log_softmax(inter / constants.temperature))


def test_info_nce_of_two_queries_by_hand():
    scores = torch.tensor([[1.0, 0.0], [0.5, 1.5]])
    # τ = 0.5 doubles the scores: query 0 is right by 2, query 1 (positive in column 0) is wrong by 2
    expected = (log(1 + exp(-2)) + log(1 + exp(2))) / 2
    assert info_nce(scores, torch.tensor([0, 0]), 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_distillation_of_two_queries_and_three_candidates_by_hand():
    student = torch.tensor([[0.0, 0.0, 0.0], [log(2.0), 0.0, 0.0]])
    teacher = torch.tensor([[0.2, 0.3, 0.5], [0.5, 0.25, 0.25]])
    # the first student says 1/3 everywhere, the second 1/2, 1/4, 1/4
    expected = (log(3) + (0.5 * log(2) + 0.5 * log(4))) / 2
    assert distillation(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_the_defaults_are_those_of_the_paper():
    objective = Objective()
    assert (objective.temperature, objective.inter_weights, objective.loss_weights) == (0.02, (1, 0.3, 1), (1, 0.1, 1))
    assert objective.self_distill


@pytest.mark.parametrize(
    "constants",
    [
        Objective(),
        Objective(temperature=0.7, inter_weights=(0.5, 2.0, 0.25), loss_weights=(0.3, 1.5, 0.7)),
        Objective(self_distill=False),
        Objective(temperature=0.7, loss_weights=(0.3, 1.5, 0.7), self_distill=False),
    ],
)
def test_the_unified_loss_is_the_written_formula(constants):
    scores = random_scores()
    arrays = [s.numpy() for s in scores]
    expected = objective_in_numpy(*arrays, constants, teacher=teacher_of(arrays, constants))
    actual = unified_loss(*scores, POSITIVE, constants).detached()
    if not constants.self_distill:
        expected |= {"distill": 0.0, "total": expected["without"]}
    del expected["without"]
    assert actual == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("field", ["temperature", "inter_weights", "loss_weights", "self_distill"])
def test_every_constant_changes_the_total(field):
    other = {"temperature": 0.5, "inter_weights": (1, 1, 1), "loss_weights": (1, 1, 1), "self_distill": False}
    default, changed = (
        unified_loss(*random_scores(), POSITIVE, o) for o in (Objective(), Objective(**{field: other[field]}))
    )
    assert abs(default.total.item() - changed.total.item()) > 1e-3


def test_the_gradient_treats_the_teacher_as_a_constant():
    constants = Objective(temperature=0.7)
    scores = [s.requires_grad_() for s in random_scores(1)]
    unified_loss(*scores, POSITIVE, constants).total.backward()
    arrays = [s.detach().numpy() for s in scores]
    frozen = teacher_of(arrays, constants)
    step = 1e-6

    def numeric(part: int, at: tuple[int, int], *, constant: bool) -> float:
        values = []
        for sign in (1, -1):
            moved = [a.copy() for a in arrays]
            moved[part][at] += sign * step
            teacher = frozen if constant else teacher_of(moved, constants)
            values.append(objective_in_numpy(*moved, constants, teacher=teacher)["total"])
        return (values[0] - values[1]) / (2 * step)

    places = [(part, (row, column)) for part in range(3) for row in range(3) for column in range(5)]
    analytic = np.array([scores[part].grad[at].item() for part, at in places])
    detached = np.array([numeric(*place, constant=True) for place in places])
    through = np.array([numeric(*place, constant=False) for place in places])
    np.testing.assert_allclose(analytic, detached, atol=1e-7)
    assert np.abs(analytic - through).max() > 1e-3  # the test can tell the two apart


def test_the_gradient_reaches_both_heads_and_the_encoder():
    q, p, model = random_token_batch(3, 6, seed=1), random_token_batch(6, 9, seed=2), random_model()
    scores = score_batch(Encoded(*q, model(*q)), Encoded(*p, model(*p)))
    unified_loss(*scores, torch.tensor([0, 2, 4]), Objective()).total.backward()
    for head in (model.sparse_linear, model.colbert_linear):
        assert head.weight.grad.abs().max() > 1e-6


@pytest.mark.parametrize("part", [0, 1, 2])
def test_every_score_alone_moves_the_encoder(part):
    q, p, model = random_token_batch(3, 6, seed=1), random_token_batch(6, 9, seed=2), random_model()
    scores = score_batch(Encoded(*q, model(*q)), Encoded(*p, model(*p)))
    info_nce(scores[part], torch.tensor([0, 2, 4]), 0.02).backward()
    assert model.encoder.encoder.layer[0].attention.self.query.weight.grad.abs().max() > 1e-6
