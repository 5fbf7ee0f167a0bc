from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from m3_vdb.errors import BundleError
from tests.train._retromae import PIECES, SETTINGS, masked, texts, tiny_encoder
from train.retromae.masking import MaskedBatch, visibility
from train.retromae.model import DECODER_FILE, RetroMAE, decoder_state, save_decoder

SUMS = ("mlm_loss_sum", "mlm_count", "mlm_correct", "decoder_loss_sum", "decoder_count", "decoder_correct")


def tiny_model(*, dropout: float = 0.0, lm_rows: int = 512) -> RetroMAE:
    model = RetroMAE.from_encoder(tiny_encoder(dropout=dropout), seed=5, lm_rows=lm_rows)
    with torch.no_grad():  # larger than at the start of training, so that every part has an influence
        for parameter in (*model.decoder.parameters(), *model.lm_head.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.2)
    return model.train()


def objective(model: RetroMAE, batch: MaskedBatch) -> torch.Tensor:
    sums = model(batch)
    return sums.mlm_loss_sum / sums.mlm_count + sums.decoder_loss_sum / sums.decoder_count


def test_sums_are_those_of_a_plain_computation():
    """Everything after the encoder written out token by token, with transformers' own LM head."""
    from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLMHead

    model, batch = tiny_model(), masked(texts([20, 11]))
    head = XLMRobertaLMHead(model.encoder.config)
    head.load_state_dict(model.lm_head.state_dict(), strict=False)
    head.decoder.weight = model.encoder.embeddings.word_embeddings.weight
    head.decoder.bias = head.bias
    found = model(batch)
    with torch.no_grad():
        mask = (batch.input_ids != 1).long()
        states = model.encoder(input_ids=batch.masked_ids, attention_mask=mask).last_hidden_state
        loss = functional.cross_entropy(head(states).flatten(0, 1), batch.labels.flatten(), reduction="sum")
        torch.testing.assert_close(found.mlm_loss_sum, loss)
        assert int(found.mlm_correct) == int((head(states).argmax(-1) == batch.labels).sum())
        expected, correct = 0.0, 0
        for b in range(2):
            for i in range(1, int(mask[b].sum()) - 1):
                logits = head(_decoder_row(model, states[b, 0], batch, b, i))
                expected += float(functional.cross_entropy(logits, batch.input_ids[b, i]))
                correct += int(logits.argmax() == batch.input_ids[b, i])
    assert float(found.decoder_loss_sum.detach()) == pytest.approx(expected, rel=1e-5)
    assert int(found.decoder_correct) == correct
    assert (int(found.mlm_count), int(found.decoder_count)) == (batch.mlm_count, 27)
    assert all(getattr(found, name).dtype == torch.float32 for name in SUMS)


def _decoder_row(model: RetroMAE, cls: torch.Tensor, batch: MaskedBatch, b: int, i: int) -> torch.Tensor:
    decoder, embeddings = model.decoder, model.encoder.embeddings
    columns = [j for j in range(1, batch.input_ids.shape[1]) if visibility(batch)[b, i, j]]
    memory = torch.cat([cls[None], embeddings(input_ids=batch.input_ids[b : b + 1])[0, columns]])
    query = cls + embeddings.position_embeddings.weight[i + 2]
    heads = []
    width = len(query) // decoder.heads
    for h in range(decoder.heads):
        part = slice(h * width, (h + 1) * width)
        q, k, v = decoder.query(query)[part], decoder.key(memory)[:, part], decoder.value(memory)[:, part]
        heads.append(torch.softmax(k @ q / width**0.5, 0) @ v)
    states = decoder.attended_norm(query + decoder.attended(torch.cat(heads)))
    return decoder.output_norm(states + decoder.narrow(functional.gelu(decoder.wide(states))))


