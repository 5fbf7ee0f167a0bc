"""A recipe file: named steps in order, each a stage with its options, checked as a whole before anything runs.

A value ``$NAME`` is the result of the earlier step NAME: its checkpoint (of a training the last one) or its rows.
``$data/…`` is a file of the data folder. Nothing is read here but the file itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import yaml
from jsonargparse import ArgumentError

from m3_vdb.errors import ConfigError, M3Error
from train.recipe.config import ExportConfig
from train.stages import STAGES, from_options

Result: TypeAlias = Literal["a checkpoint", "rows", "of no use to other steps"]
RESULTS: Final[Mapping[str, tuple[str, Result]]] = {
    "import-base": ("checkpoint", "a checkpoint"),
    "import-bundle": ("checkpoint", "a checkpoint"),
    "extend": ("checkpoint", "a checkpoint"),
    "retromae": ("run", "a checkpoint"),
    "pretrain": ("run", "a checkpoint"),
    "finetune": ("run", "a checkpoint"),
    "average": ("checkpoint", "a checkpoint"),
    "project": ("checkpoint", "a checkpoint"),
    "select": ("rows.jsonl", "rows"),
    "topics": ("rows.jsonl", "rows"),
    "mine": ("rows.jsonl", "rows"),
    "evaluate": ("figures", "of no use to other steps"),
    "export": ("bundle", "of no use to other steps"),
}
"""Stages of a recipe: what ``out`` is called in the step's folder, and what a later step may use it as."""
TRAINING: Final = ("retromae", "pretrain", "finetune")
MODEL_OPTIONS: Final = ("model", "models", "checkpoint")
DATA: Final = "data"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
REFERENCE: Final = re.compile(rf"\$({NAME.pattern})(/.+)?")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a recipe.

    Attributes:
        name: of the step and of its folder.
        stage: what it runs.
        options: as in the file.
        uses: earlier steps whose results it takes.
    """

    name: str
    stage: str
    options: Mapping[str, Any]
    uses: tuple[str, ...]

    @property
    def out(self) -> str:
        """Name of ``out`` in the step's folder."""
        return RESULTS[self.stage][0]

    def settings(self, out: Path, place: Callable[[str], str] = str) -> Any:
        """The stage's settings.

        Args:
            out: what the stage writes.
            place: what to put for a value that begins with "$"; they stay as they are if it is not given.

        Raises:
            ArgumentError: an option is unknown, missing or of the wrong type.
            ConfigError: a value is out of range.
        """
        kind = ExportConfig if self.stage == "export" else STAGES[self.stage][0]
        return from_options(kind, {**replace_references(self.options, place), "out": str(out)})


def read_recipe(path: Path) -> list[Step]:
    """The steps of a recipe.

    Raises:
        ConfigError: the file cannot be read, or a step is wrong; file and step are in the message.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or set(content) != {"steps"} or not isinstance(content["steps"], dict):
        raise ConfigError(f"{path}: expected 'steps:' with a name for each step, and nothing else beside it")
    steps: dict[str, Step] = {}
    for name, options in content["steps"].items():
        try:
            steps[str(name)] = _step(name, options, steps)
        except (ArgumentError, M3Error) as error:
            raise ConfigError(f"{path}, step {str(name)!r}: {' '.join(str(error).split())}") from error
    if not steps:
        raise ConfigError(f"{path}: there are no steps")
    return list(steps.values())


def references(options: object, name: str = "") -> Iterator[tuple[str, str]]:
    """(option, value) of all values that begin with "$"; of nested options the last name counts."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            yield from references(value, str(key))
    elif isinstance(options, list):
        for value in options:
            yield from references(value, name)
    elif isinstance(options, str) and options.startswith("$"):
        yield name, options


def replace_references(options: Any, place: Callable[[str], str]) -> Any:
    """The options with ``place(value)`` for all values that begin with "$"."""
    if isinstance(options, Mapping):
        return {key: replace_references(value, place) for key, value in options.items()}
    if isinstance(options, list):
        return [replace_references(value, place) for value in options]
    return place(options) if isinstance(options, str) and options.startswith("$") else options


def used_step(value: str) -> str | None:
    """Name of the step that a reference means; None for the data folder."""
    match = REFERENCE.fullmatch(value)
    return None if match is None or match[1] == DATA else match[1]


def _step(name: object, options: object, earlier: Mapping[str, Step]) -> Step:
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == DATA:
        raise ConfigError(f"expected a name of letters, digits, '-' and '_' that is not {DATA!r}")
    if not isinstance(options, dict) or options.get("stage") not in RESULTS:
        given = options.get("stage") if isinstance(options, dict) else options
        raise ConfigError(f"stage={given!r}: expected one of {', '.join(RESULTS)}")
    stage: str = options["stage"]
    options = {key: value for key, value in options.items() if key != "stage"}
    for fixed in ("out", "resume"):
        if fixed in options:
            raise ConfigError(f"{fixed!r} is set by the recipe: remove it")
    found = list(references(options))
    for option, value in found:
        _check_reference(option, value, earlier)
    step = Step(name, stage, options, tuple(dict.fromkeys(used for _, value in found if (used := used_step(value)))))
    step.settings(Path(step.out))
    return step


def _check_reference(option: str, value: str, earlier: Mapping[str, Step]) -> None:
    match = REFERENCE.fullmatch(value)
    if match and match[1] == DATA:
        return
    if not match or match[2]:
        raise ConfigError(f"{option}: {value}: expected $STEP, or ${DATA}/FILE")
    if match[1] not in earlier:
        raise ConfigError(f"{option}: {value}: no earlier step has this name; there are {', '.join(earlier) or 'none'}")
    stage = earlier[match[1]].stage
    result, wanted = RESULTS[stage][1], "a checkpoint" if option in MODEL_OPTIONS else "rows"
    if result != wanted:
        raise ConfigError(f"{option}: {value}: the result of {stage} is {result}, expected {wanted}")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML where a name that is given twice is an error and not silently the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping with each name once."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", node.start_mark)
        return dict(super().construct_mapping(node, deep))
