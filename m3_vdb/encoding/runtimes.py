"""Chooses what runs the model: the runtime, the device and the arithmetic, by what this machine has.

Nothing is measured when a model is opened; the rules come from measurements of m3-small and of BGE-M3's size
(docs/log.md, 2026-11-22 to 2026-11-29).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from m3_vdb.errors import ConfigError, MissingExtraError
from m3_vdb.imports import import_openvino, no_usage_data

RUNTIMES: Final = ("auto", "onnxruntime", "openvino")
DEVICES: Final = ("auto", "cpu", "cuda")
BF16, INT8, F32 = "bf16", "f32 with int8 products", "f32"
"""Arithmetic of a runtime. INT8 multiplies weights of 8 bits, in OpenVINO also those of 4-bit blocks, with activations
that are rounded in groups of 32; it is F32 for other weights."""

NO_CUDA: Final = (
    "onnxruntime has no CUDA: pip install 'm3-vdb[gpu]', then pip install --force-reinstall --no-deps onnxruntime-gpu"
)
"""onnxruntime and onnxruntime-gpu install into the same folder, and the one that was installed last is used."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs a model, and why.

    Attributes:
        name: "onnxruntime" or "openvino".
        device: "cpu" or "cuda".
        arithmetic: ``BF16``, ``INT8`` or ``F32``; onnxruntime computes in what the graph says.
        reason: for people: "the processor has AMX"; "" if nothing was chosen.
        on_cpu: what to choose on the CPU if a GPU that nobody asked for cannot be used; None makes that an error.
    """

    name: str
    device: str = "cpu"
    arithmetic: str = F32
    reason: str = ""
    on_cpu: str | None = None


def choose_runtime(runtime: str = "auto", device: str = "auto") -> Runtime:
    """Choose what runs the model on this machine.

    "auto" takes the first that there is: an NVIDIA GPU, if onnxruntime was installed with CUDA; OpenVINO on a processor
    that multiplies bfloat16 (AMX, AVX512-BF16) or int8 (VNNI); onnxruntime on the CPU. OpenVINO's arithmetic keeps a
    cosine of at least .999 to float32 for dense vectors and rows:

    | the processor has | arithmetic | lowest cosine (m3-small) |
    |---|---|---|
    | AMX or AVX512-BF16 | bfloat16 | .9999 |
    | AVX512-VNNI or AVX-VNNI | float32; int8 products for weights of 8 and 4 bits | .9992 |
    | neither | float32, slower than in onnxruntime | 1 |

    Args:
        runtime: "auto", "onnxruntime" or "openvino".
        device: "auto", "cpu" or "cuda".

    Raises:
        ConfigError: an unknown runtime or device, a runtime that does not support the device, or no GPU to be used.
        MissingExtraError: the runtime is not installed.
    """
    if runtime not in RUNTIMES or device not in DEVICES:
        raise ConfigError(
            f"runtime={runtime!r}, device={device!r}: expected one of {RUNTIMES} and one of {DEVICES} "
            f"(CUDA_VISIBLE_DEVICES chooses one of several GPUs)"
        )
    if runtime == "openvino":
        if device == "cuda":
            raise ConfigError("runtime='openvino' runs on CPUs: use runtime='onnxruntime' with device='cuda'")
        if find_spec("openvino") is None:
            raise MissingExtraError("runtime='openvino'", extra="openvino")
        return _openvino()
    if device != "cpu":
        fault = _cuda_fault()
        if fault is None:
            return _onnxruntime("cuda", on_cpu=runtime if device == "auto" else None)
        if device == "cuda":
            raise ConfigError(f"device='cuda', but {fault}")
    if runtime == "onnxruntime":
        return _onnxruntime()
    if find_spec("openvino") is None:
        return _onnxruntime(reason="OpenVINO is not installed")
    chosen = _openvino()
    if chosen.arithmetic == F32:
        return _onnxruntime(reason="OpenVINO is no faster without AMX, AVX512-BF16 or VNNI")
    return chosen


def _onnxruntime(device: str = "cpu", *, reason: str = "", on_cpu: str | None = None) -> Runtime:
    with no_usage_data():
        import onnxruntime  # noqa: F401, PLC0415 - here, so that opening a session needs the interpreter's lock no more

    return Runtime("onnxruntime", device, reason=reason, on_cpu=on_cpu)


def _openvino() -> Runtime:
    if "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        has = "AMX" if "amx_bf16" in _cpu_flags() else "AVX512-BF16" if "avx512_bf16" in _cpu_flags() else "bfloat16"
        return Runtime("openvino", arithmetic=BF16, reason=f"the processor has {has}")
    if _cpu_flags() & {"avx512_vnni", "avx_vnni"}:
        return Runtime("openvino", arithmetic=INT8, reason="the processor has VNNI, and neither AMX nor AVX512-BF16")
    return Runtime("openvino")


_CACHED_KERNELS: Final = 512
"""Compiled kernels to keep. Every shape of a batch has its own, about 1 MB for m3-small, and OpenVINO's default of 5000
lets a server, which sees thousands of shapes, grow to gigabytes (docs/log.md, 2026-11-29)."""


@cache
def openvino_core() -> Any:  # noqa: ANN401 - openvino.Core, optional import
    """The only OpenVINO Core of the process, never freed.

    A Core installs an alternate signal stack for its thread and restores the previous one when it is freed. If two
    Cores are freed in the order of their creation, the restored stack no longer exists, and the next Ctrl-C crashes the
    process (seen with OpenVINO 2026.4).
    """
    core = import_openvino().Core()
    core.set_property("CPU", {"CPU_RUNTIME_CACHE_CAPACITY": _CACHED_KERNELS})
    return core


@cache
def _cpu_flags() -> frozenset[str]:
    """Instruction sets as Linux names them; elsewhere none are known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def _cuda_fault() -> str | None:
    """Why onnxruntime cannot run on a GPU, as far as shows without importing it; None if it probably can."""
    if not any(_cuda_providers()):
        return NO_CUDA
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda): install it, or use device='cpu'"
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver finds no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES, or use device='cpu'"
    return None


def _cuda_providers() -> Iterator[Path]:
    """The installed onnxruntime's library for CUDA, found by its name: importing onnxruntime takes half a second."""
    spec = find_spec("onnxruntime")
    for folder in (spec and spec.submodule_search_locations) or []:
        yield from Path(folder, "capi").glob("*onnxruntime_providers_cuda.*")
