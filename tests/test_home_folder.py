"""No command and no import writes into the home folder, looks anything up, or sends usage data.

Only models of more than 8 MiB are kept there in compiled form (``serving/test_compiled.py``); this one is smaller.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[1]
CLI = ("-c", "from m3_vdb.cli.main import main; main()")
LOOK = """
import ipaddress, os, socket
real = socket.getaddrinfo
def look(host, *rest, **named):
    try:
        ipaddress.ip_address(host or "::")
    except ValueError:
        if host not in ("localhost", socket.gethostname()):
            with open(os.environ["LOOKED_UP"], "a") as file:
                print(host, file=file)
    return real(host, *rest, **named)
socket.getaddrinfo = look
"""


class Home:
    """A program run with a home folder of its own, which holds nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "home"
        self.folder.mkdir()
        look = folder / "look"  # sitecustomize runs before the program does
        look.mkdir()
        (look / "sitecustomize.py").write_text(LOOK)
        # Little of what the tests were started with: CI=true alone would keep OpenVINO quiet.
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": os.pathsep.join([str(look), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            "LOOKED_UP": str(folder / "looked_up"),
        }

    def run(self, *command: str, **variables: str) -> str:
        """What it printed; it and the processes that it began looked nothing up and left nothing in the home folder."""
        done = subprocess.run(
            [sys.executable, *command],
            env={**self.environment, **variables},
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not (self.folder.parent / "looked_up").exists()
        assert list(self.folder.rglob("*")) == []
        return done.stdout

    def python(self, code: str, **variables: str) -> str:
        return self.run("-c", dedent(code), **variables)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_an_encode_leaves_nothing_and_looks_nothing_up(home: Home, tiny_bundle: Path) -> None:
    said = home.python(f"""
        import os, sys
        from m3_vdb import M3EmbeddingFunction
        before = dict(os.environ)
        for runtime in "onnxruntime", "openvino", "auto":
            embed = M3EmbeddingFunction({str(tiny_bundle)!r}, runtime=runtime)
            print(len(embed.encode_documents(["a text"])))
            print(dict(os.environ) == before, "openvino_telemetry" in sys.modules)
        """)
    assert said == "1\nTrue False\n" * 3


@pytest.mark.parametrize(("runtime", "store"), [("onnxruntime", "notes.qdrant"), ("openvino", "notes.milvus.db")])
def test_the_command_line_leaves_nothing_and_looks_nothing_up(
    home: Home, tiny_bundle: Path, runtime: str, store: str
) -> None:
    (home.folder.parent / "corpus.jsonl").write_text('{"id": "1", "text": "a text"}\n')
    options = ("--store", store, "--model", str(tiny_bundle), "--runtime", runtime)
    home.run(*CLI, "ingest", "corpus.jsonl", *options)
    assert "a text" in home.run(*CLI, "search", "question", *options)


@pytest.mark.integration
def test_a_cluster_that_is_begun_for_an_ingest_leaves_nothing_and_looks_nothing_up(home: Home) -> None:
    said = home.python("""
        import os
        from m3_vdb.ingest.ray_cluster import connected
        with connected(None, cpus=1):
            import ray
            from ray._common.usage.usage_lib import usage_stats_enabled
            print(usage_stats_enabled(), ray.get(ray.remote(usage_stats_enabled).remote()))
        print("RAY_USAGE_STATS_ENABLED" in os.environ)
        """)
    assert said == "False False\nFalse\n"


def test_who_uses_openvino_s_telemetry_and_its_tools_still_can(home: Home, tiny_bundle: Path) -> None:
    said = home.python(f"""
        from m3_vdb import M3EmbeddingFunction
        embed = M3EmbeddingFunction({str(tiny_bundle)!r}, runtime="openvino")
        import openvino, openvino_telemetry
        from openvino_telemetry.main import Telemetry
        print(Telemetry is openvino_telemetry.Telemetry)
        print(len(openvino.convert_model({str(tiny_bundle / "model.onnx")!r}).outputs))
        """)
    assert said == "True\n3\n"


def test_a_setting_of_one_s_own_stands(home: Home, tiny_bundle: Path) -> None:
    said = home.python(
        f"""
        import os, sys
        import openvino_telemetry
        from m3_vdb import M3EmbeddingFunction
        for runtime in "onnxruntime", "openvino":
            M3EmbeddingFunction({str(tiny_bundle)!r}, runtime=runtime)
        print(os.environ["ORT_DISABLE_TELEMETRY"], sys.modules["openvino_telemetry"] is openvino_telemetry)
        """,
        ORT_DISABLE_TELEMETRY="true",
    )
    assert said == "true True\n"


def test_a_client_library_that_brings_onnxruntime_with_it_is_quiet_as_well(home: Home) -> None:
    """Where fastembed is installed, qdrant-client imports it, and it imports onnxruntime."""
    (home.folder.parent / "look" / "fastembed.py").write_text("import onnxruntime")
    said = home.python("""
        import sys
        from m3_vdb.errors import StoreConnectionError
        from m3_vdb.stores import open_store
        try:
            open_store("qdrant://127.0.0.1:1/notes", identity=None, create=False)
        except StoreConnectionError:
            print("onnxruntime" in sys.modules)
        """)
    assert said == "True\n"