def test_blocked_lm_heads_give_equal_losses_and_gradients():
    batch = masked(texts([40, 33]))
    results = []
    for rows in (10_000, 7):
        model = tiny_model(lm_rows=rows)
        sums = model(batch)
        objective(model, batch).backward()
        results.append((sums, {name: p.grad for name, p in model.named_parameters()}))
    (whole, gradients), (blocked, blocked_gradients) = results
    for name in SUMS:
        torch.testing.assert_close(getattr(blocked, name), getattr(whole, name), rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        if not name.endswith("key.bias"):  # a softmax does not feel it: its gradient is rounding and nothing else
            assert float((blocked_gradients[name] - gradient).norm() / gradient.norm()) < 1e-5, name


def test_logits_are_never_held_for_more_rows_than_asked(monkeypatch):
    import train.retromae.model as module

    seen: list[int] = []

    def spy(logits, labels, **options):
        seen.append(len(logits))
        return functional.cross_entropy(logits, labels, **options)

    class Functional:
        cross_entropy = staticmethod(spy)

        def __getattr__(self, name):
            return getattr(functional, name)

    monkeypatch.setattr(module, "functional", Functional())
    saved: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        tiny_model(lm_rows=5)(masked(texts([30])))
    assert max(seen) == 5
    assert sum(seen) == 8 + 28
    assert not [shape for shape in saved if shape[-1:] == (PIECES,) and len(shape) == 2]


def test_the_decoder_reaches_the_encoder_by_its_cls_vector():
    model, batch = tiny_model(), masked(texts([20]))
    kept: list[torch.Tensor] = []

    def keep(_module, _inputs, output):
        output.last_hidden_state.retain_grad()
        kept.append(output.last_hidden_state)

    model.encoder.register_forward_hook(keep)
    model(batch).decoder_loss_sum.backward()
    gradient = kept[0].grad[0]
    assert float(gradient[0].norm()) > 1e-3
    assert not gradient[1:].any()


def test_a_row_is_not_influenced_by_its_own_token():
    """The decoder's state of row i does not move when token i's embedding does, but others' states do."""
    model, batch = tiny_model(), masked(texts([20]), replace(SETTINGS, decoder_mask=0.0))
    memory = torch.randn(1, 20, 32, requires_grad=True)
    states = model.decoder(torch.randn(1, 20, 32), memory, visibility(batch))
    for row in (1, 7, 19):
        gradient = torch.autograd.grad(states[0, row].square().sum(), memory, retain_graph=True)[0][0]
        assert not gradient[row].any()
        assert gradient[[j for j in range(20) if j != row]].norm(dim=1).min() > 0


def test_a_text_alone_and_padded_in_a_batch_gives_equal_sums():
    both = masked(texts([13, 40, 25]))
    model = tiny_model()
    together = model(both)
    parts = []
    for b, length in enumerate((13, 40, 25)):
        alone = MaskedBatch(
            both.input_ids[b : b + 1, :length],
            both.masked_ids[b : b + 1, :length],
            both.labels[b : b + 1, :length],
            both.hidden[b : b + 1, :, :length],
            both.pick[b : b + 1, :length],
        )
        parts.append(model(alone))
    for name in SUMS:
        total = sum(float(getattr(part, name).detach()) for part in parts)
        assert total == pytest.approx(float(getattr(together, name).detach()), rel=1e-5)


def test_training_on_a_repeated_pattern_lowers_both_losses():
    model = RetroMAE.from_encoder(tiny_encoder(dropout=0.1), seed=0).train()
    pattern = torch.tensor([[0, *[10, 20, 31, 44] * 5, 2], [0, *[50, 61, 72, 83] * 5, 2]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    means = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(30):
            sums = model(masked(pattern, seed=step))
            mlm, decoder = sums.mlm_loss_sum / sums.mlm_count, sums.decoder_loss_sum / sums.decoder_count
            optimiser.zero_grad()
            (mlm + decoder).backward()
            optimiser.step()
            means.append((float(mlm.detach()), float(decoder.detach())))
    first, last = (torch.tensor(means[part]).mean(0) for part in (slice(5), slice(-5, None)))
    assert (last < 0.6 * first).all(), (first, last)


def test_dropout_works_in_training_only():
    model, batch = tiny_model(dropout=0.3), masked(texts([20]))
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(model(batch).decoder_loss_sum, model(batch).decoder_loss_sum)
    model.eval()
    assert torch.equal(model(batch).decoder_loss_sum, model(batch).decoder_loss_sum)


def test_a_batch_without_content_gives_zeros_and_a_gradient():
    sums = tiny_model()(masked(texts([2, 2])))
    assert [float(getattr(sums, name).detach()) for name in SUMS] == [0.0] * 6
    (sums.mlm_loss_sum + sums.decoder_loss_sum).backward()


def test_bfloat16_gives_float32_sums_near_those_of_float32():
    batch = masked(texts([40]))
    model = tiny_model()
    exact = objective(model, batch)
    rough = RetroMAE.from_encoder(tiny_encoder().to(torch.bfloat16), seed=5)
    assert {p.dtype for p in rough.parameters()} == {torch.bfloat16}
    rough.load_state_dict(model.state_dict())
    assert rough(batch).decoder_loss_sum.dtype == torch.float32
    assert float(objective(rough, batch).detach()) == pytest.approx(float(exact.detach()), rel=0.05)


def test_a_new_decoder_depends_on_its_seed_alone():
    torch.rand(1)
    first, again, other = (RetroMAE.from_encoder(tiny_encoder(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.query.weight"], other["decoder.query.weight"])
    assert float(first["decoder.wide.weight"].std()) == pytest.approx(0.02, rel=0.1)
    assert not first["decoder.wide.bias"].any()


def test_the_decoder_survives_a_round_trip(tmp_path):
    batch = masked(texts([20]))
    model = tiny_model()
    save_decoder(model.state_dict(), tmp_path)
    again = RetroMAE.from_encoder(tiny_encoder(), seed=99)
    again.load_decoder(tmp_path)
    expected, found = model(batch), again(batch)
    assert all(torch.equal(getattr(expected, name), getattr(found, name)) for name in SUMS)


def test_the_file_holds_nothing_of_the_encoder(tmp_path):
    from safetensors.torch import load_file

    save_decoder(tiny_model().state_dict(), tmp_path)
    names = set(load_file(tmp_path / DECODER_FILE))
    assert {name.split(".")[0] for name in names} == {"decoder", "lm_head"}


def test_a_missing_damaged_or_foreign_decoder_is_refused(tmp_path):
    from safetensors.torch import save_file

    model = tiny_model()
    with pytest.raises(BundleError, match="cannot be read"):
        model.load_decoder(tmp_path)
    (tmp_path / DECODER_FILE).write_bytes(b"not safetensors")
    with pytest.raises(BundleError, match="is damaged"):
        model.load_decoder(tmp_path)
    state = decoder_state(model.state_dict())
    save_file(state | {"lm_head.bias": torch.zeros(3)}, tmp_path / DECODER_FILE)
    with pytest.raises(BundleError, match=r"lm_head\.bias \(3,\), expected \(200,\)"):
        model.load_decoder(tmp_path)
    save_file({name: t for name, t in state.items() if name != "lm_head.bias"}, tmp_path / DECODER_FILE)
    with pytest.raises(BundleError, match=r"lm_head\.bias None"):
        model.load_decoder(tmp_path)


def test_every_parameter_is_trained():
    model = tiny_model()
    objective(model, masked(texts([60]))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
