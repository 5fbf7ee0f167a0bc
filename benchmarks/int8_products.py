"""What int8 products in onnxruntime cost and gain: a graph for processors with AVX2 alone, where OpenVINO is slower.

``python -m benchmarks.int8_products [--model BUNDLE]`` rewrites the graph of a bundle in memory, compares it with
float32 arithmetic, and measures both in turns. Every product x · W of a layer becomes one of uint8 with uint8, which no
processor saturates (uint8 with int8 does without VNNI). Legend: N tokens, K inputs, M outputs of a product.

- W [K, M] is int8 with one scale per output, stored as level + 128.
- x [N, K] has one scale per token. A few inputs are far larger than the others and would make the scale of all coarse:
  those that are largest on calibration texts stay float32, a product [N, 16] · [16, M].
- The second product of the feed-forward part takes GELU's outputs, which are never below −0.17. So their levels begin
  there, twice as fine as levels of both signs; the constant −0.17 · (sum of W's rows) is added back.

Nothing serves with this graph (docs/log.md, 2026-11-29). The last line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import onnx
import onnxruntime
import typer
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.common import CORPUS, MACHINE
from benchmarks.encode import workloads
from m3_vdb.encoding.bundle import MODEL, Bundle
from m3_vdb.encoding.hub import find_bundle
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE

OUTPUTS: Final = [DENSE, SPARSE, MULTI_VECTOR]
GELU_LEAST: Final = -0.17
"""GELU's minimum is −0.16997."""
Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Product:
    """A product x · W of the graph: the names of x and of the result, W float32 [K, M], and whether x is GELU's."""

    x: str
    name: str
    weight: NDArray[np.float32]
    after_gelu: bool


def open_model(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compute(model: onnx.ModelProto, names: list[str], batch: Batch) -> dict[str, NDArray[np.float32]]:
    """Any values inside a graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return dict(zip(names, run(open_model(copy), names, batch), strict=True))


def run(session: onnxruntime.InferenceSession, names: list[str], batch: Batch) -> list[NDArray[np.float32]]:
    """One forward pass."""
    arrays: list[NDArray[np.float32]] = session.run(names, {"input_ids": batch[0], "attention_mask": batch[1]})
    return arrays


def find_products(model: onnx.ModelProto, batch: Batch) -> list[Product]:
    """The products of the layers, with their weights as the graph expands them; heads stay as they are."""
    made = {output: node for node in model.graph.node for output in node.output}
    stored = {tensor.name for tensor in model.graph.initializer}

    def constant(name: str) -> bool:
        return name in stored or (name in made and all(constant(i) for i in made[name].input))

    nodes = [n for n in model.graph.node if n.op_type == "MatMul" and constant(n.input[1])]
    nodes = [n for n in nodes if not n.input[1].startswith(("sparse.", "colbert."))]  # the heads
    weights = compute(model, [node.input[1] for node in nodes], batch)
    return [
        Product(node.input[0], node.output[0], weights[node.input[1]], made[node.input[0]].op_type == "Mul")
        for node in nodes
    ]


def largest(model: onnx.ModelProto, names: list[str], batches: Iterator[Batch]) -> dict[str, NDArray[np.float32]]:
    """The largest magnitude of every input [K] of the named values."""
    peaks = [
        {name: np.abs(x).max(axis=(0, 1)) for name, x in compute(model, names, batch).items()} for batch in batches
    ]
    return {name: np.max([peak[name] for peak in peaks], axis=0) for name in names}


class Rewriter:
    """A copy of a graph in which products are replaced."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.nodes: list[onnx.NodeProto] = []

    def op(self, kind: str, *inputs: str | NDArray[np.generic], output: str = "", **attributes: Any) -> str:  # noqa: ANN401 - ints and lists
        """Add a node; arrays become initializers."""
        name = output or f"int8_{len(self.nodes)}"
        names = [self._constant(f"{name}_{i}", x) if isinstance(x, np.ndarray) else x for i, x in enumerate(inputs)]
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return name

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def product(self, product: Product, outliers: NDArray[np.intp]) -> None:
        """Replace x · W: uint8, but float32 for the inputs ``outliers``."""
        x, weight = product.x, product.weight
        scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny) / 127
        levels = (np.rint(weight / scale) + 128).astype(np.uint8)
        rounded = (levels.astype(np.float32) - 128) * scale
        small = np.ones(len(weight), np.float32)
        small[outliers] = 0
        large = self.op("Gather", x, outliers.astype(np.int64), axis=2)
        parts = [self.op("MatMul", large, weight[outliers])]
        x = self.op("Mul", x, small)
        if product.after_gelu:
            x = self.op("Sub", x, np.array(GELU_LEAST, np.float32))
            peak, steps, zero = self.op("ReduceMax", x, axes=[-1], keepdims=1), 255, 0
            parts.append(self.op("Identity", (GELU_LEAST * rounded.sum(axis=0)).astype(np.float32)))
        else:
            peak, steps, zero = self.op("ReduceMax", self.op("Abs", x), axes=[-1], keepdims=1), 127, 128
        step = self.op("Max", self.op("Mul", peak, np.array(1 / steps, np.float32)), np.array(1e-30, np.float32))
        shifted = self.op("Add", self.op("Round", self.op("Div", x, step)), np.array(zero, np.float32))
        packed = self.op("Cast", shifted, to=TensorProto.UINT8)
        zeros = np.array(zero, np.uint8), np.array(128, np.uint8)
        summed = self.op("Cast", self.op("MatMulInteger", packed, levels, *zeros), to=TensorProto.FLOAT)
        parts.append(self.op("Mul", self.op("Mul", summed, step), scale.astype(np.float32)))
        self.op("Sum", *parts, output=product.name)


