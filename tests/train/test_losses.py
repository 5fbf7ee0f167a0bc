"""The objective: by hand where a person can follow, and the whole of numerics.md §4 once more in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train._toy import random_model, random_representations, random_token_batch
from train.config import HEADS, Objective
from train.contrastive.batch import Anchored, Batch, Order, batch_losses
from train.contrastive.losses import Losses, Targets, distillation, info_nce, inter_scores, unified_loss
from train.contrastive.representations import pack_output
from train.contrastive.scores import score_matrices
from train.data.store import token_batch

POSITIVE = torch.tensor([0, 2, 1])
NONE = torch.zeros(3, 5, dtype=torch.bool)
SOME = torch.tensor([[0, 0, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
OWN = torch.tensor([[0.7, 0.2, 0, 0.1, 0], [0, 0, 0, 0, 0], [0, 0.5, 0, 0, 0.5]], dtype=torch.float64)
"""A reranker's probabilities; it has not seen the second query."""
CONSTANTS = [
    Objective(),
    Objective(temperature=0.7, inter_weights=(0.5, 2.0, 0.25), loss_weights=(0.3, 1.5, 0.7)),
]
SUBSETS = [
    HEADS,
    ("dense", "sparse"),
    ("sparse", "multi_vector"),
    ("multi_vector", "dense"),
    ("dense",),
    ("sparse",),
    ("multi_vector",),
]


def random_scores(seed: int = 0, heads: tuple[Any, ...] = HEADS) -> dict[Any, Tensor]:
    """Scores of 3 queries and 5 candidates by head, float64; a head has the same whatever others are asked for."""
    generator = torch.Generator().manual_seed(seed)
    scores = {head: torch.randn(3, 5, generator=generator, dtype=torch.float64) for head in HEADS}
    return {head: scores[head] for head in heads}


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())


def written_formula(
    scores: Mapping[str, np.ndarray],
    targets: Targets,
    constants: Objective,
    *,
    self_distill: bool,
    reverse: tuple[Mapping[str, np.ndarray], Targets] | None = None,
    teacher: list[np.ndarray] | None = None,
) -> dict[str, float]:
    """numerics.md §4, line by line; an excluded candidate is no candidate. ``teacher`` replaces softmax(s_inter/τ)."""
    tau = constants.temperature
    w = dict(zip(HEADS, constants.inter_weights, strict=True))
    lam = dict(zip(HEADS, constants.loss_weights, strict=True)) | {"inter": 1.0}

    def rows(scores: Mapping[str, np.ndarray], targets: Targets, name: str) -> list[np.ndarray]:
        """log softmax(s/τ) of every query over its candidates; excluded ones are −∞."""
        s = scores[name] if name in scores else sum(w[head] * scores[head] for head in scores)
        found = []
        for line, out in zip(s, targets.excluded.numpy(), strict=True):
            found.append(np.full(len(line), -np.inf))
            found[-1][~out] = log_softmax(line[~out] / tau)
        return found

    def nce(scores: Mapping[str, np.ndarray], targets: Targets, name: str) -> float:
        return -np.mean(
            [line[p] for line, p in zip(rows(scores, targets, name), targets.positive.tolist(), strict=True)]
        )

    def cross_entropy(shares: list[np.ndarray], logs: list[np.ndarray]) -> float:
        return -np.mean([(p[p > 0] * line[p > 0]).sum() for p, line in zip(shares, logs, strict=True)])

    def weighted(terms: Mapping[str, float]) -> float:
        return sum(lam[name] * value for name, value in terms.items())

    names = [*scores, "inter"] if len(scores) > 1 else [*scores]
    terms = {name: nce(scores, targets, name) for name in names}
    if reverse:
        terms = {name: (value + nce(*reverse, name)) / 2 for name, value in terms.items()}
    total = weighted(terms) / len(names)
    own_teacher = [np.exp(line) for line in rows(scores, targets, names[-1])]
    teacher = teacher or own_teacher
    if self_distill:
        distill = weighted({head: cross_entropy(teacher, rows(scores, targets, head)) for head in scores}) / len(scores)
        terms["distill"] = distill
        total = (total + distill) / 2
    if targets.reranker is not None and constants.reranker_weight:
        shares = list(targets.reranker.numpy())
        seen = targets.reranker > 0
        only_own = replace(targets, excluded=targets.excluded | ~seen)
        for row in range(len(shares)):  # a query without scores has no candidates, and adds 0
            only_own.excluded[row] &= seen[row].any()
        found = {head: cross_entropy(shares, rows(scores, only_own, head)) for head in scores}
        terms["reranker"] = weighted(found) / len(scores)
        total += constants.reranker_weight * terms["reranker"]
    entropy = -np.mean([(p[p > 0] * np.log(p[p > 0])).sum() for p in own_teacher])
    return {**terms, "total": total, "entropy": entropy}


