"""``train.contrastive.scores`` against the NumPy reference ``m3_vdb.scoring``, their gradients, and their memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from m3_vdb import scoring
from tests.train._toy import embeddings, random_representations
from train.config import HEADS
from train.contrastive import scores
from train.contrastive.representations import Representations
from train.contrastive.scores import dense_scores, lexical_scores, max_weights, multi_vector_scores, score_matrices

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=40, deadline=None, derandomize=True)
XLMR_VOCABULARY = 250_002
MIB = 2**20
SCORES: dict[str, Callable[..., Tensor]] = {
    "dense": dense_scores,
    "sparse": lexical_scores,
    "multi_vector": multi_vector_scores,
}


def lexical(*texts: list[tuple[int, float]]) -> Representations:
    """Texts given as (id, weight) of their tokens."""
    ids, weights = zip(*[pair for text in texts for pair in text], strict=True) if any(texts) else ((), ())
    return replace(
        random_representations(0, len(texts)),
        ids=torch.tensor(ids, dtype=torch.int64),
        weights=torch.tensor(weights, dtype=torch.float32),
        id_counts=torch.tensor([len(text) for text in texts]),
    )


def with_leaves(packed: Representations, tensors: tuple[Tensor, ...]) -> Representations:
    return replace(packed, dense=tensors[0], weights=tensors[1], rows=tensors[2])


def reference(q: Representations, p: Representations) -> dict[str, np.ndarray]:
    pairs = [[scoring.score(query, passage) for passage in embeddings(p)] for query in embeddings(q)]
    return {head: np.array([[getattr(pair, head) for pair in row] for row in pairs]) for head in HEADS}


@FEW
@given(SEEDS, st.integers(1, 4), st.integers(1, 5))
def test_all_scores_are_those_of_the_reference(seed, queries, passages):
    q, p = random_representations(seed, queries), random_representations(seed + 1, passages)
    expected = reference(q, p)
    actual = score_matrices(q, p, HEADS)
    assert tuple(actual) == HEADS
    for head in HEADS:
        np.testing.assert_allclose(actual[head], expected[head], atol=1e-5, err_msg=head)


def test_only_the_heads_in_use_are_scored():
    q = random_representations(0, 2)
    assert list(score_matrices(q, q, ("sparse", "dense"))) == ["sparse", "dense"]


def test_a_lexical_score_that_can_be_checked_by_eye():
    q = lexical([(7, 0.5), (7, 2.0), (9, 1.0)], [(8, 0.5)])
    p = lexical([(9, 0.25), (7, 3.0), (9, 0.5), (8, 9.0)], [(4, 1.0)])
    # id 7: max(0.5, 2) * 3, id 9: 1 * max(0.25, 0.5); id 8: 0.5 * 9
    assert lexical_scores(q, p).tolist() == [[2 * 3 + 1 * 0.5, 0.0], [0.5 * 9, 0.0]]


def test_a_multi_vector_score_that_can_be_checked_by_eye():
    base = random_representations(0, 2)
    q = replace(base, rows=torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), row_counts=torch.tensor([2, 1]))
    p = replace(base, rows=torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.8, -0.6]]), row_counts=torch.tensor([1, 2]))
    # query 0: rows find 0.6 and 0.8 in passage 0, 1 and 0 in passage 1; query 1: −0.6, and max(−1, −0.8)
    torch.testing.assert_close(multi_vector_scores(q, p), torch.tensor([[0.7, 0.5], [-0.6, -0.8]]))


def test_padding_does_not_lift_negative_similarities():
    q, p = random_representations(1, 2, cone=True), random_representations(2, 4, cone=True)
    p = replace(p, rows=-p.rows)
    assert len(set(p.row_counts.tolist())) > 1
    negative = multi_vector_scores(q, p)
    assert (negative < -0.2).all()
    np.testing.assert_allclose(negative, reference(q, p)["multi_vector"], atol=1e-6)


def test_queries_without_lexical_ids_score_zero_and_stay_in_the_graph():
    q, p = lexical([], []), lexical([(5, 1.0)])
    q, p = (replace(side, weights=side.weights.requires_grad_()) for side in (q, p))
    matrix = lexical_scores(q, p)
    assert matrix.tolist() == [[0.0], [0.0]]
    matrix.sum().backward()
    assert p.weights.grad.tolist() == [0.0]
    assert q.weights.grad.tolist() == []


def test_one_query_without_lexical_ids_among_others_scores_zero():
    q, p = lexical([], [(5, 2.0)], []), lexical([(5, 1.5)], [])
    assert lexical_scores(q, p).tolist() == [[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]


def test_max_weights_sends_the_gradient_to_the_largest_position():
    weights = torch.tensor([0.5, 2.0, 1.0, 0.25, 0.75], requires_grad=True)
    table = max_weights(torch.tensor([7, 7, 9, 300, 7]), weights, torch.tensor([4, 1]), torch.tensor([5, 7, 9]))
    assert table.tolist() == [[0.0, 2.0, 1.0], [0.0, 0.75, 0.0]]
    table.sum().backward()
    assert weights.grad.tolist() == [0.0, 1.0, 1.0, 0.0, 1.0]


@FEW
@given(SEEDS, st.permutations(range(6)))
def test_passages_in_any_order_score_the_same(seed, order):
    q, p = random_representations(seed, 3), random_representations(seed + 1, 6)
    for head, matrix in score_matrices(q, p.take(torch.tensor(order)), HEADS).items():
        expected = score_matrices(q, p, (head,))[head][:, order]
        torch.testing.assert_close(matrix, expected, atol=1e-6, rtol=1e-6, msg=head)


def blocked(head: str, q: Representations, p: Representations, block: int) -> list[Tensor]:
    """Scores and the gradients of a weighted sum of them."""
    leaves = tuple(t.detach().clone().requires_grad_() for t in (*q.differentiable, *p.differentiable))
    matrix = SCORES[head](with_leaves(q, leaves[:3]), with_leaves(p, leaves[3:]), block=block)
    weights = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(3))
    part = {"sparse": 1, "multi_vector": 2}[head]
    return [matrix.detach(), *torch.autograd.grad((matrix * weights).sum(), (leaves[part], leaves[3 + part]))]


@pytest.mark.parametrize("block", [1, 7, 33, 60])
@pytest.mark.parametrize("head", ["sparse", "multi_vector"])
def test_blocks_change_neither_scores_nor_gradients(head, block, monkeypatch):
    q, p = random_representations(5, 3), random_representations(6, 9)
    passages_at_once, rows_at_once = [], []

    def table(ids: Tensor, weights: Tensor, counts: Tensor, vocabulary: Tensor) -> Tensor:
        if counts is not q.id_counts:
            passages_at_once.append(len(counts))
        return max_weights(ids, weights, counts, vocabulary)

    def plan(counts: Tensor, queries: int, most: int, inner: Callable[..., Any] = scores._blocks) -> Any:
        found = inner(counts, queries, most)
        passages_at_once.extend(len(passages) for passages, _, _ in found)
        rows_at_once.append(queries)
        return found

    monkeypatch.setattr(scores, "max_weights", table)
    monkeypatch.setattr(scores, "_blocks", plan)
    whole = blocked(head, q, p, 1 << 24)
    assert set(passages_at_once) == {9}
    assert set(rows_at_once) <= {int(q.row_counts.sum())}
    passages_at_once.clear()
    rows_at_once.clear()
    parts = blocked(head, q, p, block)
    assert max(passages_at_once) < 9
    assert head == "sparse" or max(rows_at_once) < int(q.row_counts.sum())
    assert all(gradient.abs().max() > 0.01 for gradient in whole[1:])
    for expected, actual in zip(whole, parts, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("head", "part"), [("dense", 0), ("sparse", 1), ("multi_vector", 2)])
def test_gradients_equal_finite_differences(head, part):
    q, p = random_representations(7, 2, longest=4), random_representations(8, 3, longest=4)
    assert set(q.ids.tolist()) & set(p.ids.tolist())
    rng = np.random.default_rng(9)
    # distinct multiples of 0.1: the maximum of a repeated id is unique, and a difference of 1e-6 keeps it
    q, p = (replace(side, weights=torch.from_numpy((rng.permutation(len(side.ids)) + 1) / 10)) for side in (q, p))
    leaves = tuple(side.differentiable[part].double().requires_grad_() for side in (q, p))
    name = ("dense", "weights", "rows")[part]
    for options in [{}] if head == "dense" else [{}, {"block": 5}]:

        def score(of_q: Tensor, of_p: Tensor, options: dict[str, int] = options) -> Tensor:
            return SCORES[head](replace(q, **{name: of_q}), replace(p, **{name: of_p}), **options)

        assert score(*leaves).dtype == torch.float64
        assert torch.autograd.gradcheck(score, leaves), options


class Allocations(TorchDispatchMode):
    """What operators return, forward and backward: sizes of all of it, and how much is alive at once.

    Args:
        inputs: these do not count.
    """

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self._inputs = [tensor.untyped_storage() for tensor in inputs]
        self._known = {StorageWeakRef(storage) for storage in self._inputs}
        self._alive: dict[StorageWeakRef, int] = {}
        self.bytes, self.largest, self.peak = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := StorageWeakRef(tensor.untyped_storage())) not in self._known:
                if storage not in self._alive:
                    self._alive[storage] = tensor.untyped_storage().nbytes()
                    self.bytes += self._alive[storage]
                self.largest = max(self.largest, tensor.numel())
        self.peak = max(self.peak, self.alive())
        return result

    def alive(self) -> int:
        """Bytes that somebody still holds."""
        self._alive = {storage: size for storage, size in self._alive.items() if not storage.expired()}
        return sum(self._alive.values())


def long_texts(texts: int, length: int, *, width: int = 1, seed: int = 4) -> Representations:
    """As an encoder would give them, with ids over all of XLM-R's vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(texts * length, width, generator=generator)
    return Representations(
        torch.zeros(texts, 0),
        torch.randint(4, XLMR_VOCABULARY, (texts * length,), generator=generator),
        torch.rand(texts * length, generator=generator).requires_grad_(),
        torch.full((texts,), length),
        (rows / rows.norm(dim=1, keepdim=True)).requires_grad_(),
        torch.full((texts,), length),
    )


