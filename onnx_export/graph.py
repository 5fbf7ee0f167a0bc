"""Weights → ONNX graph, written op by op.

The graph is built from the weights, not traced from PyTorch. So it is the same for every version of torch and
transformers, contains only standard ONNX operators (opset 17), and is small enough to read in a viewer. ``verify``
compares it with the torch model.

``onnxruntime.onnx`` is the same model for onnxruntime on CPUs: its operator for attention needs memory in proportion to
the length, not to its square, feed-forward parts go through ``ROWS`` tokens at a time, and 8-bit blocks of weights are
multiplied with 8-bit blocks of states (``MatMulNBits``). That file is small, because its weights are those in
``model.onnx``.

Legend: B texts, L padded length, d width, h heads, k = d/h, f feed-forward width, m multi-vector width, V vocabulary.

    input_ids [B, L], attention_mask [B, L]
      → embeddings → layers × (attention → LayerNorm → feed-forward → LayerNorm) → hidden [B, L, d]
      → dense_vecs [B, d]            sum of the states of all <s> (one; with MCLS several), unit rows
      → sparse_vecs [B, L]           ReLU'd token weights, 0 at padding
      → colbert_vecs [B, L - 1, m]   positions 1 … L-1, unit rows
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from m3_vdb.encoding.bundle import MODEL, ONNXRUNTIME
from onnx_export.weights import (
    BLOCK,
    EMBEDDING,
    Weights,
    frequent_rows,
    quantize_blocks,
    quantize_bytes,
    quantize_codes,
    quantize_int8,
    quantize_matrix,
)

OPSET: Final = 17
IR_VERSION: Final = 8
CONTRIB: Final = "com.microsoft"
"""Domain of onnxruntime's own operators."""
MASK_BIAS: Final = -30000.0
"""Added to the attention scores of padding: e^-30000 is 0 in every format, and float16 still holds the number."""
NORM_EPS: Final = 1e-12
"""Smallest length to divide by when normalising, as in torch.nn.functional.normalize."""
DATA: Final = f"{MODEL}.data"
"""File of the weights of a large model."""
EXTERNAL_LEAST: Final = 1024 - 33
"""Bytes from which a tensor may lie in it: onnx's own limit, which counts a ``bytes`` object's header."""
EXTERNAL_FROM: Final = 1_900_000_000
"""Bytes of all weights from which they do: a protobuf message holds 2 GiB at most."""
ROWS: Final = 512
"""Tokens of a batch for which ``onnxruntime.onnx`` makes the feed-forward part's wide states at a time."""
CLS_ID: Final = 0
PADDING_ID: Final = 1


class Matrix(NamedTuple):
    """A weight matrix in the graph.

    Attributes:
        name: of the weight.
        shape: [out, in].
        wide: [in, out], in the arithmetic of the graph.
        blocks: levels and scales [out, in/32], float32, if ``onnxruntime.onnx`` multiplies with these.
    """

    name: str
    shape: tuple[int, ...]
    wide: str
    blocks: tuple[str, ...] = ()


