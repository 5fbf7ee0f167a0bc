"""The code of docs/integrations.md runs, section by section."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
PAGE = (Path(__file__).parents[2] / "docs/integrations.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.M)[1:]}


@pytest.mark.parametrize("title", ["LangChain", "LlamaIndex", "Haystack"])
def test_the_code_of_a_section_runs(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```", SECTIONS[title], flags=re.M | re.S):
        exec(compile(code, f"integrations.md, {title}", "exec"), names)
