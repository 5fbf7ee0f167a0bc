"""``python -m train STAGE``: the command line of training. Thin: every stage is a function of its own module.

Options are the fields of the stage's settings (``train.config``); a YAML file given by ``--config`` has the same names,
and options after it override it. ``--print_config`` shows what results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from m3_vdb.errors import M3Error
from train import commands
from train.commands import say
from train.config import FinetuneConfig, ImportBaseConfig, PretrainConfig, ProjectConfig
from train.retrieval.config import EvaluateConfig, MineConfig
from train.retromae.config import ExtendConfig, RetroMAEConfig
from train.synthesis.config import SynthesizeConfig

STAGES: dict[str, tuple[type, Callable[[Any, Console], None]]] = {
    "retromae": (RetroMAEConfig, commands.retromae),
    "pretrain": (PretrainConfig, commands.pretrain),
    "finetune": (FinetuneConfig, commands.finetune),
    "mine": (MineConfig, commands.mine),
    "synthesize": (SynthesizeConfig, commands.synthesize),
    "evaluate": (EvaluateConfig, commands.evaluate),
    "import-base": (ImportBaseConfig, commands.import_base),
    "extend": (ExtendConfig, commands.extend),
    "project": (ProjectConfig, commands.project),
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
        usage = f"python -m train {name} [--config FILE] [--option VALUE …]"
        stage = ArgumentParser(usage=usage, description=summary, exit_on_error=False)
        stage.add_argument("--config", action="config", help="YAML file of settings; options after it override it.")
        stage.add_class_arguments(settings, None, fail_untyped=True)
        stages.add_subcommand(name, stage, help=summary)
    return parser


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


def main() -> None:
    """Run a stage; a known error is one line, with exit code 2 for options and 1 for everything else."""
    console = Console(stderr=True)
    parser = make_parser()
    if len(sys.argv) == 1:
        parser.print_help()
        raise SystemExit(2)
    try:
        parsed = parser.parse_args(with_brackets(sys.argv[1:]))
        settings, run = STAGES[parsed.stage]
        chosen = parser.instantiate(parsed)[parsed.stage]
        run(settings(**{field.name: getattr(chosen, field.name) for field in fields(settings)}), console)
    except ArgumentError as error:
        say(console, f"error: {' '.join(str(error).split())}", style="red")
        raise SystemExit(2) from None
    except M3Error as error:
        say(console, f"error: {error}", style="red")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