def as_numbers(losses: Losses) -> dict[str, float]:
    numbers = {**losses.terms, "total": losses.total, "entropy": losses.entropy}
    return {name: value.item() for name, value in numbers.items()}


def arrays(scores: Mapping[Any, Tensor]) -> dict[str, np.ndarray]:
    return {head: matrix.detach().numpy() for head, matrix in scores.items()}


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


def test_a_teacher_learns_nothing():
    student, teacher = (torch.tensor([[0.25, 0.75]], requires_grad=True) for _ in range(2))
    distillation(student, teacher, 1.0).backward()
    assert student.grad.abs().max() > 0.1
    assert teacher.grad is None


def test_the_weighted_sum_by_hand():
    scores = {"multi_vector": torch.tensor([[1.0, 2.0]]), "dense": torch.tensor([[10.0, 20.0]])}
    assert inter_scores(scores, (0.5, 7.0, 3.0)).tolist() == [[8.0, 16.0]]
    assert inter_scores({"sparse": torch.tensor([[2.0]])}, (0.5, 7.0, 3.0)).tolist() == [[14.0]]


def test_the_defaults_are_those_of_the_paper():
    objective = Objective()
    assert (objective.temperature, objective.inter_weights, objective.loss_weights) == (0.02, (1, 0.3, 1), (1, 0.1, 1))
    assert (objective.symmetric, objective.mask_duplicates, objective.reranker_weight) == (False, True, 0)


@pytest.mark.parametrize("excluded", [NONE, SOME], ids=["all", "some excluded"])
@pytest.mark.parametrize("heads", SUBSETS, ids="+".join)
@pytest.mark.parametrize("constants", CONSTANTS, ids=["paper", "other"])
@pytest.mark.parametrize("self_distill", [True, False])
def test_the_unified_loss_is_the_written_formula(constants, heads, excluded, self_distill):
    scores, targets = random_scores(heads=heads), Targets(POSITIVE, excluded)
    expected = written_formula(arrays(scores), targets, constants, self_distill=self_distill)
    actual = as_numbers(unified_loss(scores, targets, constants, self_distill=self_distill))
    assert actual == pytest.approx(expected, rel=1e-9)


def test_the_sum_for_three_two_and_one_heads():
    """The same, from the terms that are reported: a person can read the divisors."""
    targets, constants = Targets(POSITIVE, NONE), CONSTANTS[1]  # λ = 0.3, 1.5, 0.7

    def of(heads: tuple[Any, ...], *, self_distill: bool = False) -> tuple[float, dict[str, float]]:
        losses = unified_loss(random_scores(heads=heads), targets, constants, self_distill=self_distill)
        return losses.total.item(), {name: term.item() for name, term in losses.terms.items()}

    total, t = of(HEADS)
    assert total == pytest.approx((0.3 * t["dense"] + 1.5 * t["sparse"] + 0.7 * t["multi_vector"] + t["inter"]) / 4)
    distilled, t = of(HEADS, self_distill=True)
    assert distilled == pytest.approx((total + t["distill"]) / 2)
    total, t = of(("sparse", "multi_vector"))
    assert total == pytest.approx((1.5 * t["sparse"] + 0.7 * t["multi_vector"] + t["inter"]) / 3)
    total, t = of(("dense",))
    assert list(t) == ["dense"]
    assert total == pytest.approx(0.3 * t["dense"])


