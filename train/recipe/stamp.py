"""``stamp.json`` in a step's folder: what the step was made from, and whether it is finished.

A stamp holds the settings as the recipe gives them ("$base", not a path of this machine), the stamps of the steps whose
results were used, and size, time and digest of every other input file. So a folder of results may be moved or copied,
and what no longer fits the recipe or the files is found before anything runs.
"""

from __future__ import annotations

import glob
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TypeAlias

from m3_vdb.errors import ConfigError
from train.config import FREE, as_json
from train.recipe.file import MODEL_OPTIONS, Step, used_step

STAMP: Final = "stamp.json"
INPUT_OPTIONS: Final = (*MODEL_OPTIONS, "data", "corpus", "collections")
"""Options that name files to read, at any depth."""
UNIMPORTANT: Final = (*FREE, "work", "batch_tokens", "shard_size")
"""Settings that may change without making a result another one."""
Files: TypeAlias = dict[str, list[Any]]
"""Name below the input → [bytes, time of change, digest]."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a step was made from.

    Attributes:
        stage: of the step.
        settings: all of them, with references as in the recipe.
        uses: step → ``made`` of its stamp.
        inputs: input as the recipe names it → its files.
        made: a name for this very result; "" while it is unfinished.
        result: what later steps use, in the step's folder.
        seconds: of the last go.
    """

    stage: str
    settings: dict[str, Any]
    uses: dict[str, str]
    inputs: dict[str, Files]
    made: str = ""
    result: str = ""
    seconds: float = 0.0

    def finished(self, result: str, seconds: float) -> Stamp:
        """The stamp at the end; made anew, a step gets another name, since it may have become another result."""
        begun = replace(self, result=result, seconds=round(seconds, 1))
        digest = blake2b(f"{json.dumps(asdict(begun), sort_keys=True)}{time.time_ns()}".encode(), digest_size=8)
        return replace(begun, made=digest.hexdigest())


def read_stamp(folder: Path) -> Stamp | None:
    """The stamp of a step's folder, None for one that was not begun.

    Raises:
        ConfigError: the folder holds something else, or the stamp is damaged.
    """
    try:
        return Stamp(**json.loads((folder / STAMP).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} was not made by a recipe: give another --out, or remove it") from None
        return None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{folder / STAMP} is damaged ({error}): delete {folder}") from error


def write_stamp(stamp: Stamp, folder: Path) -> None:
    """Write it completely or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{STAMP}.partial"
    partial.write_text(json.dumps(asdict(stamp), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(folder / STAMP)


def new_stamp(step: Step, stamps: Mapping[str, Stamp], place: Callable[[str], Path]) -> Stamp:
    """The stamp of a step that begins now.

    Args:
        step: the step.
        stamps: of the steps that it uses.
        place: where an input is.

    Raises:
        ConfigError: an input does not exist.
    """
    inputs = {name: look(_files(name, place(name))) for name in input_names(step)}
    return Stamp(step.stage, important(step), {name: stamps[name].made for name in step.uses}, inputs)


def important(step: Step) -> dict[str, Any]:
    """The settings that make the result what it is, by dotted name."""
    nested = as_json(step.settings(Path(step.out)))
    return {name: value for name, value in _flat(nested) if name.split(".")[-1] not in UNIMPORTANT}


def input_names(step: Step) -> list[str]:
    """Inputs as the recipe names them that are no results of other steps."""
    found = _inputs(as_json(step.settings(Path(step.out))))
    return list(dict.fromkeys(name for name in found if used_step(name) is None))


def differences(stamp: Stamp, step: Step, place: Callable[[str], Path]) -> Iterator[str]:
    """What has changed since a step was begun, in words; inputs that are gone have not."""
    settings = {"stage": step.stage, **important(step)}
    before = {"stage": stamp.stage, **stamp.settings}
    changed = [name for name in settings if name not in before or before[name] != settings[name]]
    changed += [name for name in before if name not in settings]
    if changed:
        shown = [f"{name}: {before.get(name)} → {settings.get(name)}" for name in changed]
        yield f"was made with other settings ({'; '.join(shown)})"
    for name, before_files in stamp.inputs.items():
        if find(place(name)) and _moved_on(before_files, _files(name, place(name))):
            yield f"was made from another {name}"


def look(files: Mapping[str, Path]) -> Files:
    """Size, time and digest of files."""
    found: Files = {}
    for name, path in files.items():
        status = path.stat()
        found[name] = [status.st_size, status.st_mtime_ns, _digest(path)]
    return found


def find(place: Path) -> list[Path]:
    """The input itself, or what its pattern finds."""
    return [place] if place.exists() else sorted(map(Path, glob.glob(str(place))))


def _moved_on(before: Files, files: Mapping[str, Path]) -> bool:
    """Whether the content differs; of files of the same size and time it does not."""
    if before.keys() != files.keys():
        return True
    for name, path in files.items():
        size, changed, digest = before[name]
        status = path.stat()
        if status.st_size != size or (status.st_mtime_ns != changed and _digest(path) != digest):
            return True
    return False


def _files(name: str, place: Path) -> dict[str, Path]:
    """All files of an input by name: of a file "", of folders their paths below the first folder."""
    found: dict[str, Path] = {}
    places = find(place)
    for one in places:
        below = one.name if len(places) > 1 else ""
        paths: Sequence[Path] = sorted(one.rglob("*")) if one.is_dir() else [one]
        found |= {f"{below}/{path.relative_to(one).as_posix()}": path for path in paths if path.is_file()}
    if not found:
        raise ConfigError(f"{name} does not exist: {place}")
    return found


def _digest(path: Path) -> str:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _inputs(settings: Any, option: str = "") -> Iterator[str]:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _inputs(value, name)
    elif option in INPUT_OPTIONS and settings is not None:
        yield from settings if isinstance(settings, list) else [settings]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
