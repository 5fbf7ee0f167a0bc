"""Runtimes for the ONNX model.

``OnnxRuntimeSession`` runs it on CPUs and NVIDIA GPUs, ``OpenVinoSession`` on CPUs; ``runtimes.py`` chooses. Both can
be used from several threads. Shapes: B texts, L padded length.
"""

from __future__ import annotations

import ctypes
import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from m3_vdb.encoding.bundle import ONNXRUNTIME
from m3_vdb.encoding.compiled import compiled_model
from m3_vdb.encoding.model_files import brief
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.encoding.runtimes import BF16, F32, INT8, NO_CUDA, Runtime, choose_runtime, openvino_core
from m3_vdb.encoding.tokenizer import PAD
from m3_vdb.errors import BundleError, ConfigError, M3Error
from m3_vdb.imports import no_usage_data
from m3_vdb.inputs import whole_number
from m3_vdb.types import FloatArray

_GROUP: Final = {BF16: 0, INT8: 32, F32: 0}
"""Activations that are rounded to int8 together; 0 rounds none. Groups of 64 gain 5 %, and rows fall to a cosine of
.9986 (docs/log.md, 2026-11-29)."""
_WEIGHT_GROUP: Final = 32
"""Weights that have a scale together where they are rounded to int8, as the blocks of a file have."""
_SMALL: Final = 2048
"""Tokens of a batch for which OpenVINO takes a fifth of its time to generate code for a new shape."""
_WARM_UP: Final = np.zeros((1, 8), np.int64)


