"""The recipes of docs/integrations.md run where their package is installed, with one forward pass per batch."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from m3_vdb import M3EmbeddingFunction

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[2] / "docs/integrations.md").read_text(encoding="utf-8")
RECIPES = {part.partition("\n")[0]: part for part in re.split(r"^###? ", PAGE, flags=re.M)}


@pytest.mark.parametrize(("title", "package"), [("Chroma", "chromadb"), ("DSPy", "dspy"), ("txtai", "txtai")])
def test_a_recipe_runs_with_one_pass_for_the_documents_and_one_for_the_query(title, package, tmp_path, monkeypatch):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encode, counted = M3EmbeddingFunction._encode, []

    def count(self, tokens, *args, **options):
        counted.append(len(tokens))
        return encode(self, tokens, *args, **options)

    monkeypatch.setattr(M3EmbeddingFunction, "_encode", count)
    (code,) = re.findall(r"^```python\n(.*?)^```", RECIPES[title], flags=re.M | re.S)
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(code, f"integrations.md, {title}", "exec"), names)
    assert counted == [2, 1]
    if title == "DSPy":
        names["index"].close()  # DSPy's settings would keep it open
