"""``python -m train STAGE``: the command line of training. Every stage is a function of its own module.

Options are the fields of the stage's settings (``train.config``). A YAML file given by ``--config`` has the same names,
and options after it override it. ``--print_config`` shows the result.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, cast, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console

from m3_vdb.cli.output import EXIT_INTERRUPTED, EXIT_USAGE, err, exit_codes, say
from train import commands
from train.config import FinetuneConfig, PretrainConfig
from train.data.select import SelectConfig
from train.distill.config import DistillConfig
from train.edit_config import AverageConfig, ExtendConfig, ImportBaseConfig, ImportBundleConfig, ProjectConfig
from train.retrieval.config import EvaluateConfig, MineConfig, TopicsConfig
from train.retromae.config import RetroMAEConfig
from train.synthesis.config import SynthesizeConfig

STAGES: Final[Mapping[str, tuple[type, Callable[[Any, Console], object]]]] = {
    "retromae": (RetroMAEConfig, commands.train),
    "pretrain": (PretrainConfig, commands.train),
    "finetune": (FinetuneConfig, commands.train),
    "distill": (DistillConfig, commands.train),
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
}


def main() -> None:
    """Run a stage; exit codes are those of every command, and 2 for options that are unknown or of the wrong type."""
    # Before transformers is imported: its progress bars would come between our lines.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    parser = make_parser()
    if len(sys.argv) == 1:
        parser.print_help()
        raise SystemExit(EXIT_USAGE)
    with exit_codes():
        try:
            parsed = parser.parse_args(with_brackets(sys.argv[1:]))
            settings, run = STAGES[parsed.stage]
            chosen = parser.instantiate(parsed)[parsed.stage]
            config = settings(**{field.name: getattr(chosen, field.name) for field in fields(settings)})
        except ArgumentError as error:
            say(f"error: {' '.join(str(error).split())}", style="red")
            raise SystemExit(EXIT_USAGE) from None
        outcome = run(config, err)
        if "train.engine.processes" in sys.modules:  # a stage without it had no peers
            from train.engine.processes import leave_processes

            leave_processes()
        if getattr(outcome, "stopped", "") == "interrupted":
            raise SystemExit(EXIT_INTERRUPTED)


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


def with_brackets(arguments: Sequence[str]) -> list[str]:
    """``--data rows.jsonl`` as ``--data ["rows.jsonl"]``: jsonargparse expects a list where there may be several."""
    settings, _ = STAGES.get(next((a for a in arguments if a in STAGES), ""), (object, None))
    options = set(list_options(settings))
    pairs = zip(["", *arguments], arguments, strict=False)
    return [json.dumps([value]) if before in options and value[:1] != "[" else value for before, value in pairs]


def list_options(settings: type, prefix: str = "--") -> Iterator[str]:
    """Options that take several values, nested ones included."""
    for name, kind in get_type_hints(settings).items():
        if get_origin(kind) in (list, tuple):
            yield prefix + name
        elif is_dataclass(kind):
            yield from list_options(cast(type, kind), f"{prefix}{name}.")


if __name__ == "__main__":
    main()
