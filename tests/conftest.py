"""One tiny M3 model for every test that needs a real one: 2 layers, 64 wide, 16-wide multi-vectors, 231 pieces."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Rows and code of tests do not belong in the user's cache; read when the libraries are imported, also by subprocesses.
_CACHE = tempfile.TemporaryDirectory(prefix="m3-vdb-tests-")
os.environ["HF_DATASETS_CACHE"] = _CACHE.name
os.environ["HF_MODULES_CACHE"] = os.path.join(_CACHE.name, "modules")
os.environ["M3VDB_CACHE"] = os.path.join(_CACHE.name, "m3-vdb")
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "false"  # a test may import it before our module, which switches it off

# The same examples in every run, and no failure because a machine is busy.
settings.register_profile("m3", derandomize=True, deadline=None, database=None)
settings.load_profile("m3")

LONGEST = (
    "test_processes.py",
    "test_contract.py",
    "test_evaluate.py",
    "test_store_benchmarks.py",
    "test_resume.py",
    "test_default_model.py",
    "test_import_base.py",
    "test_import_bundle.py",
    "test_example.py",
    "test_ray.py",
)
"""Files that take long: where several run at a time, one of these must not be left for the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


TINY_DIM = 64
TINY_COLBERT_DIM = 16
TINY_MAX_LENGTH = 64
TINY_WORDS = (
    "the a of to and vector vectors search index one query text document dense sparse token model score der die das "
    "und ein Straße Suche Wort le la une recherche mot как поиск слово repeat hello world"
)
TINY_CHARACTERS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?()'\"-+*/=<>_|&%$#@"
    "äöüßÄÖÜéèêàçñабвгдежзийклмнопрстуфхцчшщыьэюя数据库向量搜索检索文本的一二三你好世界かなカナ"
)


def tiny_pieces() -> list[str]:
    """The vocabulary: specials first, ``<mask>`` last, in between words with and without a space, and characters."""
    words = [piece for word in TINY_WORDS.split() for piece in (f"▁{word}", word)] + ["▁"]
    between = list(dict.fromkeys([*words, *TINY_CHARACTERS]))
    return ["<s>", "<pad>", "</s>", "<unk>", *between, "<mask>"]


@pytest.fixture(scope="session")
def tiny_tokenizer_json() -> str:
    """A raw ``tokenizer.json`` in Hugging Face's form: control tokens are added tokens and readable in a text."""
    from train.import_base import tokenizer_json

    pieces = tiny_pieces()
    # Longer pieces are more probable, as in a real Unigram vocabulary.
    scores = np.array([-12.0 + min(len(piece), 8) for piece in pieces], dtype=np.float32)
    scores[:4] = scores[-1] = 0.0
    return tokenizer_json(pieces, scores)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_json: str) -> Path:
    """A checkpoint in BGE-M3 layout with random weights; both lexical signs and peaked attention occur."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    from train.model import M3Model

    config = XLMRobertaConfig(
        vocab_size=len(tiny_pieces()),
        hidden_size=TINY_DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * TINY_DIM,
        max_position_embeddings=TINY_MAX_LENGTH + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    path = tmp_path_factory.mktemp("tiny") / "checkpoint"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20240205)
        model = M3Model(XLMRobertaModel(config, add_pooling_layer=False), colbert_dim=TINY_COLBERT_DIM)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, 0.5 if "embeddings" in name else 1.5 * parameter.shape[1] ** -0.5)
    model.eval().save(path, tokenizer_json=tiny_tokenizer_json)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path) -> Path:
    """The checkpoint exported at fp32. Shared: copy it before you change it."""
    from onnx_export.export import convert

    out = tiny_checkpoint.parent / "tiny-fp32"
    convert(tiny_checkpoint, out, precision="fp32", name="tiny")
    return out


@pytest.fixture(scope="session")
def tiny_texts() -> list[str]:
    """Texts of unlike lengths and scripts that fit the tiny model without truncation; the empty text is among them."""
    return [
        "the vector search",
        "",
        "a",
        "repeat repeat repeat repeat",
        "ein Wort und die Suche",
        "数据库的向量检索",
        "<s> is plain text </s> and so is <pad>",
        "hello world, one query of the document index and one dense score",
        "как поиск слово",
        "🙂 unknown",
    ]
