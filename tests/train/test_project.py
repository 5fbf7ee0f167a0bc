"""Narrowing the multi-vector head of a trained model."""

from __future__ import annotations

import pytest
import torch

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError
from train.edit import principal_directions, project, token_rows
from train.model import M3Model


@pytest.fixture(scope="module")
def trained(tiny_checkpoint) -> tuple[M3Model, Tokenizer]:
    """16-wide rows of the tiny checkpoint."""
    return M3Model.load(tiny_checkpoint), Tokenizer.from_file(tiny_checkpoint / "tokenizer.json")


def test_the_strongest_direction_of_four_rows_can_be_seen_by_eye():
    rows = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    # uncentred: opposite rows strengthen each other, so y (3 rows) comes before x (1 row), and z never occurs
    torch.testing.assert_close(principal_directions(rows, 2).abs(), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))


def test_all_directions_together_only_rotate(trained, tiny_texts):
    model, tokenizer = trained
    before = token_rows(model, tokenizer, tiny_texts)
    rotated = project(model, tokenizer, tiny_texts, model.colbert_dim)
    after = token_rows(rotated, tokenizer, tiny_texts, batch_size=3)
    assert len(before) == sum(tokenizer.count(tiny_texts)) - len(tiny_texts)
    assert not torch.allclose(after, before, atol=0.1)
    torch.testing.assert_close(after @ after.T, before @ before.T, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_narrow_head_cuts_the_rotated_rows_and_leaves_the_rest_alone(trained, tiny_texts):
    model, tokenizer = trained
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    narrow = project(model, tokenizer, tiny_texts, 5)
    assert narrow.colbert_dim == narrow.colbert_linear.weight.shape[0] == 5
    ids = torch.tensor([[0, 9, 17, 30, 2]])
    one, two = model(ids, torch.ones_like(ids)), narrow(ids, torch.ones_like(ids))
    assert torch.equal(one.dense, two.dense)
    assert torch.equal(one.token_weights, two.token_weights)
    directions = principal_directions(token_rows(model, tokenizer, tiny_texts), 5)
    cut = one.multi_vector @ directions.T
    torch.testing.assert_close(two.multi_vector, cut / cut.norm(dim=-1, keepdim=True), atol=1e-5, rtol=0)
    assert all(torch.equal(tensor, old[name]) for name, tensor in model.state_dict().items())


def test_principal_directions_keep_more_of_the_scores_than_the_first_coordinates(trained, tiny_texts):
    model, tokenizer = trained
    rows = token_rows(model, tokenizer, tiny_texts)
    exact = rows @ rows.T
    kept = rows @ principal_directions(rows, 5).T
    first = rows[:, :5]
    assert (kept @ kept.T - exact).norm() < 0.8 * (first @ first.T - exact).norm()


@pytest.mark.parametrize("dim", [0, 17])
def test_a_head_cannot_become_empty_or_wider(trained, tiny_texts, dim):
    with pytest.raises(ConfigError, match=f"colbert_dim={dim}: expected 1 … 16"):
        project(*trained, tiny_texts, dim)
