"""Changes to a model without training: more positions, a mean of several models, a narrower multi-vector head."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import ConfigError
from onnx_export.checkpoint import read_tokenizer
from tests.train._retromae import texts, tiny_encoder
from train.edit import average, extend_positions, move_towards, principal_directions, project, token_rows
from train.edit_config import AverageConfig
from train.model import M3Model

# --- positions


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


# --- the mean of several models


@pytest.fixture
def shifted(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with 1 added to every number."""
    model = M3Model.load(tiny_checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.save(tmp_path / "shifted", tokenizer_json=read_tokenizer(tiny_checkpoint))
    return tmp_path / "shifted"


def test_a_quarter_of_a_model_that_is_one_higher_is_a_quarter_higher(tiny_checkpoint, shifted):
    model, tokenizer = average([tiny_checkpoint, shifted], [3.0, 1.0])
    before = M3Model.load(tiny_checkpoint).state_dict()
    after = model.state_dict()
    assert tokenizer == read_tokenizer(tiny_checkpoint)
    for name, _ in model.named_parameters():
        torch.testing.assert_close(after[name], before[name] + 0.25, atol=1e-6, rtol=0)


def test_order_and_scale_of_the_weights_change_nothing(tiny_checkpoint, shifted):
    paths = [tiny_checkpoint, shifted, tiny_checkpoint]
    one = average(paths, [1.0, 2.0, 5.0])[0].state_dict()
    other = average([*reversed(paths)], [0.5, 0.2, 0.1])[0].state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=0)


def test_the_command_writes_a_checkpoint(tiny_checkpoint, shifted, tmp_path, train):
    code, _, said = train("average", "--models", f'["{tiny_checkpoint}", "{shifted}"]', "--out", tmp_path / "mean")
    assert code == 0, said
    expected = average([tiny_checkpoint, shifted], [1.0, 1.0])[0].state_dict()
    for name, tensor in M3Model.load(tmp_path / "mean").state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_layers_move_towards_the_base_and_nothing_else_moves(tiny_checkpoint, shifted, tmp_path, train):
    wide = M3Model.load(shifted)
    extend_positions(wide.encoder, wide.max_length + 8, how="repeat")  # the base may have other positions and heads
    M3Model(wide.encoder, colbert_dim=3).save(tmp_path / "base", tokenizer_json=read_tokenizer(shifted))
    options = ["--models", f'["{tiny_checkpoint}"]', "--base", tmp_path / "base", "--base_share", "0.25"]
    code, _, said = train("average", *options, "--out", tmp_path / "nearer")
    assert code == 0, said
    before = M3Model.load(tiny_checkpoint).state_dict()
    for name, tensor in M3Model.load(tmp_path / "nearer").named_parameters():
        step = 0.25 if ".encoder.layer." in name else 0.0
        torch.testing.assert_close(tensor, before[name] + step, atol=1e-6, rtol=0, msg=name)


def test_a_base_of_other_layers_is_refused(tiny_checkpoint, tmp_path):
    model = M3Model.load(tiny_checkpoint)
    del model.encoder.encoder.layer[-1]
    model.encoder.config.num_hidden_layers -= 1
    model.save(tmp_path / "short", tokenizer_json=read_tokenizer(tiny_checkpoint))
    with pytest.raises(ConfigError, match="short has other encoder layers than the models"):
        move_towards(M3Model.load(tiny_checkpoint), tmp_path / "short", 0.5)
    with pytest.raises(ConfigError, match="expected a number between 0 and 1"):
        AverageConfig(models=[tiny_checkpoint], base=tmp_path / "short", base_share=1.5, out=tmp_path / "x")


def test_what_cannot_be_averaged_is_refused(tiny_checkpoint, shifted, tmp_path):
    with pytest.raises(ConfigError, match="expected two checkpoints or more"):
        AverageConfig(models=[tiny_checkpoint], out=tmp_path / "x")
    for weights in ([1.0], [1.0, 0.0], [1.0, float("inf")], [float("nan"), 1.0]):
        with pytest.raises(ConfigError, match="expected 2 positive numbers"):
            AverageConfig(models=[tiny_checkpoint, shifted], weights=weights, out=tmp_path / "x")
    model = M3Model.load(tiny_checkpoint)
    narrow = M3Model(model.encoder, colbert_dim=4)
    narrow.save(tmp_path / "narrow", tokenizer_json=read_tokenizer(tiny_checkpoint))
    with pytest.raises(ConfigError, match="narrow has another tokenizer or other tensors"):
        average([tiny_checkpoint, tmp_path / "narrow"], [1.0, 1.0])
    shutil.copytree(tiny_checkpoint, tmp_path / "words")
    path = tmp_path / "words" / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="words has another tokenizer or other tensors"):
        average([tiny_checkpoint, tmp_path / "words"], [1.0, 1.0])


# --- a narrower multi-vector head


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


def test_principal_directions_keep_more_than_first_coordinates(trained, tiny_texts):
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
