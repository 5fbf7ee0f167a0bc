from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from m3_vdb.errors import ConfigError
from tests.train._retromae import MASK, PIECES, masked, starts_every, texts
from train.retromae import masking
from train.retromae.config import RetroMAESettings
from train.retromae.masking import IGNORED, LONGEST_WORD, is_content, mask_batch, visibility


def words_of(row: Tensor, starts: Tensor) -> list[list[int]]:
    """Positions of each word of a text by a plain loop, long runs not cut."""
    words: list[list[int]] = []
    for position in torch.nonzero(is_content(row)).flatten().tolist():
        if not words or starts[row[position]]:
            words.append([])
        words[-1].append(position)
    return words


def test_whole_words_are_masked_and_hidden_together():
    ids = texts([60, 40, 23])
    batch = masked(ids, RetroMAESettings(decoder_masks=16))
    mixed = 0
    for b, row in enumerate(ids):
        for word in words_of(row, starts_every(3)):
            if len(word) > LONGEST_WORD:
                continue
            mixed += len(word) > 1
            assert len(set((batch.labels[b, word] != IGNORED).tolist())) == 1
            assert (batch.hidden[b][:, word].sum(1) % len(word) == 0).all()
    assert mixed > 10


def test_single_tokens_are_masked_apart_when_whole_words_is_off():
    ids = texts([60])
    batch = masked(ids, RetroMAESettings(whole_words=False), step=5)
    split = [len(set((batch.labels[0, w] != IGNORED).tolist())) for w in words_of(ids[0], starts_every(5))]
    assert 2 in split


def test_a_long_run_without_word_starts_is_cut_into_spans_of_two():
    ids = texts([42])
    choice = (masked(ids, step=0).labels[0, 1:41] != IGNORED).view(20, 2)
    assert (choice[:, 0] == choice[:, 1]).all()
    assert choice.sum() == 12


def test_a_word_of_eight_tokens_stays_whole():
    ids = torch.tensor([[0, *[4] + [5] * 7, *[4] + [5] * 7, 2]])
    starts = torch.arange(PIECES) == 4
    half = RetroMAESettings(encoder_mask=0.5)
    batch = mask_batch(ids, starts, half, mask_id=MASK, generator=torch.Generator().manual_seed(1))
    assert sorted((batch.labels[0, 1:17] != IGNORED).view(2, 8).sum(1).tolist()) == [0, 8]


def test_specials_and_padding_are_never_masked_hidden_or_labelled():
    ids = texts([50, 2, 7, 3])
    for seed in range(20):
        batch = masked(ids, RetroMAESettings(encoder_mask=0.9, decoder_mask=0.9), seed=seed)
        outside = ~is_content(ids)
        assert (batch.labels[outside] == IGNORED).all()
        assert (batch.masked_ids[outside] == ids[outside]).all()
        assert not batch.hidden.transpose(1, 2)[outside].any()


def test_labels_are_the_clean_ids_exactly_where_the_input_may_differ():
    ids = texts([64] * 8)
    batch = masked(ids)
    predicted = batch.labels != IGNORED
    assert (batch.labels[predicted] == ids[predicted]).all()
    assert (batch.masked_ids[~predicted] == ids[~predicted]).all()
    assert batch.mlm_count == int(predicted.sum())
    assert batch.decoder_count == 8 * 62