def test_an_excluded_candidate_is_as_if_its_column_were_not_there():
    out = torch.zeros(3, 5, dtype=torch.bool)
    out[:, [0, 3]] = True
    wild = {head: matrix.masked_fill(out, 50.0) for head, matrix in random_scores().items()}
    with_them = unified_loss(
        {head: matrix.requires_grad_() for head, matrix in wild.items()},
        Targets(torch.tensor([1, 2, 1]), out),
        Objective(),
        self_distill=True,
    )
    kept = [1, 2, 4]
    without = unified_loss(
        {head: matrix.detach()[:, kept] for head, matrix in wild.items()},
        Targets(torch.tensor([0, 1, 0]), torch.zeros(3, 3, dtype=torch.bool)),
        Objective(),
        self_distill=True,
    )
    assert as_numbers(with_them) == pytest.approx(as_numbers(without), rel=1e-12)
    with_them.total.backward()
    for matrix in wild.values():
        assert matrix.grad[:, [0, 3]].eq(0).all()
        assert matrix.grad[:, kept].abs().max() > 1e-6


@pytest.mark.parametrize(("heads", "self_distill"), [(HEADS, True), (HEADS, False), (("dense",), False)])
@pytest.mark.parametrize("excluded", [NONE, SOME], ids=["all", "some excluded"])
def test_the_symmetric_loss_is_the_written_formula(heads, excluded, self_distill):
    constants = CONSTANTS[1]
    scores, targets = random_scores(heads=heads), Targets(POSITIVE, excluded)
    back = {head: matrix[:, :4] for head, matrix in random_scores(8, heads).items()}
    back_targets = Targets(torch.tensor([1, 3, 0]), torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]).bool())
    expected = written_formula(
        arrays(scores), targets, constants, self_distill=self_distill, reverse=(arrays(back), back_targets)
    )
    losses = unified_loss(scores, targets, constants, self_distill=self_distill, reverse=(back, back_targets))
    assert as_numbers(losses) == pytest.approx(expected, rel=1e-9)
    one_way = unified_loss(scores, targets, constants, self_distill=self_distill)
    assert abs(losses.total.item() - one_way.total.item()) > 1e-3


def test_the_symmetric_loss_of_two_pairs_by_hand():
    scores = {"dense": torch.tensor([[2.0, 0.0], [1.0, 3.0]])}
    targets = Targets(torch.tensor([0, 1]), torch.zeros(2, 2, dtype=torch.bool))
    back = {"dense": scores["dense"].T}
    losses = unified_loss(scores, targets, Objective(temperature=1.0), self_distill=False, reverse=(back, targets))
    rows = (log(1 + exp(-2)) + log(1 + exp(-2))) / 2  # 2 against 0, 3 against 1
    columns = (log(1 + exp(-1)) + log(1 + exp(-3))) / 2  # 2 against 1, 3 against 0
    assert losses.total.item() == pytest.approx((rows + columns) / 2, rel=1e-6)


@pytest.mark.parametrize("heads", SUBSETS, ids="+".join)
@pytest.mark.parametrize("excluded", [NONE, SOME & (OWN == 0)], ids=["all", "some excluded"])
def test_the_reranker_term_is_the_written_formula(heads, excluded):
    constants = replace(CONSTANTS[1], reranker_weight=0.4)
    scores, targets = random_scores(heads=heads), Targets(POSITIVE, excluded, OWN)
    expected = written_formula(arrays(scores), targets, constants, self_distill=False)
    actual = as_numbers(unified_loss(scores, targets, constants, self_distill=False))
    assert actual == pytest.approx(expected, rel=1e-9)
    plain = as_numbers(unified_loss(scores, Targets(POSITIVE, excluded), constants, self_distill=False))
    assert actual["total"] == pytest.approx(plain["total"] + 0.4 * actual["reranker"], rel=1e-9)


