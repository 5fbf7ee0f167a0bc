"""``train.scores`` against the NumPy reference ``m3_vdb.scoring``, its gradients, and its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from m3_vdb import pooling, scoring
from m3_vdb.tokenizer import SPECIAL_IDS
from m3_vdb.types import SparseVector
from train.scores import dense_scores, lexical_scores, max_weights, multi_vector_scores

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=40, deadline=None, derandomize=True)
XLMR_VOCABULARY = 250_002


def random_tokens(rng: np.random.Generator, texts: int, *, vocabulary: int = 12) -> tuple[Tensor, Tensor]:
    """(ids, weights), padded with <pad>; few ids, so that repeats, overlaps, specials and zero weights are common."""
    lengths = rng.integers(1, 9, size=texts)
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.where(mask, rng.integers(0, vocabulary, mask.shape), 1)
    weights = np.maximum(rng.normal(size=mask.shape), 0).astype(np.float32)  # padding has weights too
    return torch.from_numpy(ids), torch.from_numpy(weights)


def random_rows(
    rng: np.random.Generator, texts: int, dim: int = 4, *, cone: bool = False
) -> tuple[Tensor, Tensor, list]:
    """(vectors, mask, real rows of each text); padding holds wild values that must not matter."""
    lengths = rng.integers(1, 7, size=texts)
    mask = np.arange(lengths.max() + 1) < lengths[:, None]
    vectors = rng.normal(size=(*mask.shape, dim)).astype(np.float32)
    if cone:
        vectors[..., 0] = np.abs(vectors[..., 0]) + 5  # near one axis: the sign of similarities can be chosen
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[~mask] *= 100
    return torch.from_numpy(vectors), torch.from_numpy(mask), [v[m] for v, m in zip(vectors, mask, strict=True)]


def test_dense_scores_are_the_inner_products_of_the_reference():
    rng = np.random.default_rng(0)
    queries, passages = (rng.normal(size=(n, 6)).astype(np.float32) for n in (3, 5))
    expected = [[scoring.dense_score(q, p) for p in passages] for q in queries]
    np.testing.assert_allclose(dense_scores(torch.tensor(queries), torch.tensor(passages)), expected, atol=1e-6)


def test_a_lexical_score_that_can_be_checked_by_eye():
    q_ids, q_weights = torch.tensor([[0, 7, 7, 9, 2]]), torch.tensor([[5.0, 0.5, 2.0, 1.0, 5.0]])
    p_ids, p_weights = torch.tensor([[0, 9, 7, 9, 8, 2]]), torch.tensor([[5.0, 0.25, 3.0, 0.5, 9.0, 5.0]])
    # id 7: max(0.5, 2) * 3, id 9: 1 * max(0.25, 0.5); <s> and </s> are in both and do not count
    assert lexical_scores(q_ids, q_weights, p_ids, p_weights).tolist() == [[2 * 3 + 1 * 0.5]]


@FEW
@given(SEEDS)
def test_lexical_scores_are_those_of_pooled_sparse_vectors(seed):
    rng = np.random.default_rng(seed)
    queries, passages = random_tokens(rng, 3), random_tokens(rng, 4)

    def pooled(ids, weights):
        packed = pooling.pool_sparse(ids.numpy(), weights.numpy())
        ends = packed.offsets[1:-1]
        parts = zip(np.split(packed.ids, ends), np.split(packed.values, ends), strict=True)
        return [SparseVector(i, w) for i, w in parts]

    expected = [[scoring.lexical_score(q, p) for p in pooled(*passages)] for q in pooled(*queries)]
    np.testing.assert_allclose(lexical_scores(*queries, *passages), expected, atol=1e-5)


@pytest.mark.parametrize("special", SPECIAL_IDS)
def test_special_ids_never_score(special):
    ids, weights = torch.tensor([[special, 40]]), torch.tensor([[9.0, 2.0]])
    assert lexical_scores(ids, weights, ids, weights).tolist() == [[4.0]]


def test_queries_without_lexical_ids_score_zero_and_stay_in_the_graph():
    ids, weights = torch.tensor([[0, 2, 1], [0, 3, 2]]), torch.ones(2, 3, requires_grad=True)
    scores = lexical_scores(ids, weights, torch.tensor([[0, 5, 2]]), torch.ones(1, 3))
    scores.sum().backward()
    assert scores.tolist() == [[0.0], [0.0]]
    assert weights.grad.eq(0).all()


def test_max_weights_sends_the_gradient_to_the_largest_position():
    weights = torch.tensor([[0.5, 2.0, 1.0, 0.25]], requires_grad=True)
    table = max_weights(torch.tensor([[7, 7, 9, 300]]), weights, torch.tensor([5, 7, 9]))
    assert table.tolist() == [[0.0, 2.0, 1.0]]
    table.sum().backward()
    assert weights.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@FEW
@given(SEEDS, st.integers(1, 200))
def test_multi_vector_scores_are_those_of_the_unpadded_reference(seed, block):
    rng = np.random.default_rng(seed)
    q_vectors, q_mask, q_rows = random_rows(rng, 3)
    p_vectors, p_mask, p_rows = random_rows(rng, 4)
    expected = [[scoring.multi_vector_score(q, p) for p in p_rows] for q in q_rows]
    scores = multi_vector_scores(q_vectors, q_mask, p_vectors, p_mask, block=block)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_padding_does_not_lift_negative_similarities_to_zero():
    rng = np.random.default_rng(1)
    q_vectors, q_mask, q_rows = random_rows(rng, 2, cone=True)
    p_vectors, p_mask, p_rows = random_rows(rng, 3, cone=True)
    p_vectors[~p_mask] = 0  # what a padded encoder output usually holds
    scores = multi_vector_scores(q_vectors, q_mask, -p_vectors, p_mask)
    expected = [[scoring.multi_vector_score(q, -p) for p in p_rows] for q in q_rows]
    assert (scores < -0.2).all()
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("block", [1, 60, 97])
def test_blocks_change_neither_scores_nor_gradients(block):
    rng = np.random.default_rng(2)
    q_vectors, q_mask, _ = random_rows(rng, 3)
    p_vectors, p_mask, _ = random_rows(rng, 7)
    weights = torch.from_numpy(rng.normal(size=(3, 7)).astype(np.float32))
    results = []
    for size in (1 << 24, block):
        q, p = (v.clone().requires_grad_() for v in (q_vectors, p_vectors))
        scores = multi_vector_scores(q, q_mask, p, p_mask, block=size)
        results.append((scores.detach(), *torch.autograd.grad((scores * weights).sum(), (q, p))))
    whole, blocked = results
    assert all(gradient.abs().max() > 0.01 for gradient in whole[1:])
    for expected, actual in zip(whole, blocked, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def test_gradients_equal_finite_differences():
    rng = np.random.default_rng(3)
    q_ids, p_ids = torch.from_numpy(rng.integers(0, 12, (2, 6))), torch.from_numpy(rng.integers(0, 12, (3, 7)))
    # distinct multiples of 0.1: the maximum of a repeated id is unique, and a difference of 1e-6 keeps it
    q_weights, p_weights = ((torch.from_numpy(rng.permutation(s[0] * s[1])).view(s) + 1) / 10 for s in ((2, 6), (3, 7)))
    inputs = (q_weights.double().requires_grad_(), p_weights.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda q, p: lexical_scores(q_ids, q, p_ids, p), inputs)

    q_vectors, q_mask, _ = random_rows(rng, 2)
    p_vectors, p_mask, _ = random_rows(rng, 3)
    vectors = (q_vectors.double().requires_grad_(), p_vectors.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda q, p: multi_vector_scores(q, q_mask, p, p_mask, block=20), vectors)
    dense = tuple(torch.from_numpy(rng.normal(size=s)).requires_grad_() for s in ((2, 4), (3, 4)))
    assert torch.autograd.gradcheck(dense_scores, dense)


class Allocations(TorchDispatchMode):
    """Sizes of everything that an operator returned, forward and backward."""

    def __init__(self):
        super().__init__()
        self.tensors: list[Tensor] = []
        self.bytes, self.largest = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor._base is None:
                self.bytes += tensor.numel() * tensor.element_size()
                self.largest = max(self.largest, tensor.numel())
        return result


@contextmanager
def allocations() -> Iterator[Allocations]:
    with Allocations() as mode:
        yield mode


def test_lexical_scores_never_hold_a_row_of_the_vocabulary():
    generator = torch.Generator().manual_seed(4)
    q_ids = torch.randint(4, XLMR_VOCABULARY, (8, 64), generator=generator)
    p_ids = torch.randint(4, XLMR_VOCABULARY, (8, 8192), generator=generator)
    p_ids[:, :64] = q_ids  # an overlap, or there is nothing to differentiate
    p_ids[0, -1] = XLMR_VOCABULARY - 1
    q_weights, p_weights = (torch.rand(ids.shape, generator=generator).requires_grad_() for ids in (q_ids, p_ids))
    with allocations() as seen:
        scores = lexical_scores(q_ids, q_weights, p_ids, p_weights)
        scores.sum().backward()
    assert p_weights.grad.count_nonzero() >= 8 * 64
    assert p_ids.numel() <= seen.largest < XLMR_VOCABULARY  # [P, Lp] is the largest tensor: no [V], let alone [P, V]
    assert seen.bytes < 200 * 2**20  # of all tensors together, so the peak is below it too