def test_masked_tokens_are_replaced_80_10_10_by_ordinary_pieces():
    ids = texts([2048] * 4)
    batch = masked(ids)
    predicted = batch.labels != IGNORED
    old, new = ids[predicted], batch.masked_ids[predicted]
    other = (new != old) & (new != MASK)
    assert float((new == MASK).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((new == old).float().mean()) == pytest.approx(0.1, abs=0.03)
    assert float(other.float().mean()) == pytest.approx(0.1, abs=0.03)
    assert set(new[other].tolist()) <= set(range(4, MASK))


def test_a_mask_id_in_the_middle_is_not_a_random_piece(monkeypatch):
    monkeypatch.setattr(masking, "MASKED", 0.0)
    monkeypatch.setattr(masking, "RANDOM", 1.0)
    everything = RetroMAESettings(encoder_mask=0.99)
    drawn: set[int] = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        batch = mask_batch(texts([512]), starts_every(1), everything, mask_id=6, generator=generator)
        drawn |= set(batch.masked_ids[batch.labels != IGNORED].tolist())
    assert drawn == set(range(4, PIECES)) - {6}


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("length", [128, 2048, 8192])
def test_measured_ratios_are_the_configured_ones_at_every_length(length, step):
    count = 8 if length == 128 else 1
    batch = masked(texts([length] * count), RetroMAESettings(), step=step)
    tokens = batch.decoder_count
    assert batch.mlm_count / tokens == pytest.approx(0.3, abs=0.01)
    assert float(batch.hidden.sum()) / (128 * tokens) == pytest.approx(0.5, abs=0.01)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(2, 150), min_size=1, max_size=4),
    ratio=st.floats(0.05, 0.95),
    step=st.sampled_from([0, 1, 2, 5, 40]),
    whole=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_every_text_meets_its_ratio_to_within_half_a_word(lengths, ratio, step, whole, seed):
    ids = texts(lengths, seed=seed)
    batch = masked(ids, RetroMAESettings(encoder_mask=ratio, decoder_masks=2, whole_words=whole), step=step, seed=seed)
    chosen = (batch.labels != IGNORED).sum(1)
    half_word = LONGEST_WORD / 2 if whole else 0.5
    assert ((chosen - ratio * is_content(ids).sum(1)).abs() <= half_word + 1e-3).all()


@settings(max_examples=30)
@given(ratio=st.floats(0.0, 0.95), step=st.sampled_from([0, 1, 3]), seed=st.integers(0, 2**31))
def test_hidden_sets_meet_the_ratio_on_average(ratio, step, seed):
    batch = masked(texts([400], seed=seed), RetroMAESettings(decoder_mask=ratio), step=step, seed=seed)
    assert float(batch.hidden.sum()) / (128 * 398) == pytest.approx(ratio, abs=0.015)  # five deviations


def test_the_same_seed_gives_the_same_masks_and_another_seed_others():
    ids = texts([64, 30])
    first, again, other = masked(ids, seed=3), masked(ids, seed=3), masked(ids, seed=4)
    for name in ("input_ids", "masked_ids", "labels", "hidden", "pick"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert name == "input_ids" or not torch.equal(getattr(first, name), getattr(other, name))


def test_hidden_sets_are_distinct_and_all_of_them_are_used():
    batch = masked(texts([2000]), RetroMAESettings(decoder_masks=16))
    assert len({tuple(row) for row in batch.hidden[0].tolist()}) == 16
    assert set(batch.pick.flatten().tolist()) == set(range(16))


def test_visibility_is_what_its_rule_says_entry_by_entry():
    ids = texts([9, 6, 2])
    batch = masked(ids, RetroMAESettings(decoder_masks=3))
    seen = visibility(batch)
    assert seen.shape == (3, 9, 9)
    for b in range(3):
        for i in range(9):
            for j in range(9):
                hidden = bool(batch.hidden[b, batch.pick[b, i], j])
                expected = j == 0 or (i != j and not hidden and int(ids[b, j]) != 1)
                assert bool(seen[b, i, j]) == expected


def test_a_batch_without_content_masks_nothing():
    batch = masked(texts([2, 2]))
    assert batch.mlm_count == 0
    assert batch.decoder_count == 0
    assert visibility(batch)[:, :, 0].all()


def test_to_moves_every_field():
    assert masked(texts([5])).to("meta").hidden.is_meta


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder_mask": 0.0},
        {"encoder_mask": 1.0},
        {"decoder_mask": 1.0},
        {"decoder_mask": -0.1},
        {"decoder_masks": 0},
        {"max_length": 2},
        {"positions": "sine"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RetroMAESettings(**wrong)


def test_settings_do_not_import_torch():
    import subprocess
    import sys

    code = "import sys, train.retromae.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
