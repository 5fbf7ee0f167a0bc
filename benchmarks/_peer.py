"""One process of ``benchmarks.peers``: opens an encoder, measures it, and prints one JSON object.

``python -m benchmarks._peer NAME WORK`` also runs where FlagEmbedding and bge-m3-lite are installed and m3-vdb is not.
So an encoder imports what it needs and no more, and memory is that of a program which does nothing else. Linux only.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.memory import PeakMemory

LONGEST: Final = 8192
"""Tokens that every encoder is told to keep of a text."""
SLOW: Final = 10.0
"""Seconds: a first pass that takes longer is the measurement, instead of a warm-up."""
BRIEF: Final = 0.5
MOST: Final = 30
"""A case is repeated until its passes fill so many seconds, at most so many times."""
LITE_ONLY: Final = (24, 1024)
"""Layers and width: bge-m3-lite runs BGE-M3's alone."""
SPECIAL: Final = 4
"""The first token id of XLM-R that is a piece of text."""
PREPARE_LITE: Final = "prepare bge-m3-lite"
"""Instead of an encoder's name."""
CALIBRATION: Final = 128
"""Tokens of a text that bge-m3-lite calibrates with; its own 512 take 8 GB and more, and random weights have no use."""

Float32 = NDArray[np.float32]
Encode = Callable[[list[str]], Any]


@dataclass(frozen=True, slots=True)
class Work:
    """What a process does.

    Attributes:
        folder: has the checkpoint, its bundles, and ``lite/`` with what ``prepare_lite`` makes of it.
        cases: name → texts, in the order in which they are encoded.
        samples: texts whose vectors are kept.
        repeats: passes of a case after the warm-up.
        vectors: where the vectors of ``samples`` go (.npz).
    """

    folder: str
    cases: dict[str, list[str]]
    samples: list[str]
    repeats: int
    vectors: str

    @property
    def checkpoint(self) -> Path:
        """Of all encoders."""
        return Path(self.folder, "checkpoint")


@dataclass(frozen=True, slots=True)
class Vectors:
    """The three representations of n texts: float32 [n, d], n × {id: weight}, n × float32 [rows, m]."""

    dense: Float32
    sparse: Sequence[Mapping[int, float]]
    rows: Sequence[Float32]

    def save(self, path: str) -> None:
        """Write the arrays, with the weights as (text, id, weight)."""
        weights = [(i, token, weight) for i, one in enumerate(self.sparse) for token, weight in sorted(one.items())]
        sparse = np.array(weights, np.float64).reshape(-1, 3)
        np.savez(path, dense=self.dense, sparse=sparse, rows=np.concatenate(self.rows))


@dataclass(frozen=True, slots=True)
class Encoder:
    """Something that encodes, in its own way and types.

    Attributes:
        about: version and runtime.
        encode: all three representations of the texts.
        unpack: what ``encode`` returned → vectors.
        close: ends its threads.
    """

    about: str
    encode: Encode
    unpack: Callable[[Any], Vectors]
    close: Callable[[], None] = lambda: None


def measure(open_encoder: Callable[[Work], Encoder], work: Work) -> dict[str, Any]:
    """Time and memory of opening, of each case, and the vectors of the samples."""
    with PeakMemory() as memory:
        begun = time.perf_counter()
        encoder = open_encoder(work)
        opened = time.perf_counter() - begun
    result: dict[str, Any] = {"about": encoder.about, "open_seconds": round(opened, 3), "opened": _mib(memory)}
    result["cases"] = {}
    for case, texts in work.cases.items():
        with PeakMemory() as memory:
            seconds = [_pass(encoder.encode, texts)]
            if seconds[0] < SLOW:
                seconds.pop()
                while len(seconds) < work.repeats or (sum(seconds) < BRIEF and len(seconds) < MOST):
                    seconds.append(_pass(encoder.encode, texts))
        result["cases"][case] = {"seconds": statistics.median(seconds), "passes": len(seconds), **_mib(memory)}
    encoder.unpack(encoder.encode(work.samples)).save(work.vectors)
    encoder.close()
    return result


def _pass(encode: Encode, texts: list[str]) -> float:
    begun = time.perf_counter()
    encode(texts)
    return time.perf_counter() - begun


def _mib(memory: PeakMemory) -> dict[str, float]:
    return {"anonymous_mib": round(memory.anonymous / 2**20, 1), "mapped_mib": round(memory.mapped / 2**20, 1)}


def bundle(work: Work, precision: str, runtime: str, device: str = "cpu") -> Encoder:
    """m3-vdb with one of its runtimes."""
    from m3_vdb import M3EmbeddingFunction

    folder = Path(work.folder, precision)
    function = M3EmbeddingFunction(folder, runtime=runtime, device=device, on_truncate="ignore")
    return Encoder(f"{function.session.description}, {precision} file", function.encode_documents, _unpack_ours)


