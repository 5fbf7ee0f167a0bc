"""Packed representations: padding and specials are gone, texts keep what is theirs, whoever stands beside them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m3_vdb import scoring
from m3_vdb.encoding import pooling
from m3_vdb.encoding.tokenizer import SPECIAL_IDS
from m3_vdb.types import SparseVector
from tests.train._toy import random_model, random_representations, random_token_batch
from train.config import HEADS
from train.contrastive.representations import Representations, concatenate, owners, pack_output, spans
from train.contrastive.scores import lexical_scores, multi_vector_scores
from train.model import M3Output

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=40, deadline=None, derandomize=True)


def padded_output(seed: int, texts: int) -> tuple[M3Output, Tensor, Tensor]:
    """(output, ids, mask): few ids and many specials; padding has other ids, weights and wild vectors too."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, texts)
    shape = (texts, int(lengths.max()) + 1)
    mask = np.arange(shape[1]) < lengths[:, None]
    vectors = rng.normal(size=(*shape, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[~mask] *= 100
    output = M3Output(
        torch.from_numpy(rng.normal(size=(texts, 6)).astype(np.float32)),
        torch.from_numpy(np.maximum(rng.normal(size=shape), 0).astype(np.float32)),
        torch.from_numpy(vectors[:, 1:]),
    )
    return output, torch.from_numpy(rng.integers(0, 12, shape)), torch.from_numpy(mask.astype(np.int64))


def assert_equal(actual: Representations, expected: Representations) -> None:
    for field in fields(Representations):
        torch.testing.assert_close(
            getattr(actual, field.name), getattr(expected, field.name), rtol=0, atol=0, msg=field.name
        )


@FEW
@given(SEEDS)
def test_a_packed_output_scores_as_the_pooled_vectors_of_serving(seed):
    sides = [padded_output(seed, 3), padded_output(seed + 1, 4)]
    q, p = (pack_output(*side, HEADS) for side in sides)

    def pooled(output: M3Output, ids: Tensor, mask: Tensor) -> tuple[list[SparseVector], list[np.ndarray]]:
        lengths = mask.sum(1).numpy().astype(np.int32)
        sparse = pooling.pool_sparse(ids.numpy(), (output.token_weights * mask).numpy())
        rows = pooling.pool_multi_vector(output.multi_vector.numpy(), lengths)
        parts = (np.split(values, sparse.offsets[1:-1]) for values in (sparse.ids, sparse.values))
        vectors = [SparseVector(i, w) for i, w in zip(*parts, strict=True)]
        return vectors, np.split(rows.values, rows.offsets[1:-1])

    (q_sparse, q_rows), (p_sparse, p_rows) = (pooled(*side) for side in sides)
    expected = [[scoring.lexical_score(a, b) for b in p_sparse] for a in q_sparse]
    np.testing.assert_allclose(lexical_scores(q, p), expected, atol=1e-5)
    expected = [[scoring.multi_vector_score(a, b) for b in p_rows] for a in q_rows]
    np.testing.assert_allclose(multi_vector_scores(q, p), expected, atol=1e-6)


def test_a_packed_output_that_can_be_checked_by_eye():
    ids = torch.tensor([[0, 7, 3, 7, 2], [0, 9, 2, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    output = M3Output(
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.arange(10.0).view(2, 5),
        torch.arange(8.0).view(2, 4, 1),
    )
    packed = pack_output(output, ids, mask, HEADS)
    assert len(packed) == 2
    assert packed.dense is output.dense
    assert packed.ids.tolist() == [7, 7, 9]
    assert packed.weights.tolist() == [1.0, 3.0, 6.0]
    assert packed.id_counts.tolist() == [2, 1]
    assert packed.rows.flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]  # <s> is not there, </s> is
    assert packed.row_counts.tolist() == [4, 2]


@pytest.mark.parametrize("special", SPECIAL_IDS)
def test_special_ids_never_score(special):
    output = M3Output(torch.ones(1, 1), torch.tensor([[9.0, 2.0]]), torch.ones(1, 1, 1))
    packed = pack_output(output, torch.tensor([[special, 40]]), torch.ones(1, 2, dtype=torch.int64), HEADS)
    assert lexical_scores(packed, packed).tolist() == [[4.0]]


def test_padding_that_spells_an_ordinary_id_never_scores():
    output = M3Output(torch.ones(2, 1), torch.tensor([[2.0, 5.0], [3.0, 3.0]]), torch.ones(2, 1, 1))
    ids, mask = torch.tensor([[40, 41], [40, 41]]), torch.tensor([[1, 0], [1, 1]])
    packed = pack_output(output, ids, mask, ("sparse",))
    assert lexical_scores(packed, packed).tolist() == [[4.0, 6.0], [6.0, 18.0]]


def test_zero_padding_does_not_lift_negative_similarities_to_zero():
    rows = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[-0.6, 0.8], [0.0, 0.0]]])  # what a padded encoder often gives
    output = M3Output(torch.ones(2, 1), torch.ones(2, 3), rows)
    packed = pack_output(output, torch.full((2, 3), 5), torch.tensor([[1, 1, 0], [1, 1, 0]]), HEADS)
    torch.testing.assert_close(multi_vector_scores(packed, packed), torch.tensor([[1.0, -0.6], [-0.6, 1.0]]))


def test_heads_that_are_not_in_use_are_empty():
    output, ids, mask = padded_output(0, 3)
    whole = pack_output(output, ids, mask, HEADS)
    for head in HEADS:
        packed = pack_output(output, ids, mask, (head,))
        assert len(packed) == 3
        assert packed.dense.shape == (3, 6 if head == "dense" else 0)
        assert len(packed.weights) == len(packed.ids) == (len(whole.ids) if head == "sparse" else 0)
        assert len(packed.rows) == (len(whole.rows) if head == "multi_vector" else 0)
        assert packed.id_counts.tolist() == (whole.id_counts.tolist() if head == "sparse" else [0] * 3)
        assert packed.row_counts.tolist() == (whole.row_counts.tolist() if head == "multi_vector" else [0] * 3)


def test_nothing_depends_on_who_shared_a_forward_pass():
    model = random_model()
    ids, mask = random_token_batch(5, 9, seed=3)
    together = pack_output(model(ids, mask), ids, mask, HEADS)
    alone = []
    for text in range(5):
        length = int(mask[text].sum())
        one = ids[text : text + 1, :length], mask[text : text + 1, :length]
        alone.append(pack_output(model(*one), *one, HEADS))
    joined = concatenate(alone)
    for field in fields(Representations):
        actual, expected = getattr(joined, field.name), getattr(together, field.name)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4, msg=field.name)


