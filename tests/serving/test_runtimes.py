"""Which runtime, device and arithmetic is chosen, and why. Processors and GPUs that this machine lacks are stubs."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import numpy as np
import pytest

from m3_vdb import M3EmbeddingFunction, find_bundle
from m3_vdb.encoding import runtimes
from m3_vdb.encoding.pooling import DENSE, MULTI_VECTOR, SPARSE
from m3_vdb.encoding.runtimes import BF16, F32, INT8, Runtime, choose_runtime
from m3_vdb.encoding.sessions import OpenVinoSession, open_session
from m3_vdb.errors import ConfigError, MissingExtraError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "multilingual.jsonl"
AVX512 = ("avx2", "avx512f", "avx512_vnni")


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch):
    """Makes this machine one with other instructions, no GPU, and both runtimes installed."""

    def pretend(*flags: str, cuda: str | None = "no GPU") -> None:
        core = SimpleNamespace(get_property=lambda *_: ["FP32", "INT8", *(["BF16"] if "avx512_bf16" in flags else [])])
        monkeypatch.setattr(runtimes, "openvino_core", lambda: core)
        monkeypatch.setattr(runtimes, "_cpu_flags", lambda: frozenset(flags))
        monkeypatch.setattr(runtimes, "_cuda_fault", lambda: cuda)

    return pretend


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ((*AVX512, "avx512_bf16", "amx_bf16"), Runtime("openvino", "cpu", BF16, "the processor has AMX")),
        ((*AVX512, "avx512_bf16"), Runtime("openvino", "cpu", BF16, "the processor has AVX512-BF16")),
        (AVX512, Runtime("openvino", "cpu", INT8, "the processor has VNNI, and neither AMX nor AVX512-BF16")),
        (
            ("avx2", "avx_vnni"),
            Runtime("openvino", "cpu", INT8, "the processor has VNNI, and neither AMX nor AVX512-BF16"),
        ),
        (
            ("avx2",),
            Runtime("onnxruntime", "cpu", F32, "OpenVINO is no faster without AMX, AVX512-BF16 or VNNI"),
        ),
    ],
)
def test_auto_chooses_by_the_processor(processor, flags, chosen):
    processor(*flags)
    assert choose_runtime() == choose_runtime("auto", "cpu") == chosen
    assert choose_runtime("openvino").name == "openvino"
    assert choose_runtime("onnxruntime").name == "onnxruntime"


def test_auto_without_openvino_takes_onnxruntime(processor, monkeypatch):
    processor("avx512_bf16")
    monkeypatch.setattr(runtimes, "find_spec", lambda _: None)
    assert choose_runtime() == Runtime("onnxruntime", reason="OpenVINO is not installed")


def test_openvino_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'm3-vdb\[openvino\]'") as caught:
        choose_runtime("openvino")
    assert caught.value.extra == "openvino"


@pytest.mark.parametrize("choice", [("tensorrt", "auto"), ("auto", "tpu"), ("ONNXRUNTIME", "cpu"), ("auto", "")])
def test_an_unknown_runtime_or_device_lists_what_there_is(choice):
    with pytest.raises(ConfigError, match=r"'auto', 'onnxruntime', 'openvino'.*'auto', 'cpu', 'cuda'"):
        choose_runtime(*choice)


def test_openvino_on_a_gpu_is_refused_with_the_alternative():
    with pytest.raises(ConfigError, match="runtime='onnxruntime' with device='cuda'"):
        choose_runtime("openvino", "cuda")


class StubDriver:
    """NVIDIA's library libcuda, as a stub that finds ``count`` GPUs, or fails to start."""

    def __init__(self, count: int, *, code: int = 0) -> None:
        self._count, self._code = count, code

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._code

    def cuDeviceGetCount(self, count) -> int:  # noqa: N802
        count._obj.value = self._count
        return 0


def no_driver(name: str) -> StubDriver:
    raise OSError(name)


@pytest.mark.parametrize(
    ("built_for_cuda", "driver", "message"),
    [
        (False, no_driver, r"onnxruntime has no CUDA: pip install 'm3-vdb\[gpu\]', then .* --no-deps onnxruntime-gpu"),
        (True, no_driver, "there is no NVIDIA driver"),
        (True, lambda _: StubDriver(0), "the NVIDIA driver finds no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (True, lambda _: StubDriver(1, code=100), "the NVIDIA driver finds no GPU"),
    ],
)
def test_without_a_usable_gpu_cuda_is_an_error_and_auto_takes_the_cpu(monkeypatch, built_for_cuda, driver, message):
    monkeypatch.setattr(runtimes, "_cuda_providers", lambda: iter([Path("stub")] * built_for_cuda))
    monkeypatch.setattr(ctypes, "CDLL", driver)
    with pytest.raises(ConfigError, match=rf"^device='cuda', but {message}[^\n]*$"):
        choose_runtime(device="cuda")
    assert choose_runtime().device == choose_runtime("onnxruntime").device == "cpu"


def test_a_gpu_is_taken_before_any_processor(monkeypatch):
    monkeypatch.setattr(runtimes, "_cuda_providers", lambda: iter([Path("stub")]))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: StubDriver(1))
    assert choose_runtime().device == choose_runtime("auto", "cuda").device == "cuda"
    assert choose_runtime("auto", "cpu").device == choose_runtime("openvino").device == "cpu"