def test_the_teacher_with_an_anchor_by_hand():
    # heads of weight 1 and 0.3, an anchor of 0.7; at a temperature of 1/2 the dense score has shares 3/4 and 1/4,
    # and the mean (log 3 / 2 + 0.7 · anchor) / 2 = log 9 / 2 has 9/10 and 1/10
    scores = {"dense": torch.tensor([[log(3) / 2, 0.0]]), "sparse": torch.zeros(1, 2)}
    anchor = torch.tensor([[(log(9) - log(3) / 2) / 0.7, 0.0]])
    targets = Targets(torch.tensor([1]), torch.zeros(1, 2, dtype=torch.bool), anchor=anchor, anchor_weight=0.7)
    constants = Objective(temperature=0.5, loss_weights=(1.0, 0.0, 1.0))
    found = unified_loss(scores, targets, constants, self_distill=True).terms["distill"]
    assert found.item() == pytest.approx((0.9 * log(4 / 3) + 0.1 * log(4)) / 2, rel=1e-6)


def test_the_reranker_term_without_an_excluded_candidate():
    excluded = NONE.clone()
    excluded[0, 1] = True  # a hard negative whose text is another of the row's positives
    renormalised = OWN.clone()
    renormalised[0] = torch.tensor([0.7, 0, 0, 0.1, 0]) / 0.8
    constants = Objective(temperature=0.7, reranker_weight=1.0)
    loss, expected = (
        unified_loss(random_scores(), Targets(POSITIVE, excluded, own), constants, self_distill=False)
        for own in (OWN, renormalised)
    )
    assert loss.total.item() == pytest.approx(expected.total.item(), rel=1e-9)


def test_the_reranker_term_by_hand():
    scores = {"dense": torch.tensor([[0.0, 0.0, 9.0], [5.0, 1.0, 2.0]])}
    own = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]])
    targets = Targets(torch.tensor([0, 1]), torch.zeros(2, 3, dtype=torch.bool), own)
    losses = unified_loss(scores, targets, Objective(temperature=1.0, reranker_weight=2.0), self_distill=False)
    # the third passage is not the first query's own, so the student says 1/2, 1/2; the second query has no scores
    assert losses.terms["reranker"].item() == pytest.approx(log(2) / 2, rel=1e-6)
    assert losses.total.item() == pytest.approx(losses.terms["dense"].item() + log(2), rel=1e-6)


def test_the_entropy_by_hand():
    # s_inter/τ: a tie of two of three, and a certainty; the excluded fourth does not count
    scores = {
        "dense": torch.tensor([[2.0, 1.0, -100.0, 9.0], [50.0, 0.0, 0.0, 9.0]]),
        "multi_vector": torch.tensor([[0.0, 1.0, 0.0, 9.0], [0.0, 0.0, 0.0, 9.0]]),
    }
    excluded = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1]]).bool()
    losses = unified_loss(scores, Targets(torch.tensor([0, 0]), excluded), Objective(), self_distill=False)
    assert losses.entropy.item() == pytest.approx(log(2) / 2, rel=1e-5)
    alone = unified_loss(
        {"sparse": torch.zeros(2, 4)}, Targets(torch.tensor([0, 0]), excluded), Objective(), self_distill=False
    )
    assert alone.entropy.item() == pytest.approx(log(3), rel=1e-6)  # of the only head, if there is one


def test_the_gradient_treats_the_teacher_as_a_constant():
    constants, targets = Objective(temperature=0.7), Targets(POSITIVE, NONE)
    scores = {head: matrix.requires_grad_() for head, matrix in random_scores(1).items()}
    unified_loss(scores, targets, constants, self_distill=True).total.backward()
    start = arrays(scores)
    inter = sum(w * start[head] for head, w in zip(HEADS, constants.inter_weights, strict=True))
    frozen = [np.exp(log_softmax(line / constants.temperature)) for line in inter]
    step = 1e-6

    def numeric(head: str, at: tuple[int, int], *, constant: bool) -> float:
        values = []
        for sign in (1, -1):
            moved = {name: array.copy() for name, array in start.items()}
            moved[head][at] += sign * step
            teacher = frozen if constant else None
            values.append(written_formula(moved, targets, constants, self_distill=True, teacher=teacher)["total"])
        return (values[0] - values[1]) / (2 * step)

    places = [(head, (row, column)) for head in HEADS for row in range(3) for column in range(5)]
    analytic = np.array([scores[head].grad[at].item() for head, at in places])
    detached = np.array([numeric(*place, constant=True) for place in places])
    through = np.array([numeric(*place, constant=False) for place in places])
    np.testing.assert_allclose(analytic, detached, atol=1e-7)
    assert np.abs(analytic - through).max() > 1e-3  # the test can tell the two apart


