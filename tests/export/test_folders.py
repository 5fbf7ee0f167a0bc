"""Folders that are something else than a checkpoint of M3 are one line: what it is, and what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from m3_vdb.encoding.tokenizer import Tokenizer
from m3_vdb.errors import BundleError
from onnx_export.checkpoint import read_checkpoint
from onnx_export.export import convert

ROOT = Path(__file__).parents[2]


def folder_of(path: Path, **files: str) -> Path:
    for name, content in files.items():
        file = path / name.replace("__", "/").replace("_json", ".json").replace("_onnx", ".onnx").replace("_pt", ".pt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config_json": '{"model_type": "bert"}'}, "is a model of type 'bert', not an M3 model: give BAAI/bge-m3"),
        ({"config_json": '{"model_type": "xlm-roberta"}'}, "is an XLM-RoBERTa encoder without M3's heads"),
        ({"config_json": "{}"}, "is a model of another kind, not an M3 model"),
        ({"m3_config_json": "{}"}, "is a bundle: make a checkpoint of it with python -m train import-bundle"),
        ({"onnx__model_onnx": "x"}, "holds an ONNX file alone, which lacks M3's heads"),
        ({"step-1__sparse_linear_pt": "x", "step-2__sparse_linear_pt": "x"}, "give one of them, such as"),
        ({"notes_json": "{}"}, "has no config.json: expected a checkpoint in BGE-M3 layout"),
    ],
)
def test_what_a_folder_is(tmp_path: Path, files: dict[str, str], said: str):
    folder = folder_of(tmp_path / "model", **files)
    with pytest.raises(BundleError) as raised:
        convert(folder, tmp_path / "out")
    assert str(raised.value).startswith(str(folder))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", "64"), ("num_attention_heads", 5), ("num_hidden_layers", -1), ("layer_norm_eps", None),
     ("max_position_embeddings", 2), ("vocab_size", True)],
)  # fmt: skip
def test_a_shape_that_is_none_is_damage(tiny_checkpoint: Path, tmp_path: Path, name: str, value: object):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {name: value}))
    with pytest.raises(BundleError, match=r"config\.json is damaged"):
        read_checkpoint(folder)


def test_the_command_needs_neither_torch_nor_transformers(tiny_checkpoint: Path, tmp_path: Path):
    code = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'transformers', 'safetensors', 'train'])\n"
        "from m3_vdb.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(tiny_checkpoint), str(tmp_path / "out"), "--name", "tiny"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'out'}: tiny, fp32," in done.stderr


def test_without_its_packages_the_command_says_how_to_install_them(tmp_path: Path):
    code = "import sys; sys.modules['onnx'] = None\nfrom m3_vdb.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(tmp_path), str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "error: m3-vdb export needs packages that are not installed: pip install 'm3-vdb[export]'"
    )


def test_a_sentencepiece_model_gives_its_own_ids(tiny_checkpoint: Path, tiny_texts: list[str], tmp_path: Path):
    import sentencepiece

    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    (folder / "tokenizer.json").unlink()
    with (folder / "sentencepiece.bpe.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*tiny_texts, "the quick brown fox jumps over the lazy dog"] * 9),
            model_writer=file, vocab_size=150, hard_vocab_limit=False, normalization_rule_name="nmt_nfkc",
            unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
        )  # fmt: skip
    tokenizer = Tokenizer(read_checkpoint(folder).read_tokenizer())
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    assert [tokenizer.id_to_token(i) for i in (1, 4)] == ["\0<pad>", own.id_to_piece(3)]
    for text in [*tiny_texts, "ｆｕｌｌ width  and   blanks ", "dog fox\tthe", "ﬁ ½"]:
        if "<" in text:
            continue
        expected = [piece + 1 if piece else 3 for piece in own.encode(text)]
        ids = tokenizer.encode([text], max_length=64).ids
        assert ids[1:-1].tolist() == expected, text
    assert convert(folder, tmp_path / "out").vocab_size > tokenizer.vocab_size - 1
    (folder / "sentencepiece.bpe.model").write_bytes(b"\x0a\xff nothing")
    with pytest.raises(BundleError, match=r"sentencepiece\.bpe\.model is"):
        read_checkpoint(folder).read_tokenizer()