class Session(Protocol):
    """A loaded model."""

    @property
    def description(self) -> str:
        """What runs the model, for display: "openvino 2026.4, cpu, bf16 (the processor has AMX)".

        Runtime, version, device and arithmetic determine the vectors; why they were chosen follows in brackets.
        """
        ...

    def run(
        self, outputs: Sequence[str], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> Mapping[str, FloatArray]:
        """One forward pass.

        Args:
            outputs: names of the outputs to compute.
            input_ids: int64 [B, L].
            attention_mask: int64 [B, L], 1 for real tokens.

        Returns:
            Name → float32 array, for the names in ``outputs``.

        Raises:
            M3Error: the runtime failed; the message contains its own.
        """
        ...


class OnnxRuntimeSession:
    """onnxruntime on a CPU, or on a GPU through its CUDA provider. Computes only the requested outputs.

    Args:
        model: path of the ONNX file.
        device: "cpu" or "cuda".
        threads: threads per forward pass; None uses all cores.
        reason: why this runtime, for ``description``.

    Raises:
        BundleError: the file cannot be loaded.
        ConfigError: ``device="cuda"``, and onnxruntime cannot use the GPU.
    """

    def __init__(self, model: Path, *, device: str = "cpu", threads: int | None = None, reason: str = "") -> None:
        with no_usage_data():
            import onnxruntime  # noqa: PLC0415 - OpenVINO does not need it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.enable_mem_pattern = False  # patterns are not reused, because lengths differ between calls
        options.enable_mem_reuse = False  # it keeps what is no longer needed until something of the same shape comes
        options.log_severity_level = 3
        if device == "cuda":
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise ConfigError(f"device='cuda', but {NO_CUDA}")
            # Libraries of CUDA that pip installed are found only so; it prints about those that it does not find.
            with redirect_stdout(io.StringIO()):
                onnxruntime.preload_dlls()
        providers = ["CUDAExecutionProvider"] if device == "cuda" else []
        try:
            self._session = onnxruntime.InferenceSession(
                str(model),
                sess_options=options,
                providers=[*providers, "CPUExecutionProvider"],
                enable_fallback=0,  # it prints
            )
        except Exception as error:  # onnxruntime's errors derive directly from Exception
            if device == "cuda" and "CUDA" in str(error):
                raise _no_gpu(error) from error
            raise BundleError(f"onnxruntime cannot load {model}: {error}") from error
        if device == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise _no_gpu("CUDA or cuDNN is missing, or of another version than this onnxruntime needs")
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        # That file is small, because its weights are in another one.
        rounds = model.name == ONNXRUNTIME and b"MatMulNBits" in model.read_bytes()
        kind = f"cpu, {INT8 if rounds else F32}" if device == "cpu" else device
        self.description = f"onnxruntime {onnxruntime.__version__}, {kind}{_in_brackets(reason)}"

    def run(
        self, outputs: Sequence[str], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> Mapping[str, FloatArray]:
        """See ``Session.run``."""
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        try:
            arrays = self._session.run(list(outputs), feed, self._options)
        except Exception as error:
            raise M3Error(f"onnxruntime failed on a batch of {input_ids.shape}: {error}") from error
        return dict(zip(outputs, arrays, strict=True))


class OpenVinoSession:
    """OpenVINO on a CPU. Computes all outputs, and copies the requested ones.

    The heads are less than a hundredth of a forward pass, and a compiled model per set of outputs would hold the
    weights once more.

    Args:
        model: path of the ONNX file.
        arithmetic: ``runtimes.BF16``, ``INT8`` or ``F32``.
        threads: threads per forward pass; None uses all cores.
        reason: why this runtime, for ``description``.

    Raises:
        BundleError: the file cannot be loaded.
    """

    def __init__(self, model: Path, *, arithmetic: str = F32, threads: int | None = None, reason: str = "") -> None:
        core = openvino_core()
        import openvino  # noqa: PLC0415 - optional

        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if arithmetic == BF16 else "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP[arithmetic],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads

        def compiled() -> Any:  # noqa: ANN401 - openvino.CompiledModel, optional import
            if arithmetic == INT8:
                return core.compile_model(_int8_products(core.read_model(str(model))), "CPU", config)
            return core.compile_model(str(model), "CPU", config)  # one call waits for the interpreter's lock once

        try:
            self._compiled, self._mapped = compiled_model(core, model, config, compiled)
        except RuntimeError as error:
            raise BundleError(f"OpenVINO cannot load {model}: {error}") from error
        # The first forward pass generates code and rearranges the weights.
        self._compiled({"input_ids": _WARM_UP, "attention_mask": np.ones_like(_WARM_UP)})
        version = openvino.__version__.split("-")[0]
        self.description = f"openvino {version}, cpu, {arithmetic}{_in_brackets(reason)}"

    def run(
        self, outputs: Sequence[str], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> Mapping[str, FloatArray]:
        """See ``Session.run``."""
        length = input_ids.shape[1]
        more = (0, 0), (0, _compiled_length(input_ids) - length)
        ids, mask = np.pad(input_ids, more, constant_values=PAD), np.pad(attention_mask, more)
        try:
            result = self._compiled.create_infer_request().infer(
                {"input_ids": ids, "attention_mask": mask}, share_outputs=True
            )
            kept = {DENSE: slice(None), SPARSE: slice(length), MULTI_VECTOR: slice(length - 1)}
            return {name: np.array(result[name][:, kept[name]], dtype=np.float32) for name in outputs}
        except (RuntimeError, KeyError) as error:
            raise M3Error(f"OpenVINO failed on a batch of {input_ids.shape}: {error}") from error


def _int8_products(model: Any) -> Any:  # noqa: ANN401 - openvino.Model, optional import
    """Round the weights of a file with 4-bit blocks to int8 in groups of 32 inputs, so that products can be int8.

    OpenVINO would expand them to float32. Products with more inputs than outputs stay float32: the second of the
    feed-forward part takes GELU's outputs, hardly any of them negative, so half the levels would be wasted, and the
    rows of m3-small would fall to a cosine of .9988 (.9992 so; docs/log.md). Other files are left alone: 8-bit weights
    are multiplied as they are, and float ones are meant to be exact.
    """
    from openvino import opset13 as ops  # noqa: PLC0415 - optional
    from openvino.passes import ConstantFolding, Manager  # noqa: PLC0415 - optional

    products = [op for op in model.get_ordered_ops() if op.get_type_name() == "MatMul" and _has_blocks(op)]
    if not products:
        return model
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    for op in products:
        weight = np.asarray(op.input_value(1).get_node().data).T
        outputs, inputs = weight.shape
        if inputs > outputs or inputs % _WEIGHT_GROUP:
            continue
        groups = weight.reshape(outputs, -1, _WEIGHT_GROUP)
        scales = np.maximum(np.abs(groups).max(axis=-1, keepdims=True), np.finfo(np.float32).tiny) / 127
        levels = ops.convert(ops.constant(np.rint(groups / scales).astype(np.int8)), "f32")
        rounded = ops.reshape(ops.multiply(levels, ops.constant(scales)), ops.constant([outputs, inputs]), False)
        product = ops.matmul(op.input_value(0), rounded, False, True)
        for target in op.output(0).get_target_inputs():
            target.replace_source_output(product.output(0))
    return model


def _has_blocks(op: Any) -> bool:  # noqa: ANN401 - openvino.Node
    """Whether the right side of a product is made of bytes [out, in / 2], two 4-bit weights in each."""
    found, nodes = False, [op.input_value(1).get_node()]
    while nodes:
        node = nodes.pop()
        if node.get_type_name() == "Parameter":
            return False
        is_bytes = node.get_type_name() == "Constant" and node.get_element_type().to_string() == "u8"
        found |= is_bytes and len(node.get_output_shape(0)) == 2  # 8-bit weights have three axes
        nodes += [value.get_node() for value in node.input_values()]
    return found


def _compiled_length(input_ids: NDArray[np.int64]) -> int:
    """The length to which a small batch is padded, so that fewer shapes occur: at most a quarter more."""
    length: int = input_ids.shape[1]
    if input_ids.size > _SMALL:
        return length
    step: int = 1 << max(0, length.bit_length() - 3)
    return -(-length // step) * step


def open_session(model: Path, chosen: Runtime, *, threads: int | None = None) -> Session:
    """Load a model. It takes no part of the interpreter's lock, so other things can be read meanwhile.

    Args:
        model: path of the ONNX file.
        chosen: what runs it (``runtimes.choose_runtime``).
        threads: threads per forward pass; None uses all cores.

    Raises:
        ConfigError: ``threads`` is not positive, or the GPU that was asked for cannot be used.
        BundleError: the file cannot be loaded.
    """
    if threads is not None:
        threads = whole_number("threads", threads, least=1, expected="expected a whole number, at least 1, or None")
    session = _load(model, chosen, threads=threads)
    _return_freed_memory()
    return session


def _load(model: Path, chosen: Runtime, *, threads: int | None) -> Session:
    if chosen.name == "openvino":
        return OpenVinoSession(model, arithmetic=chosen.arithmetic, threads=threads, reason=chosen.reason)
    if chosen.device == "cpu" and (own := model.with_name(ONNXRUNTIME)).is_file():
        model = own
    try:
        return OnnxRuntimeSession(model, device=chosen.device, threads=threads, reason=chosen.reason)
    except ConfigError as error:
        if chosen.on_cpu is None:
            raise
        warnings.warn(f"the model runs on the CPU: {error}", stacklevel=2)
        return _load(model, choose_runtime(chosen.on_cpu, "cpu"), threads=threads)


def _return_freed_memory() -> None:
    """Give the system back what loading has freed, where the C library keeps it.

    Runtimes unpack weights in many steps; glibc keeps 0.84 GB of that for m3-small in onnxruntime (docs/log.md).
    """
    if trim := getattr(ctypes.CDLL(None) if sys.platform == "linux" else None, "malloc_trim", None):
        trim(0)


def _no_gpu(reason: object) -> ConfigError:
    return ConfigError(
        f"device='cuda', but onnxruntime cannot use the GPU ({brief(reason)}): install the CUDA and cuDNN that it asks "
        f"for (pip install 'onnxruntime-gpu[cuda,cudnn]'), or use device='cpu'"
    )


def _in_brackets(reason: str) -> str:
    return f" ({reason})" if reason else ""