class StubOnnxRuntime:
    """onnxruntime-gpu as a stub: built for CUDA, which does not start on this machine."""

    __version__ = "1.0-stub"
    SessionOptions = RunOptions = SimpleNamespace

    def __init__(self, *, raises: bool, cuda: bool = True) -> None:
        self._raises, self._cuda, self._preloaded = raises, cuda, False

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"] * self._cuda + ["CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        self._preloaded = True
        sys.stdout.write("Failed to load libcublas.so\n")

    def InferenceSession(self, path, *, providers, **options):  # noqa: N802
        assert self._preloaded or "CUDAExecutionProvider" not in providers, "what pip installed of CUDA is not found"
        if self._raises and "CUDAExecutionProvider" in providers:
            raise RuntimeError("CUDA failure 35: driver version is insufficient\nmore lines")
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])


@pytest.mark.parametrize("raises", [True, False])
def test_a_gpu_whose_cuda_does_not_start(monkeypatch, processor, capsys, raises):
    processor("avx2", cuda=None)
    monkeypatch.setitem(sys.modules, "onnxruntime", StubOnnxRuntime(raises=raises))
    message = r"device='cuda', but onnxruntime cannot use the GPU \([^\n]*\): install the CUDA and cuDNN"
    with pytest.raises(ConfigError, match=message):
        open_session(Path("model.onnx"), choose_runtime(device="cuda"))
    with pytest.warns(UserWarning, match=rf"the model runs on the CPU: {message}"):
        session = open_session(Path("model.onnx"), choose_runtime())
    assert "cpu, f32 (OpenVINO is no faster" in session.description
    assert capsys.readouterr().out == ""


def test_onnxruntime_that_was_installed_over_onnxruntime_gpu(monkeypatch, processor):
    processor("avx2", cuda=None)
    monkeypatch.setitem(sys.modules, "onnxruntime", StubOnnxRuntime(raises=False, cuda=False))
    message = (
        r"device='cuda', but onnxruntime has no CUDA: [^\n]*pip install --force-reinstall --no-deps onnxruntime-gpu$"
    )
    with pytest.raises(ConfigError, match=message):
        open_session(Path("model.onnx"), choose_runtime(device="cuda"))
    with pytest.warns(UserWarning, match=rf"the model runs on the CPU: {message}"):
        open_session(Path("model.onnx"), choose_runtime())


def test_the_description_says_what_was_chosen_and_why(tiny_bundle):
    description = M3EmbeddingFunction(tiny_bundle).session.description
    chosen = choose_runtime()
    assert description.startswith(chosen.name)
    assert description.endswith(f", {chosen.arithmetic} ({chosen.reason})")
    asked = M3EmbeddingFunction(tiny_bundle, runtime="onnxruntime").session.description
    assert asked.startswith("onnxruntime 1")
    assert asked.endswith(", cpu, f32")


@pytest.mark.parametrize("arithmetic", [BF16, INT8])
def test_faster_arithmetic_keeps_a_cosine_of_999_and_the_token_ids(arithmetic):
    """m3-small as it ships; int8 products that the processor lacks are computed in float32."""
    if arithmetic == BF16 and choose_runtime("openvino").arithmetic != BF16:
        pytest.skip("this processor does not multiply bfloat16")
    bundle = find_bundle()
    rows = [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in rows[::150]]
    ids, mask = bundle.read_tokenizer().encode(texts, max_length=bundle.max_length).padded(np.arange(len(texts)))
    outputs = (DENSE, SPARSE, MULTI_VECTOR)
    exact, fast = (
        OpenVinoSession(bundle.path / "model.onnx", arithmetic=one).run(outputs, ids, mask) for one in (F32, arithmetic)
    )
    assert (exact[DENSE] * fast[DENSE]).sum(-1).min() >= 0.999
    assert (exact[MULTI_VECTOR] * fast[MULTI_VECTOR]).sum(-1)[mask[:, 1:] == 1].min() >= 0.999
    if sys.platform == "linux" and "avx512_vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        assert np.abs(exact[DENSE] - fast[DENSE]).max() > 1e-4, "it was computed in float32 after all"
    heavy = np.maximum(exact[SPARSE], fast[SPARSE]) > 0.02
    assert ((exact[SPARSE] > 0) == (fast[SPARSE] > 0))[heavy].all(), "only weights next to 0 come and go"


def test_openvino_is_opened_without_its_converter(tiny_bundle):
    """Which takes longer to import than the rest of it; who uses it still can (test_home_folder.py)."""
    code = f"""
        import sys
        from m3_vdb import M3EmbeddingFunction
        M3EmbeddingFunction({str(tiny_bundle)!r}, runtime="openvino")
        print("openvino.tools.ovc" in sys.modules)
        import openvino
        print(hasattr(openvino, "no_such_name"), callable(openvino.convert_model), "openvino.tools.ovc" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout == "False\nFalse True True\n", done.stderr
