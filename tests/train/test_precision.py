"""``MasterWeights``: what bfloat16 loses, the master copy keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from train.precision import MasterWeights


def make_model() -> nn.Sequential:
    """Two layers, the first frozen; every weight is 1 + 2⁻¹⁰, which bfloat16 rounds to 1."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1 + 2**-10)
    return model


def test_bfloat16_works_on_rounded_weights_and_saves_exact_ones():
    model = make_model()
    master = MasterWeights(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(p.eq(1).all() for p in model.parameters())
    assert master.names == ["1.weight", "1.bias"]
    state = master.state()
    assert state.keys() == dict(model.named_parameters()).keys()
    assert all(t.dtype == torch.float32 and t.eq(1 + 2**-10).all() and not t.requires_grad for t in state.values())


def test_steps_too_small_for_bfloat16_add_up_in_the_master():
    model = make_model()
    master = MasterWeights(model, torch.bfloat16)
    optimiser = torch.optim.SGD(master.master, lr=2**-11)
    seen = []
    for _ in range(8):
        (-model(torch.ones(1, 3, dtype=torch.bfloat16))[0, 0]).backward()
        master.take_gradients(max_norm=1e9)
        optimiser.step()
        master.publish()
        seen.append(model[1].bias[0].item())
    assert seen[0] == 1.0  # the step is lost in the working copy …
    assert seen[-1] > 1.0  # … and arrives once enough of them have come together
    assert master.state()["1.bias"][0].item() == pytest.approx(1 + 2**-10 + 8 * 2**-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_are_clipped_and_the_norm_before_is_returned(dtype):
    model = make_model()
    master = MasterWeights(model, dtype)
    model[1].weight.grad = torch.zeros(2, 4, dtype=dtype)
    model[1].weight.grad[0, 0] = 3
    model[1].bias.grad = torch.tensor([4.0, 0.0], dtype=dtype)
    assert master.take_gradients(max_norm=1.0) == pytest.approx(5.0)
    assert master.master[0].grad[0, 0].item() == pytest.approx(0.6)
    assert master.master[1].grad.tolist() == pytest.approx([0.8, 0.0])
    master.publish()
    assert all(p.grad is None for p in [*model.parameters(), *master.master])


def test_in_float32_master_and_model_are_the_same_tensors():
    model = make_model()
    master = MasterWeights(model, torch.float32)
    assert all(m is p for m, p in zip(master.master, model[1].parameters(), strict=True))
