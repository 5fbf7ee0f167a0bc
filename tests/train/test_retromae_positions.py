from __future__ import annotations

import pytest
import torch

from m3_vdb.errors import ConfigError
from tests.train._retromae import texts, tiny_encoder
from train.edit import extend_positions


def run(encoder, ids):
    with torch.no_grad():
        return encoder(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state


@pytest.mark.parametrize("how", ["repeat", "interpolate"])
def test_texts_of_the_new_length_run_and_the_configuration_follows(how, tmp_path):
    encoder = tiny_encoder(max_length=16).eval()
    extend_positions(encoder, 41, how=how)
    assert encoder.config.max_position_embeddings == 43
    ids = texts([41, 30])
    states = run(encoder, ids)
    assert states.shape == (2, 41, 32)
    encoder.save_pretrained(tmp_path)
    again = type(encoder).from_pretrained(tmp_path, add_pooling_layer=False).eval()
    assert torch.equal(run(again, ids), states)


def test_repeating_leaves_short_texts_as_they_were_to_the_bit():
    encoder = tiny_encoder(max_length=16).eval()
    ids = texts([16, 9])
    before = run(encoder, ids)
    extend_positions(encoder, 40, how="repeat")
    assert torch.equal(run(encoder, ids), before)


def test_repeated_rows_are_the_present_ones_in_order():
    encoder = tiny_encoder(max_length=16)
    old = encoder.embeddings.position_embeddings.weight.detach().clone()
    extend_positions(encoder, 40, how="repeat")
    new = encoder.embeddings.position_embeddings
    assert torch.equal(new.weight[:18], old)
    assert torch.equal(new.weight[18:34], old[2:])
    assert torch.equal(new.weight[34:], old[2:10])
    assert new.padding_idx == 1
    assert new.weight.requires_grad


def test_interpolated_rows_lie_between_the_present_ones():
    encoder = tiny_encoder(max_length=16)
    old = encoder.embeddings.position_embeddings.weight.detach().clone()
    extend_positions(encoder, 31, how="interpolate")  # (31 − 1) / (16 − 1) = 2 steps for each old one
    new = encoder.embeddings.position_embeddings.weight.detach()
    assert torch.equal(new[:2], old[:2])
    torch.testing.assert_close(new[2::2], old[2:])
    torch.testing.assert_close(new[3::2], (old[2:-1] + old[3:]) / 2)


def test_the_table_keeps_dtype_and_frozenness():
    encoder = tiny_encoder(max_length=16).to(torch.bfloat16).requires_grad_(False)
    extend_positions(encoder, 20, how="interpolate")
    table = encoder.embeddings.position_embeddings.weight
    assert table.dtype == torch.bfloat16
    assert not table.requires_grad


@pytest.mark.parametrize("how", ["repeat", "interpolate"])
def test_the_same_length_changes_nothing(how):
    encoder = tiny_encoder(max_length=16).eval()
    ids = texts([16])
    before = run(encoder, ids)
    extend_positions(encoder, 16, how=how)
    assert torch.equal(run(encoder, ids), before)


def test_shortening_is_refused():
    with pytest.raises(ConfigError, match="max_length=15: the encoder reads 16 tokens"):
        extend_positions(tiny_encoder(max_length=16), 15, how="repeat")