def torch_model(work: Work, dtype: str, device: str = "cpu") -> Encoder:
    """Training's model, with m3-vdb's tokenizer, batches and pooling."""
    import torch

    from train.session import embedding_function, load

    model, tokenizer = load(work.checkpoint, device=device)
    function = embedding_function(model.to(getattr(torch, dtype)), tokenizer)
    return Encoder(f"torch {torch.__version__}, {device}, {dtype}, sdpa", function.encode_documents, _unpack_ours)


def _unpack_ours(found: Any) -> Vectors:  # noqa: ANN401 - M3Embeddings, which is imported late
    sparse = [dict(zip(one.sparse.ids.tolist(), one.sparse.weights.tolist(), strict=True)) for one in found]
    return Vectors(found.dense, sparse, [one.multi_vector for one in found])


def flag_embedding(work: Work) -> Encoder:
    """FlagEmbedding in float32, with its own batches."""
    from FlagEmbedding import BGEM3FlagModel  # type: ignore[import-not-found]

    width = len(_heads(work)["colbert_linear.pt"])
    model = BGEM3FlagModel(str(work.checkpoint), use_fp16=False, devices="cpu", colbert_dim=width)
    about = f"FlagEmbedding {version('FlagEmbedding')}, transformers {version('transformers')}"
    return Encoder(about, lambda texts: model.encode(texts, max_length=LONGEST, **_ALL), _unpack)


def lite(work: Work, precision: str) -> Encoder:
    """bge-m3-lite, with graphs of the checkpoint that its own tools made (``prepare_lite``)."""
    from bge_m3_lite import BGEM3Embedder, hub

    folder = Path(work.folder, "lite")
    if not (folder / "ready").is_file():
        raise ImportError(f"it has no graph of this checkpoint; it runs {LITE_ONLY[0]} layers of {LITE_ONLY[1]} only")
    # Its own files are fixed by checksums; these take their place.
    hub.ensure_files = lambda files, *_, **__: {file.name: folder / file.name for file in files}
    model = BGEM3Embedder(precision=precision)
    about = f"bge-m3-lite {version('bge-m3-lite')}, onnxruntime {version('onnxruntime')}, {precision}"
    return Encoder(about, lambda texts: model.encode(texts, **_ALL), _unpack)


def m3serve(work: Work, device: str) -> Encoder:
    """m3serve, float16 on a GPU, with the attention that it chooses. A request per text: it batches by length."""
    from m3serve import Engine  # type: ignore[import-not-found]

    engine, loop = Engine(str(work.checkpoint), device=device, max_length=LONGEST), asyncio.new_event_loop()
    loop.run_until_complete(engine.start())

    async def encode(texts: list[str]) -> list[Any]:
        every = (engine.embed([text], return_sparse=True, return_colbert=True, timeout=3600) for text in texts)
        return await asyncio.gather(*every)

    return Encoder(
        f"m3serve {version('m3serve')}, {device}, transformers {version('transformers')}",
        lambda texts: loop.run_until_complete(encode(texts)),
        _unpack_m3serve,
        lambda: loop.run_until_complete(engine.stop()),
    )


def _unpack_m3serve(found: list[Any]) -> Vectors:
    sparse: list[dict[int, float]] = []
    for one in found:
        largest: dict[int, float] = {}  # it gives each position's weight, those of <s> and </s> too
        for token, weight in zip(one.sparse_indices[0], one.sparse_weights[0], strict=True):
            if token >= SPECIAL:
                largest[token] = max(weight, largest.get(token, 0.0))
        sparse.append(largest)
    rows = [np.asarray(one.colbert_vecs[0], np.float32) for one in found]
    return Vectors(np.asarray([one.dense[0] for one in found], np.float32), sparse, rows)


_ALL: Final = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


def _unpack(found: dict[str, Any]) -> Vectors:
    sparse = [{int(token): float(weight) for token, weight in one.items()} for one in found["lexical_weights"]]
    return Vectors(np.asarray(found["dense_vecs"], np.float32), sparse, found["colbert_vecs"])


def _heads(work: Work) -> dict[str, Any]:
    import torch

    names = ("sparse_linear.pt", "colbert_linear.pt")
    return {name: torch.load(work.checkpoint / name, weights_only=True)["weight"] for name in names}


