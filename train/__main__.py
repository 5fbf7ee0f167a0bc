"""``python -m train STAGE``: the command line of training. Thin: every stage is a function of its own module.

Options are the fields of the stage's settings (``train.config``); a YAML file given by ``--config`` has the same names,
and options after it override it. ``--print_config`` shows what results.
"""

from __future__ import annotations

import os
import sys

from jsonargparse import ArgumentError
from rich.console import Console

from m3_vdb.errors import M3Error
from train.commands import say
from train.stages import STAGES, from_namespace, make_parser, with_brackets


def main() -> None:
    """Run a stage; a known error is one line, with exit code 2 for options and 1 for everything else."""
    # Before transformers is imported: its bars of loading and saving weights come between our lines.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    console = Console(stderr=True)
    parser = make_parser()
    if len(sys.argv) == 1:
        parser.print_help()
        raise SystemExit(2)
    try:
        parsed = parser.parse_args(with_brackets(sys.argv[1:]))
        settings, run = STAGES[parsed.stage]
        run(from_namespace(settings, parser.instantiate(parsed)[parsed.stage]), console)
        if "torch" in sys.modules:  # what ran without it had no peers, and need not load it now
            from train.engine.distributed import leave_processes

            leave_processes()
    except ArgumentError as error:
        say(console, f"error: {' '.join(str(error).split())}", style="red")
        raise SystemExit(2) from None
    except M3Error as error:
        say(console, f"error: {error}", style="red")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