class GraphBuilder:
    """Collects nodes and initializers; every method returns the name of its result.

    Args:
        weights: of the model.
        data: where large weights go when they are made, the file ``model.onnx.data``; None keeps them in the graph.
    """

    def __init__(self, weights: Weights, data: BinaryIO | None = None) -> None:
        self.weights = weights
        self.data = data
        self.nodes: dict[str, list[onnx.NodeProto]] = {MODEL: [], ONNXRUNTIME: []}
        """By the file that they belong to."""
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.shapes: list[onnx.ValueInfoProto] = []
        """Of values in ``onnxruntime.onnx`` whose shape cannot be inferred."""
        self._files = [MODEL, ONNXRUNTIME]
        self._own = count()

    @contextmanager
    def only(self, file: str) -> Iterator[None]:
        """Nodes that are added inside the ``with`` block belong to one file."""
        self._files, both = [file], self._files
        yield
        self._files = both

    def op(self, kind: str, inputs: Sequence[str], *, name: str | None = None, **attributes: Any) -> str:  # noqa: ANN401 - ints, floats, lists
        """Add a node with one output."""
        file = self._files[0]
        number = f"{len(self.nodes[MODEL])}" if file == MODEL else f"own_{next(self._own)}"
        output = name or f"{kind.lower()}_{number}"
        node = helper.make_node(kind, list(inputs), [output], name=output, **attributes)
        for file in self._files:
            self.nodes[file].append(node)
        return output

    def constant(self, value: float | Sequence[int] | NDArray[np.generic], *, name: str | None = None) -> str:
        """Add an initializer: a number in the arithmetic of the graph, a list of int64, or an array as it is."""
        if isinstance(value, np.ndarray):
            array = value
        elif isinstance(value, (int, float)):
            array = np.array(value, dtype=self.weights.float_type)
        else:
            array = np.array(value, dtype=np.int64)
        key = name or f"const_{array.dtype}_{array.shape}_{array.tobytes().hex()}"
        if key not in self.initializers:
            array = np.asarray(array, order="C")
            external = self.data is not None and array.nbytes >= EXTERNAL_LEAST
            self.initializers[key] = self._external(array, key) if external else numpy_helper.from_array(array, key)
        return key

    def _external(self, array: NDArray[np.generic], key: str) -> TensorProto:
        """An initializer whose numbers are in the file of large weights."""
        assert self.data is not None
        offset = self.data.tell()
        self.data.write(array.data)
        tensor = TensorProto(name=key, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        _point(tensor, DATA, offset, array.nbytes)
        return tensor

    def linear(
        self, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32], *, name: str, parts: int = 1
    ) -> str:
        """X · Wᵀ + b for a weight of torch's layout [out, in], which may be of several layers with one input."""
        matrix = self.matrix(weight, name=f"{name}.weight", parts=parts)
        return self.affine(x, matrix, self.vector(bias, name=f"{name}.bias"))

    def affine(self, x: str, matrix: Matrix, bias: str) -> str:
        """X · M + b."""
        if not matrix.blocks:
            return self.op("Add", [self.op("MatMul", [x, matrix.wide]), bias])
        product = f"{matrix.name}.product"
        for file in self._files:
            with self.only(file):
                if file == MODEL:
                    self.op("MatMul", [x, matrix.wide], name=product)
                else:
                    outputs, inputs = matrix.shape
                    sizes = {"N": outputs, "K": inputs, "block_size": BLOCK, "bits": 8}
                    # Level 4: states are rounded to int8, too, with a scale for each block.
                    self.op("MatMulNBits", [x, *matrix.blocks], name=product, domain=CONTRIB, accuracy_level=4, **sizes)
        return self.op("Add", [product, bias])

    def by_rows(self, x: str, compute: Callable[[str], str], *, name: str) -> None:
        """Compute something of each row of x [B, L, d], ``ROWS`` rows at a time; only for ``onnxruntime.onnx``.

        Args:
            x: what is computed from.
            compute: rows [n, d] → rows [n, d].
            name: of the result [B, L, d].
        """
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.weights.float_type))
        flat = self.op("Reshape", [x, self.constant([-1, self.weights.dim])])
        parts = self.op("SplitToSequence", [flat, self.constant(np.array(ROWS, dtype=np.int64))], axis=0)
        begun = self.op("SequenceEmpty", [], dtype=kind)
        step, go, found, rows = (f"{name}_{part}" for part in ("step", "go", "found", "rows"))

        nodes, outside = self.nodes[ONNXRUNTIME], len(self.nodes[ONNXRUNTIME])
        self.op("SequenceAt", [parts, step], name=rows)
        more = self.op("SequenceInsert", [found, compute(rows)])
        again = self.op("Identity", [go])
        inside = nodes[outside:]
        del nodes[outside:]

        of_rows = helper.make_sequence_type_proto(helper.make_tensor_type_proto(kind, None))
        body = helper.make_graph(
            inside,
            f"{name}_body",
            [
                helper.make_tensor_value_info(step, TensorProto.INT64, []),
                helper.make_tensor_value_info(go, TensorProto.BOOL, []),
                helper.make_value_info(found, of_rows),
            ],
            [helper.make_tensor_value_info(again, TensorProto.BOOL, []), helper.make_value_info(more, of_rows)],
            value_info=[helper.make_tensor_value_info(rows, kind, ["rows", self.weights.dim])],
        )
        every = self.op("Loop", [self.op("SequenceLength", [parts]), "", begun], body=body)
        self.op("Reshape", [self.op("ConcatFromSequence", [every], axis=0), self.op("Shape", [x])], name=name)
        self.shapes.append(helper.make_tensor_value_info(name, kind, ["batch", "length", self.weights.dim]))

    def vector(self, value: NDArray[np.float32], *, name: str) -> str:
        """An initializer in the arithmetic of the graph."""
        return self.constant(value.astype(self.weights.float_type, copy=False), name=name)

    def matrix(self, value: NDArray[np.float32], *, name: str, parts: int = 1) -> Matrix:
        """A weight matrix [out, in] as the right side of a product: as it is, or expanded when the model is loaded."""
        if self.weights.precision == "int8":
            return self._bytes(value, name=name)
        if self.weights.precision != "int4":
            return Matrix(name, value.shape, self.vector(value.T, name=name))
        rows = [self._corrected(p, name=f"{name}.{i}") for i, p in enumerate(np.split(value, parts))]
        wide = self.op("Transpose", [self.op("Concat", rows, axis=0)], perm=[1, 0])
        return Matrix(name, value.shape, wide)

    def _bytes(self, value: NDArray[np.float32], *, name: str) -> Matrix:
        """A matrix in 8-bit blocks, which onnxruntime multiplies as they are, and OpenVINO where that is faster.

        The zero is a byte because OpenVINO takes only such weights as levels, and others for numbers to be expanded.
        """
        rounded, sizes = quantize_bytes(value)
        levels, scales = self.constant(rounded, name=f"{name}.uint8"), self.constant(sizes, name=f"{name}.scales")
        with self.only(MODEL):
            zero = self._wide(np.array(128, np.uint8), name="zero")
            steps = self.op("Sub", [self.op("Cast", [levels], to=TensorProto.FLOAT), zero])
            size = self.op("Cast", [self.op("Unsqueeze", [scales, self.constant([2])])], to=TensorProto.FLOAT)
            rows = self.op("Reshape", [self.op("Mul", [steps, size]), self.constant(value.shape)])
            wide = self.op("Transpose", [rows], perm=[1, 0])
        with self.only(ONNXRUNTIME):
            return Matrix(name, value.shape, wide, (levels, self.op("Cast", [scales], to=TensorProto.FLOAT)))

    def _corrected(self, value: NDArray[np.float32], *, name: str) -> str:
        """[out, in] in 4-bit blocks with a correction of low rank."""
        packed, scales, *factors = quantize_matrix(value)
        wide = self.op("Cast", [self.constant(scales, name=f"{name}.scales")], to=TensorProto.FLOAT)
        rows = self._blocks(self.constant(packed, name=f"{name}.packed"), wide, shape=value.shape)
        if not factors[0].size:
            return rows
        # The scales of both factors stand between them: OpenVINO 2026.4 takes int8 · scale for a matrix to be expanded
        # at run time, and crashes here in bfloat16 (floating point exception).
        (left, one), (right, other) = map(quantize_int8, factors)
        scale = self.constant((one * other)[:, None], name=f"{name}.scale")
        turned = self.op("Transpose", [self._wide(right, name=f"{name}.right")], perm=[1, 0])
        correction = self.op("MatMul", [self._wide(left, name=f"{name}.left"), self.op("Mul", [turned, scale])])
        return self.op("Add", [rows, correction])

    def _wide(self, value: NDArray[np.integer], *, name: str) -> str:
        return self.op("Cast", [self.constant(value, name=name)], to=TensorProto.FLOAT)

    def _blocks(self, packed: str, scales: str, *, shape: Sequence[int]) -> str:
        """Rows of 4-bit blocks, [*shape]; a 0 in ``shape`` copies the length of that axis."""
        both = self.op("Cast", [packed], to=TensorProto.FLOAT)
        high = self.op("Floor", [self.op("Mul", [both, self.constant(1 / 16)])])
        low = self.op("Sub", [both, self.op("Mul", [high, self.constant(16.0)])])
        levels = self.op("Sub", [self.op("Concat", [low, high], axis=-1), self.constant(8.0)])
        *outer, width = shape
        blocks = self.op("Reshape", [levels, self.constant([*outer, width // BLOCK, BLOCK])])
        scaled = self.op("Mul", [blocks, self.op("Unsqueeze", [scales, self.constant([-1])])])
        return self.op("Reshape", [scaled, self.constant(list(shape))])

    def embedding(self, ids: str) -> str:
        """Rows of the word embedding for token ids, [B, L, d]; packed rows are expanded after the look-up."""
        table = self.weights[EMBEDDING]
        if self.weights.precision == "int8":
            return self._block_rows(table, ids)
        if self.weights.precision != "int4":
            return self.op("Gather", [self.vector(table, name="words"), ids])
        frequent = frequent_rows(table)
        first = self.constant(np.array(frequent, dtype=np.int64))
        rare = self.op("Not", [self.op("Less", [ids, first])])
        none = self.constant(np.array(0, dtype=np.int64))
        rows = self._block_rows(table[:frequent], self.op("Where", [rare, none, ids]))
        coded = self._coded_rows(table[frequent:], self.op("Where", [rare, self.op("Sub", [ids, first]), none]))
        return self.op("Where", [self.op("Unsqueeze", [rare, self.constant([-1])]), coded, rows])

    def _coded_rows(self, table: NDArray[np.float32], ids: str) -> str:
        """Rows of a table of ``quantize_codes``."""
        coded = quantize_codes(table, self.weights.basis)
        parts = []
        for i, (codes, book) in enumerate(zip(coded.codes, coded.books, strict=True)):
            code = self.op("Gather", [self.constant(codes, name=f"rare.codes.{i}"), ids])
            index = self.op("Cast", [code], to=TensorProto.INT32)
            found = self.op("Gather", [self.constant(book, name=f"rare.books.{i}"), index])
            parts.append(self.op("Reshape", [found, self.constant([0, 0, codes.shape[1] * book.shape[1]])]))
        spread, mean = (
            self.op("Cast", [self.constant(part, name=f"rare.{name}")], to=TensorProto.FLOAT)
            for part, name in ((coded.basis[:-1], "basis"), (coded.basis[-1], "mean"))
        )
        return self.op("Add", [self.op("MatMul", [self.op("Concat", parts, axis=-1), spread]), mean])

    def _block_rows(self, table: NDArray[np.float32], ids: str) -> str:
        """Rows of a table in 4-bit blocks."""
        packed, codes, codebook = quantize_blocks(table)
        code = self.op(
            "Cast", [self.op("Gather", [self.constant(codes, name="words.codes"), ids])], to=TensorProto.INT32
        )
        scales = self.op("Gather", [self.constant(codebook, name="words.scales"), code])  # [B, L, d / 32]
        rows = self.op("Gather", [self.constant(packed, name="words.packed"), ids])
        return self._blocks(rows, scales, shape=[0, 0, table.shape[1]])

    def to_float32(self, x: str) -> str:
        """Cast to float32 if the graph computes in less."""
        return x if self.weights.float_type == np.float32 else self.op("Cast", [x], to=TensorProto.FLOAT)

    def unit_rows(self, x: str, *, name: str) -> str:
        """Rows divided by their length, in float32."""
        wide = self.to_float32(x)
        length = self.op("ReduceL2", [wide], axes=[-1], keepdims=1)
        floor = self.constant(np.array(NORM_EPS, dtype=np.float32))
        return self.op("Div", [wide, self.op("Max", [length, floor])], name=name)


def build_graph(weights: Weights) -> onnx.ModelProto:
    """The whole model, with its weights, in standard operators."""
    return _model(_nodes(weights), MODEL)


def write_graph(weights: Weights, path: Path, *, progress: Callable[[float], None] = lambda done: None) -> None:
    """Write ``model.onnx`` and, for float32 arithmetic, ``onnxruntime.onnx`` beside it.

    The weights of a large model go to ``model.onnx.data``. They are written there while the graph is built, so that few
    are in memory at a time, and move into ``model.onnx`` at the end if it can hold them.

    Args:
        weights: of the model; each is read once.
        path: of ``model.onnx``.
        progress: is told the share of the layers that is done.
    """
    data = path.with_name(DATA)
    with data.open("wb") as file:
        g = _nodes(weights, file, progress=progress)
    graph = _model(g, MODEL)
    small = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    if data.stat().st_size + small < EXTERNAL_FROM:
        with data.open("rb") as file:
            for tensor in graph.graph.initializer:
                if tensor.data_location == TensorProto.EXTERNAL:
                    tensor.raw_data = file.read(int(tensor.external_data[2].value))  # they follow each other
                    tensor.ClearField("external_data")
                    tensor.ClearField("data_location")
        data.unlink()
    onnx.save_model(graph, str(path))
    onnx.checker.check_model(str(path))
    if weights.float_type == np.float32:
        other = _model(g, ONNXRUNTIME)
        _borrow_weights(other, graph, path)
        onnx.save_model(other, str(path.with_name(ONNXRUNTIME)))


def _borrow_weights(graph: onnx.ModelProto, written: onnx.ModelProto, path: Path) -> None:
    """Let the weights of a graph lie in the file of another one that has them, too."""
    places: dict[str, tuple[int, int]] = {}
    end = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for tensor in written.graph.initializer:  # in this order they are in the file
            if len(tensor.raw_data) >= EXTERNAL_LEAST:
                start = content.find(tensor.raw_data, end)
                end = start + len(tensor.raw_data)
                places[tensor.name] = start, len(tensor.raw_data)
    for tensor in graph.graph.initializer:
        if tensor.name in places:
            for field in ("raw_data", "external_data"):
                tensor.ClearField(field)
            _point(tensor, path.name, *places[tensor.name])


def _point(tensor: TensorProto, file: str, offset: int, length: int) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for name, value in (("location", file), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=name, value=str(value))


def _nodes(
    weights: Weights, data: BinaryIO | None = None, *, progress: Callable[[float], None] = lambda done: None
) -> GraphBuilder:
    """All nodes and initializers, of both files."""
    g = GraphBuilder(weights, data)
    x = _embeddings(g)
    mask = _mask(g)
    for layer in range(weights.layers):
        progress(layer / weights.layers)
        x = _layer(g, x, mask, prefix=f"encoder.layer.{layer}.")
    _heads(g, x)
    return g


def _model(g: GraphBuilder, file: str) -> onnx.ModelProto:
    """What belongs to a file."""
    weights, b, length = g.weights, "batch", "length"
    nodes = g.nodes[file]
    used = {name for node in nodes for name in _inputs(node)}
    initializers = [one for name, one in g.initializers.items() if name in used]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, [b, length]) for n in ("input_ids", "attention_mask")]
    shapes: dict[str, list[str | int]] = {
        "dense_vecs": [b, weights.dim],
        "sparse_vecs": [b, length],
        "colbert_vecs": [b, "length_minus_1", weights.colbert_dim],
    }
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    domains = [helper.make_opsetid("", OPSET)]
    if file == ONNXRUNTIME:
        domains.append(helper.make_opsetid(CONTRIB, 1))
    return helper.make_model(
        helper.make_graph(nodes, "m3", inputs, outputs, initializers, value_info=g.shapes if file != MODEL else []),
        producer_name="m3-vdb",
        ir_version=IR_VERSION,
        opset_imports=domains,
    )


def _inputs(node: onnx.NodeProto) -> Iterator[str]:
    """Values that a node uses, itself or in a graph inside."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _inputs(inner)


def _embeddings(g: GraphBuilder) -> str:
    """LayerNorm(word + type + position). Position ids count real tokens; rows before padding id + 1 are not stored."""
    w = g.weights
    word = g.embedding("input_ids")
    counted = g.op("CumSum", ["attention_mask", g.constant(np.array(1, dtype=np.int64))])
    position = g.op("Sub", [counted, g.constant(np.array(1, dtype=np.int64))])  # from 0; padding's is never seen
    # Every text has token type 0, so its row is added to the position table once.
    table = w["embeddings.position_embeddings.weight"] + w["embeddings.token_type_embeddings.weight"][0]
    rows = table[PADDING_ID + 1 :]
    if (repeated := period(rows)) < len(rows):
        position = g.op("Mod", [position, g.constant(np.array(repeated, dtype=np.int64))])
    stored = np.float16 if w.precision == "int4" else w.float_type
    found = g.op("Gather", [g.constant(rows[:repeated].astype(stored, copy=False), name="positions"), position])
    if stored != w.float_type:
        found = g.op("Cast", [found], to=TensorProto.FLOAT)
    summed = g.op("Add", [word, found])
    return _layer_norm(g, summed, "embeddings.LayerNorm")


def period(rows: NDArray[np.float32]) -> int:
    """The smallest P with row i = row i mod P throughout, which is all that has to be stored.

    Positions extended by ``repeat`` (train/edit.py) and frozen since have the P of before; others n.

    Args:
        rows: float32 [n, d].
    """
    again = np.flatnonzero((rows == rows[0]).all(axis=1))[1:]
    return next((int(p) for p in again if np.array_equal(rows[p:], rows[:-p])), len(rows))


class Mask(NamedTuple):
    """What keeps padding out of attention: 0 for real tokens, ``MASK_BIAS`` for padding.

    Attributes:
        bias: [B, 1, 1, L], added to scores.
        ones: [B, L, h, 1], the number that each query gets for ``MultiHeadAttention``.
        last: [B, L, h, 1], the number that each key gets.
    """

    bias: str
    ones: str
    last: str


def _mask(g: GraphBuilder) -> Mask:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(g.weights.float_type))
    padding = g.op("Sub", [g.constant(1.0), g.op("Cast", ["attention_mask"], to=to)])
    with g.only(MODEL):
        bias = g.op("Mul", [g.op("Unsqueeze", [padding, g.constant([1, 2])]), g.constant(MASK_BIAS)])
    with g.only(ONNXRUNTIME):
        shape = g.op("Concat", [g.op("Shape", ["input_ids"]), g.constant([g.weights.heads, 1])], axis=0)
        ones = g.op("Expand", [g.constant(1.0), shape])
        keys = g.op("Mul", [g.op("Unsqueeze", [padding, g.constant([2, 3])]), g.constant(MASK_BIAS)])
        last = g.op("Mul", [ones, keys])
    return Mask(bias, ones, last)


def _layer(g: GraphBuilder, x: str, mask: Mask, *, prefix: str) -> str:
    attended = _attention(g, x, mask, prefix=prefix)
    x = _layer_norm(g, g.op("Add", [attended, x]), f"{prefix}attention.output.LayerNorm")
    outer = _feed_forward(g, x, prefix=prefix)
    return _layer_norm(g, g.op("Add", [outer, x]), f"{prefix}output.LayerNorm")


def _feed_forward(g: GraphBuilder, x: str, *, prefix: str) -> str:
    weight, bias = _linear(g, f"{prefix}intermediate.dense")
    widen = g.matrix(weight, name=f"{prefix}intermediate.weight"), g.vector(bias, name=f"{prefix}intermediate.bias")
    with g.only(MODEL):
        wide = _gelu(g, g.affine(x, *widen))
    weight, bias = _linear(g, f"{prefix}output.dense")
    narrow = g.matrix(weight, name=f"{prefix}output.weight"), g.vector(bias, name=f"{prefix}output.bias")
    with g.only(MODEL):
        result = g.affine(wide, *narrow)
    with g.only(ONNXRUNTIME):
        g.by_rows(x, lambda rows: g.affine(_gelu(g, g.affine(rows, *widen)), *narrow), name=result)
    return result


def _attention(g: GraphBuilder, x: str, mask: Mask, *, prefix: str) -> str:
    """Multi-head self-attention; queries, keys and values come from one product, queries scaled by 1/√k."""
    heads, k = g.weights.heads, g.weights.dim // g.weights.heads
    parts = [_linear(g, f"{prefix}attention.self.{name}") for name in ("query", "key", "value")]
    scale = 1 / math.sqrt(k)
    weight = np.concatenate([parts[0][0] * scale, parts[1][0], parts[2][0]]).astype(np.float32)
    offset = np.concatenate([parts[0][1] * scale, parts[1][1], parts[2][1]]).astype(np.float32)
    qkv = g.op("Reshape", [g.linear(x, weight, offset, name=f"{prefix}qkv", parts=3), g.constant([0, 0, 3, heads, k])])
    with g.only(MODEL):
        split = g.op("Transpose", [qkv], perm=[2, 0, 3, 1, 4])  # [3, B, h, L, k]
        query, key, value = (g.op("Gather", [split, g.constant(np.array(i, dtype=np.int64))], axis=0) for i in range(3))
        scores = g.op("MatMul", [query, g.op("Transpose", [key], perm=[0, 1, 3, 2])])
        attention = g.op("Softmax", [g.op("Add", [scores, mask.bias])], axis=-1)
        turned = g.op("Transpose", [g.op("MatMul", [attention, value])], perm=[0, 2, 1, 3])
        context = g.op("Reshape", [turned, g.constant([0, 0, g.weights.dim])])
    with g.only(ONNXRUNTIME):
        split = g.op("Transpose", [qkv], perm=[2, 0, 1, 3, 4])  # [3, B, L, h, k]
        query, key, value = (g.op("Gather", [split, g.constant(np.array(i, dtype=np.int64))], axis=0) for i in range(3))
        # The operator goes through the scores block by block only if it gets no mask. So queries have one number more,
        # 1, and keys the bias: a product is the score with its bias.
        longer = (g.op("Concat", [x, number], axis=-1) for x, number in ((query, mask.ones), (key, mask.last)))
        rows = [g.op("Reshape", [x, g.constant([0, 0, -1])]) for x in (*longer, value)]
        g.op("MultiHeadAttention", rows, name=context, domain=CONTRIB, num_heads=heads, scale=1.0)
    return g.linear(context, *_linear(g, f"{prefix}attention.output.dense"), name=f"{prefix}attention.output")


def _gelu(g: GraphBuilder, x: str) -> str:
    """Exact GELU, x · ½ · (1 + erf(x/√2)), in the shape that runtimes recognise and fuse."""
    erf = g.op("Erf", [g.op("Div", [x, g.constant(math.sqrt(2.0))])])
    return g.op("Mul", [g.op("Mul", [x, g.op("Add", [erf, g.constant(1.0)])]), g.constant(0.5)])


def _layer_norm(g: GraphBuilder, x: str, name: str) -> str:
    scale, bias = (g.vector(g.weights[f"{name}.{part}"], name=f"{name}.{part}") for part in ("weight", "bias"))
    return g.op("LayerNormalization", [x, scale, bias], axis=-1, epsilon=g.weights.layer_norm_eps)


def _linear(g: GraphBuilder, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return g.weights[f"{name}.weight"], g.weights[f"{name}.bias"]


def _heads(g: GraphBuilder, hidden: str) -> None:
    g.unit_rows(_sum_of_starts(g, hidden), name="dense_vecs")

    weight, bias = _linear(g, "sparse_linear")
    weights = g.op("Relu", [g.op("Add", [g.op("MatMul", [hidden, g.vector(weight.T, name="sparse.weight")]),
                                         g.vector(bias, name="sparse.bias")])])  # fmt: skip
    flat = g.to_float32(g.op("Squeeze", [weights, g.constant([-1])]))
    g.op("Mul", [flat, g.op("Cast", ["attention_mask"], to=TensorProto.FLOAT)], name="sparse_vecs")

    ends = [g.constant(value) for value in ([1], [np.iinfo(np.int64).max], [1])]
    tokens = g.op("Slice", [hidden, *ends[:2], ends[2]])  # everything after <s>
    weight, bias = _linear(g, "colbert_linear")
    projected = g.op("MatMul", [tokens, g.vector(weight.T, name="colbert.weight")])
    g.unit_rows(g.op("Add", [projected, g.vector(bias, name="colbert.bias")]), name="colbert_vecs")


def _sum_of_starts(g: GraphBuilder, hidden: str) -> str:
    """[B, d]: the sum of the states of all real ``<s>``; once normalised, their average (``pooling.pool_dense``).

    Where and ReduceSum, so that a text with one ``<s>`` keeps exactly its state and no padding can reach it. A product
    with a row of 0 and 1 would do too, but for its sake OpenVINO computes every LayerNorm in bfloat16.
    """
    start = g.op("Equal", ["input_ids", g.constant(np.array(CLS_ID, dtype=np.int64))])
    own = g.op("And", [start, g.op("Cast", ["attention_mask"], to=TensorProto.BOOL)])
    states = g.op("Where", [g.op("Unsqueeze", [own, g.constant([2])]), hidden, g.constant(0.0)])
    return g.op("ReduceSum", [states, g.constant([1])], keepdims=0)
