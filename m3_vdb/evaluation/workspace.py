"""The folder of an evaluation: rankings that are done are read back instead of asked for again.

``<out>/<collection>/<name>.trec`` holds a ranking, and ``state.json`` beside it the key that it was made under and a
hash of the file. A key covers everything that a ranking depends on, so a changed corpus, model or weight asks again,
and nothing else does; a file that was cut off or changed since is not believed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from m3_vdb.evaluation.metrics import Run, read_run, write_run

STATE: Final = "state.json"


class Workspace:
    """Rankings and measurements of one collection.

    Args:
        folder: made if it does not exist.
        digest: of the corpus, the model and the store.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        self._digest = digest
        folder.mkdir(parents=True, exist_ok=True)
        self._state = _read_state(folder / STATE)

    def run(self, name: str, about: object, make: Callable[[], Run]) -> Run:
        """A ranking as its file says it, made before if there is none under this key.

        Queries without results are missing, and scores have the file's nine digits: in any case, so that a resumed
        evaluation has the figures of an undisturbed one.

        Args:
            name: of the file.
            about: whatever it depends on beside the digest, with a ``repr`` that says so.
            make: makes it.
        """
        path, key = self._folder / f"{name}.trec", self._key(name, about)
        if path.is_file() and self._state.get(name) == {"key": key, "file": _hash(path.read_bytes())}:
            return read_run(path)
        write_run(make(), path, tag=name)
        self._keep(name, {"key": key, "file": _hash(path.read_bytes())})
        return read_run(path)

    def value(self, name: str, about: object, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - JSON
        """A JSON value, likewise."""
        key, kept = self._key(name, about), self._state.get(name, {})
        if kept.get("key") == key and "value" in kept:
            return kept["value"]
        value = make()
        self._keep(name, {"key": key, "value": value})
        return value

    def forget(self, name: str) -> None:
        """Make a value anew when it is next asked for."""
        self._state.pop(name, None)

    def _key(self, name: str, about: object) -> str:
        return _hash(f"{self._digest}\0{name}\0{about!r}".encode())

    def _keep(self, name: str, content: dict[str, Any]) -> None:
        self._state[name] = content
        partial = self._folder / f".{STATE}.partial"
        partial.write_text(json.dumps(self._state, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._folder / STATE)


def file_name(collection: str) -> str:
    """The name of a collection as that of a folder or a store's collection."""
    return collection.replace("/", "-")


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=12).hexdigest()


def _read_state(path: Path) -> dict[str, dict[str, Any]]:
    """What was kept; nothing if the file is missing or damaged, since all of it can be made again."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    entries = state.items() if isinstance(state, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict)}