def test_the_entropy_is_no_part_of_the_graph():
    scores = {head: matrix.requires_grad_() for head, matrix in random_scores().items()}
    assert not unified_loss(scores, Targets(POSITIVE, NONE), Objective(), self_distill=True).entropy.requires_grad


def encoded(heads: tuple[Any, ...]):
    model, q, p = random_model(), random_token_batch(3, 6, seed=1), random_token_batch(6, 9, seed=2)
    return model, score_matrices(pack_output(model(*q), *q, heads), pack_output(model(*p), *p, heads), heads)


def test_the_gradient_reaches_both_heads_and_the_encoder():
    model, scores = encoded(HEADS)
    targets = Targets(torch.tensor([0, 2, 4]), torch.zeros(3, 6, dtype=torch.bool))
    unified_loss(scores, targets, Objective(), self_distill=True).total.backward()
    for head in (model.sparse_linear, model.colbert_linear, model.encoder.encoder.layer[0].attention.self.query):
        assert head.weight.grad.abs().max() > 1e-6


@pytest.mark.parametrize("head", HEADS)
def test_every_score_alone_moves_the_encoder(head):
    model, scores = encoded((head,))
    info_nce(scores[head], torch.tensor([0, 2, 4]), 0.02).backward()
    assert model.encoder.encoder.layer[0].attention.self.query.weight.grad.abs().max() > 1e-6


# A batch: three queries, the second of which is asked twice (rows 1 and 3); keys are texts.
GROUPS = [[10, 20, 21], [11, 22], [12, 11], [13, 10, 23, 24]]
BATCH = Batch(
    queries=token_batch([[0, 2]] * 4),
    passages=token_batch([[0, 2]] * 11),
    group_sizes=np.array([3, 2, 2, 4]),
    query_keys=np.array([1, 2, 3, 2]),
    passage_keys=np.array([key for group in GROUPS for key in group]),
    answers=np.array([[10, 23], [11, 11], [12, 12], [13, 20]]),
    reranker=np.array([3, 1, -2, *[np.nan] * 2, 0.5, 0, 2, 1, 0.25, -1], dtype=np.float32),
    share=1.0,
)
IN_ORDER = Order(torch.arange(4), torch.arange(11))
EXCLUDED = [
    #  own            row 1     row 2     row 3
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0],  # 10 once more, and its other answer 23
    [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0],  # 11 is row 2's negative; 13 answers the same question
    [0] * 11,
    [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0],  # its other answer 20; 11 answers the same question
]
"""[query, passage in the order of GROUPS]: known answers other than the one drawn. 11 in row 2 is not drawn as an
answer of row 3's question, so it stays there."""


def batch_parts(seed: int = 0):
    return random_representations(seed, 4), random_representations(seed + 1, 11)


def losses_of_batch(objective: Objective, *, batch: Batch = BATCH, order: Order = IN_ORDER, **options):
    q, p = batch_parts()
    options = {"heads": HEADS, "self_distill": True} | options
    return batch_losses(q.take(order.queries), p.take(order.passages), batch, order, objective=objective, **options)