@FEW
@given(SEEDS, st.lists(st.integers(0, 4), max_size=8))
def test_taking_texts_and_joining_them_again(seed, numbers):
    packed = random_representations(seed, 5)
    singles = [packed.take(torch.tensor([text])) for text in range(5)]
    assert_equal(concatenate(singles), packed)
    assert [len(single) for single in singles] == [1] * 5
    ends = packed.id_counts.cumsum(0).tolist()
    assert singles[4].ids.tolist() == packed.ids[ends[3] :].tolist()
    if numbers:
        assert_equal(packed.take(torch.tensor(numbers)), concatenate([singles[text] for text in numbers]))


def test_taking_none_leaves_none():
    none = random_representations(0, 3).take(torch.tensor([], dtype=torch.int64))
    assert (len(none), len(none.ids), len(none.rows)) == (0, 0, 0)


def test_owners_and_spans_by_eye():
    counts = torch.tensor([2, 0, 3])
    assert owners(counts).tolist() == [0, 0, 2, 2, 2]
    assert spans(counts, torch.tensor([2, 1, 0, 2])).tolist() == [2, 3, 4, 0, 1, 2, 3, 4]


def test_leaves_are_cut_off_from_the_model_and_collect_gradients():
    model = random_model()
    batch = random_token_batch(3, 6)
    packed = pack_output(model(*batch), *batch, HEADS)
    leaves = packed.leaves()
    assert_equal(leaves, packed)
    sum((tensor**2).sum() for tensor in leaves.differentiable).backward()
    for tensor in leaves.differentiable:
        torch.testing.assert_close(tensor.grad, 2 * tensor.detach())
    assert model.sparse_linear.weight.grad is None


def test_gradients_go_back_to_the_positions_that_were_kept():
    output, ids, mask = padded_output(1, 4)
    weights, rows = output.token_weights.requires_grad_(), output.multi_vector.requires_grad_()
    packed = pack_output(output, ids, mask, HEADS)
    (packed.weights.sum() + packed.rows.sum()).backward()
    kept = mask.bool() & (ids > 3)
    assert torch.equal(weights.grad, kept.float())
    assert torch.equal(rows.grad, mask[:, 1:, None].expand_as(rows).float())
