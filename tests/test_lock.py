"""The lock and NOTICE cover what pyproject.toml requires, on every Python and platform."""

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = [Requirement(line) for line in LOCK.splitlines() if line and not line.startswith("#")]


def asked() -> list[Requirement]:
    """Everything that pyproject.toml requires, for running, building and developing."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    lists = [
        pyproject["build-system"]["requires"],
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *pyproject["dependency-groups"].values(),
    ]
    found = [Requirement(line) for lines in lists for line in lines]
    return [requirement for requirement in found if requirement.name != project["name"]]  # our own extras


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize(("platform", "machine"), [("linux", "x86_64"), ("darwin", "arm64"), ("win32", "AMD64")])
def test_every_requirement_has_one_version_that_it_allows(python: str, platform: str, machine: str) -> None:
    here = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": platform,
    }
    pins = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate(here)]
    for requirement in asked():
        versions = [pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
        assert len(versions) == 1, f"{requirement}: {versions or 'not in requirements.lock: make lock'}"
        (version,) = [specifier.version for specifier in versions[0].specifier]
        assert version in requirement.specifier, f"{requirement}: locked at {version}: make lock"


def test_the_lock_serves_everywhere_and_fixes_every_line() -> None:
    assert "://" not in LOCK  # a registry of one's own
    assert str(ROOT) not in LOCK
    assert all([s.operator for s in pin.specifier] == ["=="] and not pin.extras for pin in PINS)


def test_notice_names_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    of_tests = ("test", "integrations", "check")
    extras = [lines for extra, lines in project["optional-dependencies"].items() if extra not in of_tests]
    needed = {Requirement(line).name for lines in (project["dependencies"], *extras) for line in lines}
    notice = {canonicalize_name(word) for word in re.findall(r"[\w-]+", (ROOT / "NOTICE").read_text())}
    assert {canonicalize_name(name) for name in needed} - {project["name"]} <= notice