def expected_of_batch(
    objective: Objective, *, heads: tuple[Any, ...] = HEADS, excluded: list[list[int]] = EXCLUDED, **options
) -> dict[str, float]:
    starts = torch.tensor([0, 3, 5, 7])
    scores = {head: matrix.double() for head, matrix in score_matrices(*batch_parts(), heads).items()}
    logits = torch.full((4, 11), -torch.inf, dtype=torch.float64)
    for row, (start, group) in enumerate(zip(starts.tolist(), GROUPS, strict=True)):
        logits[row, start : start + len(group)] = torch.from_numpy(BATCH.reranker)[start : start + len(group)].double()
    reranker = torch.softmax(logits / objective.reranker_temperature, 1).nan_to_num(0.0)
    targets = Targets(starts, torch.tensor(excluded).bool() & objective.mask_duplicates, reranker)
    return written_formula(arrays(scores), targets, objective, **{"self_distill": True} | options)


@pytest.mark.parametrize("heads", [HEADS, ("sparse", "multi_vector"), ("dense",)], ids="+".join)
@pytest.mark.parametrize("mask_duplicates", [True, False])
def test_a_batch_is_the_written_formula_without_known_answers(heads, mask_duplicates):
    objective = replace(CONSTANTS[1], mask_duplicates=mask_duplicates)
    losses, measures = losses_of_batch(objective, heads=heads, self_distill=len(heads) > 1)
    expected = expected_of_batch(objective, heads=heads, self_distill=len(heads) > 1)
    assert as_numbers(losses) == pytest.approx(expected, rel=1e-5)
    assert measures["candidates"].item() == pytest.approx(11 - 6 / 4 if mask_duplicates else 11)
    assert measures["excluded_share"].item() == pytest.approx(6 / 44 if mask_duplicates else 0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_reranker_scores_of_a_batch_are_softmaxed_within_each_group(temperature):
    objective = replace(CONSTANTS[1], reranker_weight=0.7, reranker_temperature=temperature)
    losses, _ = losses_of_batch(objective)
    assert as_numbers(losses) == pytest.approx(expected_of_batch(objective), rel=1e-5)
    assert losses.terms["reranker"].item() > 0.1


def test_a_passage_that_the_reranker_rules_out_stays_in_its_group():
    objective = replace(CONSTANTS[1], reranker_weight=0.7)
    terms = []
    for best in (80.0, 120.0):  # e⁻⁸⁰ is a float32, e⁻¹²⁰ is none; both are nothing
        scores = np.where(np.arange(11) == 0, np.float32(best), BATCH.reranker)
        terms.append(losses_of_batch(objective, batch=replace(BATCH, reranker=scores))[0].terms["reranker"].item())
    assert terms[0] == pytest.approx(terms[1], rel=1e-6)


def test_sub_batches_in_any_order_give_the_same_losses():
    objective = replace(CONSTANTS[1], reranker_weight=0.7, symmetric=True)
    expected, measures = losses_of_batch(objective)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        order = Order(torch.randperm(4, generator=generator), torch.randperm(11, generator=generator))
        actual, found = losses_of_batch(objective, order=order)
        assert as_numbers(actual) == pytest.approx(as_numbers(expected), rel=1e-5)
        assert {name: value.item() for name, value in found.items()} == pytest.approx(
            {name: value.item() for name, value in measures.items()}
        )


@pytest.mark.parametrize("excluded", [EXCLUDED, [[0] * 11] * 4], ids=["excluded", "all"])
def test_an_anchor_joins_the_teacher_in_any_order(excluded):
    objective = replace(CONSTANTS[1], mask_duplicates=excluded is EXCLUDED)
    generator = torch.Generator().manual_seed(3)
    anchored = Anchored(torch.randn(4, 6, generator=generator), torch.randn(11, 6, generator=generator), weight=0.6)
    scores = {head: matrix.double() for head, matrix in score_matrices(*batch_parts(), HEADS).items()}
    theirs = anchored.queries.double() @ anchored.passages.double().T
    weights = dict(zip(HEADS, objective.inter_weights, strict=True))
    mean = (sum(weights[head] * scores[head] for head in HEADS) + 0.6 * theirs) / (sum(weights.values()) + 0.6)
    out = torch.tensor(excluded).bool()
    teacher = list(torch.softmax(mean.masked_fill(out, -torch.inf) / objective.temperature, 1).numpy())
    expected = expected_of_batch(objective, excluded=excluded, teacher=teacher)
    for order in (IN_ORDER, Order(torch.randperm(4, generator=generator), torch.randperm(11, generator=generator))):
        losses, _ = losses_of_batch(objective, order=order, anchored=anchored)
        assert losses.terms["distill"].item() == pytest.approx(expected["distill"], rel=1e-5)
        assert losses.total.item() == pytest.approx(expected["total"], rel=1e-5)


def test_the_accuracy_counts_queries_whose_positive_is_first():
    texts = random_representations(0, 5)
    q = texts.take(torch.arange(4))
    # 0 and 2 find themselves as their positives, 1 as its negative; 3 as its positive, and a little longer in column 1,
    # which is another answer to it
    passages = texts.take(torch.tensor([0, 3, 4, 4, 1, 2, 4, 3, 4, 4, 4]))
    passages.dense[1] *= 1.05
    for mask_duplicates, expected in ((True, 0.75), (False, 0.5)):
        objective = Objective(mask_duplicates=mask_duplicates)
        options: dict[str, Any] = {"heads": ("dense",), "self_distill": False, "objective": objective}
        _, measures = batch_losses(q, passages, BATCH, IN_ORDER, **options)
        assert measures["accuracy/dense"].item() == expected


def asked_back(same: list[tuple[int, int]]) -> tuple[dict[str, np.ndarray], Targets]:
    """Each positive of the batch against its queries, without these pairs of (positive, query)."""
    q, p = batch_parts()
    positives = p.take(torch.tensor([0, 3, 5, 7]))
    back = {head: matrix.T for head, matrix in arrays(score_matrices(q, positives, HEADS)).items()}
    excluded = torch.zeros(4, 4, dtype=torch.bool)
    for pair in same:
        excluded[pair] = True
    return back, Targets(torch.arange(4), excluded)


def test_a_symmetric_batch_also_asks_each_positive_for_its_query():
    objective = replace(CONSTANTS[1], symmetric=True)
    losses, _ = losses_of_batch(objective)
    expected = expected_of_batch(objective, reverse=asked_back([(1, 3), (3, 1)]))  # the same question
    assert as_numbers(losses) == pytest.approx(expected, rel=1e-5)


def test_a_symmetric_batch_knows_the_answers_that_were_not_drawn():
    objective = replace(CONSTANTS[1], symmetric=True)
    answers = BATCH.answers.copy()
    answers[2] = 12, 10  # row 0's positive answers row 2 as well
    excluded = [*EXCLUDED[:2], [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], EXCLUDED[3]]
    losses, _ = losses_of_batch(objective, batch=replace(BATCH, answers=answers))
    reverse = asked_back([(1, 3), (3, 1), (0, 2)])
    expected = expected_of_batch(objective, excluded=excluded, reverse=reverse)
    assert as_numbers(losses) == pytest.approx(expected, rel=1e-5)


def test_a_symmetric_batch_counts_duplicates_where_it_is_asked_to():
    objective = replace(CONSTANTS[1], symmetric=True, mask_duplicates=False)
    losses, _ = losses_of_batch(objective)
    expected = expected_of_batch(objective, reverse=asked_back([]))
    assert as_numbers(losses) == pytest.approx(expected, rel=1e-5)


OTHER: dict[str, Any] = {
    "temperature": 0.5,
    "inter_weights": (1, 1, 1),
    "loss_weights": (1, 1, 1),
    "symmetric": True,
    "mask_duplicates": False,
    "reranker_weight": 0.75,
    "reranker_temperature": 2.0,
}


@pytest.mark.parametrize("field", [field.name for field in fields(Objective)])
def test_every_constant_changes_the_total(field):
    default = Objective(reranker_weight=0.5)
    changed = replace(default, **{field: OTHER[field]})
    totals = [losses_of_batch(objective)[0].total.item() for objective in (default, changed)]
    assert abs(totals[0] - totals[1]) > 1e-3
    assert max(totals) < 1000


def test_self_distillation_changes_the_total():
    totals = [losses_of_batch(Objective(), self_distill=flag)[0].total.item() for flag in (True, False)]
    assert abs(totals[0] - totals[1]) > 1e-3
