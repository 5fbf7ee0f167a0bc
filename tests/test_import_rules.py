"""The import rules of docs/architecture.md: who may use whom, no circles, no private names across packages."""

from __future__ import annotations

import ast
import graphlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("m3_vdb", "onnx_export", "train", "benchmarks", "examples")
FLOORS = [
    {"errors", "notices", "imports"},
    {
        "types",
        "inputs",
        "streams",
        "jsonl",
        "marks",
        "weights",
        "bm25",
        "scoring",
        "filters",
        "filter_parser",
        "boosts",
        "conditions",
    },
    {"encoding"},
    {"stores"},
    {"passages", "retry", "writer", "explain"},
    {"index", "async_index", "compat"},
    {"ingest", "evaluation"},
    {"integrations", "serve"},
    {"cli", "__main__", "__init__"},
]
"""Rooms of m3_vdb; each may import from its own floor and those before it."""
CONVERTERS = ("m3_vdb.cli.export", "m3_vdb.encoding.hub")
"""Modules of m3_vdb that use onnx_export, inside a function."""
HEAVY = {"torch", "transformers"}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def home(module: str) -> list[str]:
    """The package of a module, part by part."""
    parts = module.split(".")
    return parts if FILES[module].name == "__init__.py" else parts[:-1]


@cache
def imports(module: str, *, lazy: bool) -> set[str]:
    """Modules of this project and others that a module imports; lazy ones are those inside functions."""
    found = set()
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    late = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only or (id(node) in late and not lazy):
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = home(module)
            source = ".".join(
                [*package[: len(package) + 1 - node.level] * bool(node.level), *([node.module] if node.module else [])]
            )
            for name in node.names:
                inner = f"{source}.{name.name}"
                found.add(inner if inner in FILES or name.name.startswith("_") else source)
    return found


def ours(module: str, *, lazy: bool = True) -> set[str]:
    return {name for name in imports(module, lazy=lazy) if name in FILES}


def floor(module: str) -> int:
    room = module.split(".")[1] if "." in module else "__init__"
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def modules(package: str) -> list[str]:
    return [name for name in FILES if name.split(".")[0] == package]


def test_a_room_imports_only_from_its_own_floor_and_those_below():
    for module in modules("m3_vdb"):
        others = {name for name in ours(module) if not name.startswith("m3_vdb")}
        assert not {name for name in others if module not in CONVERTERS or not name.startswith("onnx_export.")}, module
        assert others.isdisjoint(imports(module, lazy=False)), f"{module}: onnx_export is an extra"
        assert floor(module) >= max(map(floor, ours(module) - others), default=0), module
        assert not HEAVY & {name.split(".")[0] for name in imports(module, lazy=True)}, module


def test_the_export_uses_the_lower_floors_alone():
    for module in modules("onnx_export"):
        assert not HEAVY & {name.split(".")[0] for name in imports(module, lazy=True)}, module
        if module == "onnx_export.__main__":  # "m3-vdb export" by another name
            continue
        others = [name for name in ours(module) if not name.startswith("onnx_export")]
        assert all(name.startswith("m3_vdb.") and floor(name) <= 2 for name in others), (module, others)


def test_private_modules_stay_in_their_package_and_tests_are_not_imported():
    for module in FILES:
        for name in imports(module, lazy=True):
            parts = name.split(".")
            assert parts[0] != "tests", module
            private = next((i for i, part in enumerate(parts) if part.startswith("_")), None)
            if private is not None and parts[0] in PACKAGES:
                assert parts[:private] == home(module)[:private], f"{module} imports {name}"


def test_there_is_no_circle():
    graphlib.TopologicalSorter({module: ours(module, lazy=False) for module in FILES}).prepare()
