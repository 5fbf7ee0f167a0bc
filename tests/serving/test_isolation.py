"""The cost of imports, the exported names, and the hierarchy of errors."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import m3_vdb
from m3_vdb import errors

HEAVY = (
    "torch", "transformers", "qdrant_client", "qdrant_edge", "pymilvus", "onnxruntime", "openvino", "onnx",
    "huggingface_hub", "scipy", "train", "onnx_export",
)  # fmt: skip


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    loaded = modules_after("import m3_vdb")
    assert {"m3_vdb", "numpy", "tokenizers"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_encoding_loads_one_runtime_and_no_training_library(tiny_bundle):
    embed = f"m3_vdb.M3EmbeddingFunction({str(tiny_bundle)!r}, runtime='onnxruntime', device='cpu')"
    loaded = modules_after(f"import m3_vdb\n{embed}.encode_documents(['a text'])")
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "qdrant_client", "pymilvus", "openvino", "train"})


def test_exported_members():
    public = {name for name in vars(m3_vdb) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(m3_vdb, name))}
    exported = set(m3_vdb.__all__)
    assert len(exported) == len(m3_vdb.__all__), "a name occurs twice"
    assert exported == public - modules
    assert exported.isdisjoint(modules)


def documented_tree() -> dict[str, tuple[str, set[str]]]:
    """Name → (parent, further bases in parentheses) as drawn in the docstring of ``m3_vdb.errors``."""
    tree: dict[str, tuple[str, set[str]]] = {}
    above: list[str] = []
    for line in inspect.getdoc(errors).splitlines():
        drawing = line.lstrip("│├└─ ")
        name = drawing.split(" ")[0]
        if not line.startswith("    ") or not name.endswith("Error"):
            continue
        depth = (len(line) - len(drawing)) // 4 - 1
        above[depth:] = [name]
        rest = drawing.removeprefix(name).strip()
        extra = {rest[1 : rest.index(")")]} if rest.startswith("(") else set()
        tree[name] = (above[depth - 1] if depth else "Exception", extra)
    return tree


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    classes = {
        name: {base.__name__ for base in value.__bases__}
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert len(classes) > 10
    assert classes == {name: {parent, *extra} for name, (parent, extra) in documented_tree().items()}


@pytest.mark.parametrize("name", sorted(documented_tree()))
def test_every_error_can_be_caught_as_ours_and_has_a_docstring(name):
    error = getattr(errors, name)
    assert issubclass(error, errors.M3Error)
    assert error.__doc__


@pytest.mark.parametrize("kind", [errors.TextError, errors.TruncationError, errors.DocumentError])
def test_an_input_error_carries_the_index(kind):
    error = kind("item 7 is bad", index=7)
    assert (str(error), error.index, isinstance(error, ValueError)) == ("item 7 is bad", 7, True)


def test_a_missing_extra_is_an_import_error_with_the_install_command():
    error = errors.MissingExtraError("the Milvus store", extra="milvus")
    assert isinstance(error, ImportError)
    assert "pip install 'm3-vdb[milvus]'" in str(error)