def test_lexical_scores_never_hold_a_row_of_the_vocabulary():
    q, p = long_texts(8, 64), long_texts(8, 8192, seed=5)
    p.ids.view(8, 8192)[:, :64] = q.ids.view(8, 64)  # an overlap, or there is nothing to differentiate
    p.ids[-1] = XLMR_VOCABULARY - 1
    with Allocations() as seen:
        lexical_scores(q, p).sum().backward()
    assert p.weights.grad.count_nonzero() >= 8 * 64
    assert p.ids.numel() <= seen.largest < XLMR_VOCABULARY  # [T] is the largest tensor: no [V], let alone [P, V]
    assert seen.bytes < 200 * MIB  # of all tensors together, so the peak is below it too


def test_tables_of_many_passages_are_never_held_at_once():
    q, p = long_texts(32, 64), long_texts(1024, 16, seed=5)
    p.ids.view(1024, 16)[:, :8] = q.ids.view(32, 64)[0, :8]
    table = 1024 * 2000  # [P, U] has a few more numbers
    peaks = {}
    for block in (table // 20, 2 * table):
        with Allocations() as seen:
            lexical_scores(q, p, block=block).sum().backward()
        assert p.weights.grad.count_nonzero() >= 1024
        assert (seen.largest <= table // 20) == (block < table)
        peaks[block < table] = seen.peak
    assert peaks[False] > 2 * 4 * table  # the table and its gradient
    assert peaks[True] < 4 * table / 2


def similarities_kept(q: Representations, p: Representations) -> Tensor:
    """What autograd makes of the formula, for texts of equal lengths."""
    similarity = (q.rows @ p.rows.T).view(len(q), -1, len(p), int(p.row_counts[0]))
    return similarity.softmax(-1).amax(-1).mean(1)


@pytest.mark.parametrize(("score", "frugal"), [(multi_vector_scores, True), (similarities_kept, False)])
def test_multi_vector_scores_keep_no_similarity_for_the_backward_pass(score, frugal):
    q, p = long_texts(8, 64, width=64), long_texts(8, 8192, width=64, seed=5)
    similarities = 8 * 64 * 8 * 8192 * 4  # 128 MiB
    inputs = (*vars_of(q), *vars_of(p))
    ours = {StorageWeakRef(tensor.untyped_storage()) for tensor in inputs}
    saved = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal saved
        if StorageWeakRef(tensor.untyped_storage()) not in ours:
            saved += tensor.numel() * tensor.element_size()
        return tensor

    with Allocations(*inputs) as seen, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        matrix = score(q, p)
        kept = seen.alive()
        if frugal:  # the other one is only there to show that keeping is noticed
            matrix.sum().backward()
    assert (saved < 2 * MIB) == frugal, saved
    assert (kept < 2 * MIB) == frugal, kept  # by whatever means it is kept
    assert (saved >= similarities and kept >= similarities) != frugal
    if frugal:
        assert seen.peak < 200 * MIB, seen.peak
        assert q.rows.grad.abs().max() > 0.01
        assert (p.rows.grad.abs().sum(1) > 0).sum() > 8


def vars_of(packed: Representations) -> tuple[Tensor, ...]:
    return (packed.dense, packed.ids, packed.weights, packed.id_counts, packed.rows, packed.row_counts)