def prepare_lite(work: Work) -> None:
    """Write the files that bge-m3-lite reads: the encoder, fused and quantised by its tools, and its tokenizer."""
    from bge_m3_lite.fuse import fuse
    from bge_m3_lite.quantize import QuantConfig, quantize

    folder = Path(work.folder, "lite")
    config = json.loads((work.checkpoint / "config.json").read_text(encoding="utf-8"))
    if (folder / "ready").is_file() or (config["num_hidden_layers"], config["hidden_size"]) != LITE_ONLY:
        return
    folder.mkdir(exist_ok=True)
    (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_model(work.checkpoint / "tokenizer.json"))
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        (folder / name).write_bytes((work.checkpoint / name).read_bytes())
    # In a process of its own, whose memory is free again before the next step.
    exported = f"from benchmarks._peer import export_encoder; export_encoder({str(work.checkpoint)!r}, {str(folder)!r})"
    subprocess.run([sys.executable, "-c", exported], check=True, stdout=subprocess.DEVNULL)
    fuse(folder / "model.onnx")
    quantize(folder / "model_fused.onnx", folder / "model_int8.onnx", QuantConfig(calibration_max_length=CALIBRATION))
    (folder / "ready").touch()


def export_encoder(checkpoint: str, folder: str) -> None:
    """``model.onnx`` and ``model.onnx_data``, as they are on the hub: without heads."""
    import onnx
    import torch
    from transformers import XLMRobertaModel

    class LastState(torch.nn.Module):
        """The output that bge-m3-lite expects."""

        def __init__(self) -> None:
            super().__init__()
            self.model = XLMRobertaModel.from_pretrained(
                checkpoint, add_pooling_layer=False, attn_implementation="eager"
            ).eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.model(input_ids, attention_mask).last_hidden_state
            return states

    names = ["input_ids", "attention_mask", "token_embeddings"]
    sample = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
    with tempfile.TemporaryDirectory(dir=folder) as parts:
        torch.onnx.export(
            LastState(),
            (sample, (sample != 1).long()),
            f"{parts}/exported.onnx",
            input_names=names[:2],
            output_names=names[2:],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in names},
            opset_version=14,
            dynamo=False,
        )
        exported = onnx.load(f"{parts}/exported.onnx")
    onnx.save_model(exported, f"{folder}/model.onnx", save_as_external_data=True, location="model.onnx_data")


def sentencepiece_model(tokenizer: Path) -> bytes:
    """SentencePiece's file (protobuf) with the pieces and the normalisation of a ``tokenizer.json`` of XLM-R."""
    tree = json.loads(tokenizer.read_text(encoding="utf-8"))
    (charsmap,) = [
        base64.b64decode(one["precompiled_charsmap"])
        for one in tree["normalizer"]["normalizers"]
        if one["type"] == "Precompiled"
    ]
    # XLM-R's ids are SentencePiece's and one more, with <s>, <pad>, </s>, <unk> before and <mask> after.
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(piece, score, 1) for piece, score in tree["model"]["vocab"][4:-1]]
    found = b"".join(
        _field(1, _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind]))
        for piece, score, kind in pieces
    )
    return found + _field(3, _field(1, b"nmt_nfkc") + _field(2, charsmap))


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf with its length before it."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


OURS: Final[dict[str, Callable[[Work], Encoder]]] = {
    "m3-vdb onnxruntime fp32": lambda work: bundle(work, "fp32", "onnxruntime"),
    "m3-vdb onnxruntime int8": lambda work: bundle(work, "int8", "onnxruntime"),
    "m3-vdb openvino fp32": lambda work: bundle(work, "fp32", "openvino"),
    "m3-vdb openvino int8": lambda work: bundle(work, "int8", "openvino"),
    "torch fp32": lambda work: torch_model(work, "float32"),
    "torch bf16": lambda work: torch_model(work, "bfloat16"),
}
GPU: Final[dict[str, Callable[[Work], Encoder]]] = {
    "m3-vdb onnxruntime cuda fp16": lambda work: bundle(work, "fp16", "onnxruntime", "cuda"),
    "torch cuda fp16": lambda work: torch_model(work, "float16", "cuda"),
}
PEERS: Final[dict[str, Callable[[Work], Encoder]]] = {
    "bge-m3-lite fp32": lambda work: lite(work, "fp32"),
    "bge-m3-lite int8": lambda work: lite(work, "int8"),
    "FlagEmbedding": flag_embedding,
}

GPU_PEERS: Final[dict[str, Callable[[Work], Encoder]]] = {"m3serve cuda fp16": lambda work: m3serve(work, "cuda:0")}


def main(name: str, given: str) -> None:
    """Open the encoder, measure it, and print the result; what is not installed is said to be."""
    work = Work(**json.loads(Path(given).read_text(encoding="utf-8")))
    try:
        result: dict[str, Any] = {}
        if name == PREPARE_LITE:
            prepare_lite(work)
        else:
            result = measure((OURS | GPU | PEERS | GPU_PEERS)[name], work)
    except ImportError as error:
        result = {"left_out": f"{error}"}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
