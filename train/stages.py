"""The stages of ``python -m train`` and their parsers: options are the fields of a stage's settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, cast, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from train import commands
from train.config import (
    AverageConfig,
    FinetuneConfig,
    ImportBaseConfig,
    ImportBundleConfig,
    PretrainConfig,
    ProjectConfig,
)
from train.data.config import SelectConfig
from train.recipe.config import RecipeConfig
from train.retrieval.config import EvaluateConfig, MineConfig, TopicsConfig
from train.retromae.config import ExtendConfig, RetroMAEConfig
from train.synthesis.config import SynthesizeConfig

STAGES: Final[Mapping[str, tuple[type, Callable[[Any, Console], object]]]] = {
    "retromae": (RetroMAEConfig, commands.retromae),
    "pretrain": (PretrainConfig, commands.pretrain),
    "finetune": (FinetuneConfig, commands.finetune),
    "mine": (MineConfig, commands.mine),
    "synthesize": (SynthesizeConfig, commands.synthesize),
    "select": (SelectConfig, commands.select),
    "topics": (TopicsConfig, commands.topics),
    "evaluate": (EvaluateConfig, commands.evaluate),
    "import-base": (ImportBaseConfig, commands.import_base),
    "import-bundle": (ImportBundleConfig, commands.import_bundle),
    "extend": (ExtendConfig, commands.extend),
    "average": (AverageConfig, commands.average),
    "project": (ProjectConfig, commands.project),
    "recipe": (RecipeConfig, commands.recipe),
}


def make_parser() -> ArgumentParser:
    """The parser of all stages."""
    parser = ArgumentParser(
        prog="python -m train",
        description="Train M3-Embedding models: dense, sparse and multi-vector heads on one encoder.",
        exit_on_error=False,
    )
    stages = parser.add_subcommands(
        dest="stage", metavar="STAGE", description="python -m train STAGE --help shows all options."
    )
    for name, (settings, _) in STAGES.items():
        summary = (settings.__doc__ or "").split("\n\n")[0]
        if settings is RecipeConfig:
            stage = ArgumentParser(usage=RECIPE_USAGE, description=summary, exit_on_error=False)
            stage.add_argument("file", type=Path, metavar="FILE", help=RECIPE_FILE)
            stage.add_class_arguments(settings, None, fail_untyped=True, skip={"file"})
        else:
            usage = f"python -m train {name} [--config FILE] [--option VALUE …]"
            stage = ArgumentParser(usage=usage, description=summary, exit_on_error=False)
            stage.add_argument("--config", action="config", help="YAML file of settings; options after it override it.")
            stage.add_class_arguments(settings, None, fail_untyped=True)
        stages.add_subcommand(name, stage, help=summary)
    return parser


RECIPE_USAGE: Final = "python -m train recipe FILE --out DIR [--until STEP] [--data DIR]"
RECIPE_FILE: Final = "The recipe: YAML steps, each a stage with its options (docs/training.md, train/recipes/)."


def list_options(settings: type, prefix: str = "--") -> Iterator[str]:
    """Options that take several values, nested ones included."""
    for name, kind in get_type_hints(settings).items():
        if get_origin(kind) in (list, tuple):
            yield prefix + name
        elif is_dataclass(kind):
            yield from list_options(cast(type, kind), f"{prefix}{name}.")


def with_brackets(arguments: Sequence[str]) -> list[str]:
    """``--data rows.jsonl`` as ``--data ["rows.jsonl"]``: jsonargparse wants a list where there may be several."""
    settings, _ = STAGES.get(next((a for a in arguments if a in STAGES), ""), (object, None))
    options = set(list_options(settings))
    pairs = zip(["", *arguments], arguments, strict=False)
    return [json.dumps([value]) if before in options and value[:1] != "[" else value for before, value in pairs]


def from_options(settings: type, options: Mapping[str, Any]) -> Any:
    """Settings from nested options, as a file gives them; one value may stand for a list of one.

    Raises:
        ArgumentError: an option is unknown, missing or of the wrong type.
        ConfigError: a value is out of range.
    """
    parser = _plain_parser(settings)
    return from_namespace(settings, parser.instantiate(parser.parse_object(_listed(settings, options))))


@cache
def _plain_parser(settings: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(settings, None, fail_untyped=True)
    return parser


def from_namespace(settings: type, chosen: Any) -> Any:
    """Settings from a parser's result, which has the same names."""
    return settings(**{field.name: getattr(chosen, field.name) for field in fields(settings)})


def _listed(settings: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with lists where the settings want lists."""
    kinds = get_type_hints(settings)
    found: dict[str, Any] = {}
    for name, value in options.items():
        kind = kinds.get(name)
        if get_origin(kind) in (list, tuple) and isinstance(value, (str, int, float)):
            found[name] = [value]
        elif is_dataclass(kind) and isinstance(value, Mapping):
            found[name] = _listed(cast(type, kind), value)
        elif is_dataclass(kind):  # jsonargparse would take the defaults, and say nothing
            raise ArgumentError(None, f'Parser key "{name}": Expected options. Got value: {value}')
        else:
            found[name] = value
    return found
