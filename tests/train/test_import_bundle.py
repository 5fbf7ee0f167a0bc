"""A bundle as the beginning of a training: the model that ships, its tokenizer, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from m3_vdb import M3EmbeddingFunction
from m3_vdb.encoding.bundle import TOKENIZER
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.tokenizer import CONTROL_PIECES, Tokenizer
from onnx_export.export import convert
from train.__main__ import main
from train.import_bundle import import_bundle, restore_tokenizer
from train.model import M3Model

TEXTS = ["Die Rechenleiste ausblenden", "数据库的向量检索", "<s> is text", "", "как найти слово", "🙂"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "m3-small"
    import_bundle(None, out)
    return out


def test_the_model_that_ships_comes_back_whole(shipped: Path):
    model = M3Model.load(shipped, attention="sdpa")
    embed = M3EmbeddingFunction(runtime="onnxruntime", device="cpu")
    assert (model.max_length, model.dim, model.colbert_dim) == (embed.max_length, 384, 96)
    expected = embed.encode_documents(TEXTS)
    for i, text in enumerate(TEXTS):
        ids, mask = (
            torch.from_numpy(array) for array in embed.tokenizer.encode([text], max_length=512).padded(np.array([0]))
        )
        with torch.no_grad():
            output = model(ids, mask)
        # The same weights in float32 both times; sums are taken in another order.
        np.testing.assert_allclose(output.dense[0].numpy(), expected[i].dense, atol=2e-5)
        np.testing.assert_allclose(output.multi_vector[0].numpy(), expected[i].multi_vector, atol=5e-5)


def test_its_tokenizer_is_hugging_faces_again(shipped: Path):
    ours, theirs = find_bundle(None), AutoTokenizer.from_pretrained(shipped)
    tokenizer = Tokenizer.from_file(ours.path / TOKENIZER)
    assert [theirs.convert_tokens_to_ids(piece) for piece in CONTROL_PIECES[:4]] == [0, 1, 2, 3]
    assert theirs.mask_token_id == theirs.convert_tokens_to_ids("<mask>") > 3
    for text in TEXTS:
        if "<s>" not in text:
            assert theirs(text)["input_ids"] == tokenizer.encode([text], max_length=512).ids.tolist()
    assert theirs("<s>")["input_ids"] == [0, 0, 2], "a control token where a checkpoint is read by others"


def test_there_and_back_is_the_same_tokenizer(tiny_checkpoint: Path):
    data = (tiny_checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    served = Tokenizer(data).to_json()
    back = json.loads(restore_tokenizer(served))
    assert "\0" not in json.dumps(back)
    given = json.loads(data)
    assert back["model"]["vocab"] == given["model"]["vocab"]
    assert back["added_tokens"] == given["added_tokens"]
    assert Tokenizer(json.dumps(back)).to_json() == served


def test_the_command(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    out = tmp_path / "checkpoint"
    monkeypatch.setattr("sys.argv", ["train", "import-bundle", "--bundle", str(tiny_bundle), "--out", str(out)])
    main()
    assert capsys.readouterr().err.strip().endswith("64 tokens")
    bundle = convert(out, tmp_path / "again", name="tiny")
    np.testing.assert_allclose(
        M3EmbeddingFunction(bundle.path).encode_documents(["the vector search"]).dense,
        M3EmbeddingFunction(tiny_bundle).encode_documents(["the vector search"]).dense,
        atol=1e-6,
    )


def test_no_bundle_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", "import-bundle", "--bundle", "nothing", "--out", str(tmp_path / "x")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: no model 'nothing': expected a bundle directory")
