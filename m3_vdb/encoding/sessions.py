"""Runtimes for the ONNX model.

``OnnxRuntimeSession`` runs it on CPUs and NVIDIA GPUs, ``OpenVinoSession`` on CPUs, in bfloat16 if
the processor multiplies it natively. Both compute only the requested outputs and can be used from several threads.
Shapes: B texts, L padded length.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import BundleError, ConfigError, M3Error, MissingExtraError
from m3_vdb.imports import no_usage_data
from m3_vdb.inputs import whole_number
from m3_vdb.types import FloatArray

RUNTIMES: Final = ("auto", "onnxruntime", "openvino")
DEVICES: Final = ("auto", "cpu", "cuda")


class Session(Protocol):
    """A loaded model."""

    @property
    def description(self) -> str:
        """Runtime, version, device and arithmetic, for display: "openvino 2026.4, cpu, bf16"."""
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
    """onnxruntime on a CPU, or on a GPU through its CUDA provider.

    Args:
        model: path of the ONNX file.
        device: "cpu" or "cuda".
        threads: threads per forward pass; None uses all cores.

    Raises:
        BundleError: the file cannot be loaded.
        ConfigError: ``device="cuda"``, and this onnxruntime has no CUDA.
    """

    def __init__(self, model: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        with no_usage_data():
            import onnxruntime  # noqa: PLC0415 - takes half a second, and OpenVINO does not need it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.enable_mem_pattern = False  # patterns are not reused, because lengths differ between calls
        options.log_severity_level = 3
        providers = ["CUDAExecutionProvider"] if device == "cuda" else []
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), sess_options=options, providers=[*providers, "CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors derive directly from Exception
            raise BundleError(f"onnxruntime cannot load {model}: {error}") from error
        if device == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise ConfigError("device='cuda', but onnxruntime has no CUDA: pip install 'm3-vdb[gpu]'")
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True
        self.description = f"onnxruntime {onnxruntime.__version__}, {device}"

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
    """OpenVINO on a CPU.

    OpenVINO computes every output of a compiled model. So each set of requested outputs gets a compiled model of its
    own, on first use.

    Args:
        model: path of the ONNX file.
        threads: threads per forward pass; None uses all cores.
        bf16: multiply in bfloat16; None does so if the processor has the instructions.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        BundleError: the file cannot be loaded.
    """

    def __init__(self, model: Path, *, threads: int | None = None, bf16: bool | None = None) -> None:
        if find_spec("openvino") is None:
            raise MissingExtraError("runtime='openvino'", extra="openvino")
        self._core = _openvino_core()
        import openvino  # noqa: PLC0415 - optional

        try:
            self._model = self._core.read_model(model)
        except RuntimeError as error:
            raise BundleError(f"OpenVINO cannot load {model}: {error}") from error
        use_bf16 = _native_bf16() if bf16 is None else bf16
        self._config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if use_bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            self._config["INFERENCE_NUM_THREADS"] = threads
        self._compiled: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()
        version = openvino.__version__.split("-")[0]
        self.description = f"openvino {version}, cpu, {'bf16' if use_bf16 else 'f32'}"

    def run(
        self, outputs: Sequence[str], input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> Mapping[str, FloatArray]:
        """See ``Session.run``."""
        try:
            request = self._for(tuple(outputs)).create_infer_request()
            result = request.infer({"input_ids": input_ids, "attention_mask": attention_mask})
        except RuntimeError as error:
            raise M3Error(f"OpenVINO failed on a batch of {input_ids.shape}: {error}") from error
        return {name: np.array(result[name], dtype=np.float32) for name in outputs}

    def _for(self, outputs: tuple[str, ...]) -> Any:  # noqa: ANN401 - openvino.CompiledModel, optional import
        with self._lock:
            if outputs not in self._compiled:
                import openvino  # noqa: PLC0415 - optional

                results = [self._model.output(name) for name in outputs]
                part = openvino.Model(
                    [openvino.opset13.result(r.get_node().input_value(0)) for r in results],
                    self._model.get_parameters(),
                )
                for i, name in enumerate(outputs):
                    part.output(i).get_tensor().set_names({name})
                self._compiled[outputs] = self._core.compile_model(part, "CPU", self._config)
            return self._compiled[outputs]


def open_session(model: Path, *, runtime: str = "auto", device: str = "auto", threads: int | None = None) -> Session:
    """Load a model.

    "auto" chooses CUDA if onnxruntime has it, else OpenVINO if it is installed and the processor multiplies bfloat16
    natively (AMX, AVX512-BF16), else onnxruntime on the CPU.

    Args:
        model: path of the ONNX file.
        runtime: "auto", "onnxruntime" or "openvino".
        device: "auto", "cpu" or "cuda".
        threads: threads per forward pass; None uses all cores.

    Raises:
        ConfigError: an unknown runtime or device, or a runtime that does not support the device.
        MissingExtraError: the runtime is not installed.
        BundleError: the file cannot be loaded.
    """
    if runtime not in RUNTIMES or device not in DEVICES:
        raise ConfigError(
            f"runtime={runtime!r}, device={device!r}: expected one of {RUNTIMES} and one of {DEVICES} "
            f"(CUDA_VISIBLE_DEVICES chooses one of several GPUs)"
        )
    if threads is not None:
        threads = whole_number("threads", threads, least=1, expected="expected a whole number, at least 1, or None")
    if runtime == "openvino" and device == "cuda":
        raise ConfigError("runtime='openvino' runs on CPUs: use runtime='onnxruntime' with device='cuda'")
    if runtime == "openvino":
        return OpenVinoSession(model, threads=threads)
    if device == "cuda" or (device == "auto" and _has_cuda()):
        return OnnxRuntimeSession(model, device="cuda", threads=threads)
    if runtime == "auto" and find_spec("openvino") is not None and _native_bf16():
        return OpenVinoSession(model, threads=threads)
    return OnnxRuntimeSession(model, threads=threads)


def _has_cuda() -> bool:
    """Whether the installed onnxruntime was built for CUDA, seen by its files: importing it takes half a second."""
    spec = find_spec("onnxruntime")
    folders = (spec and spec.submodule_search_locations) or []
    return any(True for folder in folders for _ in Path(folder, "capi").glob("*onnxruntime_providers_cuda.*"))


@cache
def _openvino_core() -> Any:  # noqa: ANN401 - openvino.Core, optional import
    """The only OpenVINO Core of the process, never freed.

    A Core installs an alternate signal stack for its thread and restores the previous one when it is freed. If two
    Cores are freed in the order of their creation, the restored stack no longer exists, and the next Ctrl-C crashes the
    process (seen with OpenVINO 2026.4).
    """
    with no_usage_data():
        import openvino  # noqa: PLC0415 - optional

    return openvino.Core()


def _native_bf16() -> bool:
    return "BF16" in _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
