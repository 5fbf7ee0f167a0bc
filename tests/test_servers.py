"""``make test-servers`` and ``compose.yaml``: what can be checked of them without Docker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.stores.conftest import SERVERS

ROOT = Path(__file__).parents[1]
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def recipe() -> str:
    command = ["make", "--dry-run", "--no-print-directory", "VENV=.venv", "test-servers"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # make test sets some
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=env).stdout


@pytest.mark.parametrize("name", SERVERS)
def test_the_servers_are_pinned_and_where_the_tests_look(name):
    assert re.fullmatch(rf"[a-z/]+:\$\{{{name.upper()}_VERSION:-v\d+\.\d+\.\d+\}}", SERVICES[name]["image"])
    (url,) = re.findall(rf"{SERVERS[name]}={name}://localhost:(\d+)", recipe())
    assert f"{url}:{url}" in SERVICES[name]["ports"]


def test_the_servers_are_stopped_whatever_the_tests_say(tmp_path):
    """The recipe with a docker that does nothing and a pytest that fails."""
    script = recipe().replace("\\\n", " ").splitlines()[-1]
    assert "up --detach --wait qdrant milvus" in script
    calls = tmp_path / "calls"
    for program, code in (("docker", 0), ("python", 3)):
        fake = tmp_path / program
        fake.write_text(f'#!/bin/sh\necho {program} "$@" >> {calls}\nexit {code}\n')
        fake.chmod(0o755)
    script = script.replace(".venv/bin/python", str(tmp_path / "python")).replace("docker ", f"{tmp_path}/docker ")
    done = subprocess.run([shutil.which("sh"), "-c", script], check=False)
    assert done.returncode == 3
    up, tests, down = calls.read_text().splitlines()
    assert " up " in up
    assert tests == "python -m pytest tests/stores"
    assert down.endswith("down --volumes")
