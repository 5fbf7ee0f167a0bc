"""By hand: export a random model of BGE-M3's size (24 layers, 1024 wide, 250,002 words; > 2 GB) and open the result.

Needs about 10 GB of memory and 7 GB of disk, and some minutes:
``python -m tests.export.try_large FOLDER [--precision fp32] [--max-length 512] [--threads 1]``.
The weights are random, the tokenizer is a toy whose ids go up to the last row of the table. Prints sizes, times,
peak memory and the measured errors.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from onnx_export.export import export
from train.import_base import tokenizer_json
from train.model import M3Model

VOCABULARY = 250_002
CHARACTERS = [chr(code) for code in (*range(33, 127), *range(0x400, 0x460), *range(0x4E00, 0x9FA0))]


def say(text: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}  (peak memory so far {peak:.1f} GiB)\n")
    sys.stdout.flush()


def write_checkpoint(path: Path, max_length: int) -> None:
    """Random weights of BGE-M3's shape; single characters spread over the whole table of ids."""
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=max_length + 2,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    model = M3Model(XLMRobertaModel(config, add_pooling_layer=False))
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁"] + [f"\x01{i}" for i in range(5, VOCABULARY)]
    for i, character in enumerate(CHARACTERS):
        pieces[VOCABULARY - 1 - i * (VOCABULARY // len(CHARACTERS))] = character
    model.save(path, tokenizer_json=tokenizer_json(pieces, np.full(VOCABULARY, -9.0, np.float32)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--max-length", type=int, default=512, help="BGE-M3 has 8192; attention of that takes 4 GB")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint, out = arguments.folder / "checkpoint", arguments.folder / arguments.precision
    if not checkpoint.exists():
        write_checkpoint(checkpoint, arguments.max_length)
        say("checkpoint written")
    begun = time.perf_counter()
    bundle, errors = export(checkpoint, out, precision=arguments.precision)
    say(f"exported and verified in {time.perf_counter() - begun:.0f} s: {json.dumps(errors.as_dict())}")
    for file in sorted(out.iterdir()):
        say(f"  {file.name}: {file.stat().st_size / 2**20:,.1f} MiB")
    begun = time.perf_counter()
    bundle.verify()
    function = M3EmbeddingFunction(out, runtime="onnxruntime", device="cpu", threads=arguments.threads)
    result = function.encode_documents(["vector", "поиск", "检索"])
    say(f"checked, opened and used in {time.perf_counter() - begun:.0f} s: {len(result.multi_vector)} rows")


if __name__ == "__main__":
    main()
