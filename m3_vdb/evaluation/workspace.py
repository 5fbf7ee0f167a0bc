"""The folder of an evaluation: rankings that are done are read back instead of asked for again.

``<out>/<collection>/<name>.trec`` holds a ranking and ``state.json`` beside it the key that it was made under. A key
covers everything that a ranking depends on, so a changed corpus, model or weight asks again, and nothing else does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from m3_vdb.evaluation.metrics import Run, read_run, write_run

STATE = "state.json"


class Workspace:
    """Rankings and measurements of one collection.

    Args:
        folder: made if it does not exist; None keeps nothing.
        digest: of the corpus, the model and the queries.
    """

    def __init__(self, folder: Path | None, digest: str) -> None:
        self._folder = folder
        self._digest = digest
        self._state: dict[str, Any] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / STATE).is_file():
                self._state = json.loads((folder / STATE).read_text(encoding="utf-8"))

    def run(self, name: str, about: object, make: Callable[[], Run]) -> Run:
        """A ranking, read back if it was made under the same key.

        Args:
            name: of the file.
            about: whatever it depends on beside the digest, with a ``repr`` that says so.
            make: makes it.
        """
        if self._folder is None:
            return make()
        path, key = self._folder / f"{name}.trec", self._key(name, about)
        if self._state.get(name) == key and path.is_file():
            return read_run(path)
        run = make()
        write_run(run, path, tag=name)
        self._keep(name, key)
        return run

    def value(self, name: str, about: object, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - JSON
        """A JSON value, likewise."""
        key = self._key(name, about)
        kept = self._state.get(name)
        if isinstance(kept, dict) and kept.get("key") == key:
            return kept["value"]
        value = make()
        self._keep(name, {"key": key, "value": value})
        return value

    def forget(self, name: str) -> None:
        """Make a value anew when it is next asked for."""
        self._state.pop(name, None)

    def _key(self, name: str, about: object) -> str:
        return blake2b(f"{self._digest}\0{name}\0{about!r}".encode(), digest_size=12).hexdigest()

    def _keep(self, name: str, content: object) -> None:
        self._state[name] = content
        if self._folder is not None:
            partial = self._folder / f".{STATE}.partial"
            partial.write_text(json.dumps(self._state, indent=1) + "\n", encoding="utf-8")
            partial.replace(self._folder / STATE)