def rewrite(
    model: onnx.ModelProto, products: list[Product], peaks: Mapping[str, NDArray[np.float32]], *, kept: int, after: int
) -> onnx.ModelProto:
    """The graph with int8 products.

    Args:
        model: the graph.
        products: to replace.
        peaks: largest magnitude of every input of a product.
        kept: inputs of a product that stay float32.
        after: the same for products after GELU.
    """
    g, by_name = Rewriter(model), {product.name: product for product in products}
    for node in model.graph.node:
        if (product := by_name.get(node.output[0])) is None:
            g.nodes.append(node)
        else:
            g.product(product, np.sort(np.argsort(-peaks[product.x])[: after if product.after_gelu else kept]))
    del g.model.graph.node[:]
    g.model.graph.node.extend(g.nodes)
    used = {name for node in g.nodes for name in node.input}
    tensors = [tensor for tensor in g.model.graph.initializer if tensor.name in used]
    del g.model.graph.initializer[:]
    g.model.graph.initializer.extend(tensors)
    return g.model


def products_are_exact() -> bool:
    """Whether ``MatMulInteger`` of uint8 with uint8 equals integer arithmetic, the largest levels included."""
    rng = np.random.default_rng(0)
    a, b = (rng.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), (64, 4096)) for _ in range(2))
    a[0], b[0] = 255, 255
    zero = numpy_helper.from_array(np.array(128, np.uint8), "zero")
    inputs = [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in "ab"]
    node = helper.make_node("MatMulInteger", ["a", "b", "zero", "zero"], ["y"])
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.INT32, None)], [zero]
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    (y,) = open_model(model).run(None, {"a": a, "b": np.ascontiguousarray(b.T)})
    return bool((y == (a.astype(np.int32) - 128) @ (b.astype(np.int32) - 128).T).all())


def compare(
    exact: onnxruntime.InferenceSession, fast: onnxruntime.InferenceSession, batches: Iterator[Batch]
) -> dict[str, float]:
    """Lowest cosines of single texts, and token weights that come or go."""
    dense, rows, flips, weights, heaviest = [], [], 0, 0, 0.0
    for batch in batches:
        left, right = (run(session, OUTPUTS, batch) for session in (exact, fast))
        dense.append(float((left[0] * right[0]).sum()))
        rows.append(float((left[2] * right[2]).sum(axis=-1).min(initial=1)))
        flipped = (left[1] > 0) != (right[1] > 0)
        flips, weights = flips + int(flipped.sum()), weights + int((left[1] > 0).sum())
        heaviest = max(heaviest, float(np.abs(left[1] - right[1])[flipped].max(initial=0)))
    return {
        "dense_cosine": min(dense),
        "row_cosine": min(rows),
        "weights": weights,
        "flips": flips,
        "largest_flip": heaviest,
    }


def batches_of(bundle: Bundle, texts: list[str]) -> Iterator[Batch]:
    """One text at a time."""
    tokens = bundle.read_tokenizer().encode(texts, max_length=min(512, bundle.max_length))
    return (tokens.padded(np.array([i])) for i in range(len(tokens)))


def main(
    model: Annotated[str | None, typer.Option(help="Bundle. Default: the one that ships.")] = None,
    kept: Annotated[int, typer.Option(help="Inputs of a product that stay float32.")] = 16,
    after: Annotated[int, typer.Option(help="The same after GELU.")] = 64,
    texts: Annotated[int, typer.Option(help="Texts to compare.")] = 64,
    rounds: Annotated[int, typer.Option(help="Counted rounds of each batch.")] = 5,
) -> None:
    """Compare int8 products with float32, in onnxruntime."""
    bundle = find_bundle(model)
    graph = onnx.load(bundle.path / MODEL)
    corpus = workloads(CORPUS, texts=texts + 32)["mixed"]
    first = next(batches_of(bundle, corpus[:1]))
    products = find_products(graph, first)
    names = list(dict.fromkeys(product.x for product in products))
    peaks = largest(graph, names, batches_of(bundle, corpus[texts:]))
    sessions = {"float32": open_model(graph)}
    sessions["int8"] = open_model(rewrite(graph, products, peaks, kept=kept, after=after))
    result: dict[str, object] = {"benchmark": "int8_products", "machine": MACHINE, "products": len(products)}
    result["exact"] = products_are_exact()
    result |= compare(sessions["float32"], sessions["int8"], batches_of(bundle, corpus[:texts]))
    for rows, length in ((1, 16), (8, 128), (1, 512)):
        shape = rows, min(length, bundle.max_length)
        ids = np.random.default_rng(0).integers(4, bundle.vocab_size - 1, shape)
        batch = ids, np.ones_like(ids)
        seconds: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(rounds + 1):
            for name, session in sessions.items():
                begun = time.perf_counter()
                run(session, OUTPUTS, batch)
                seconds[name].append(time.perf_counter() - begun)
        result[f"{shape[0]} x {shape[1]}, ms"] = {
            name: round(1000 * statistics.median(t[1:]), 2) for name, t in seconds.items()
        }
    for name, value in result.items():
        typer.echo(f"{name:20} {value}")
    typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
