"""``python -m train STAGE``: the command line of training. Thin: every stage is a function of its own module.

Options are the fields of the stage's settings (``train.config``); a YAML file given by ``--config`` has the same names,
and options after it override it. ``--print_config`` shows what results.
"""

from __future__ import annotations

import os
import sys

from jsonargparse import ArgumentError

from m3_vdb.cli.output import EXIT_INTERRUPTED, EXIT_USAGE, err, exit_codes, say
from train.stages import STAGES, from_namespace, make_parser, with_brackets


def main() -> None:
    """Run a stage; exit codes are those of every command, and 2 for options that are unknown or of the wrong type."""
    # Before transformers is imported: its bars of loading and saving weights come between our lines.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    parser = make_parser()
    if len(sys.argv) == 1:
        parser.print_help()
        raise SystemExit(EXIT_USAGE)
    with exit_codes():
        try:
            parsed = parser.parse_args(with_brackets(sys.argv[1:]))
            settings, run = STAGES[parsed.stage]
            chosen = from_namespace(settings, parser.instantiate(parsed)[parsed.stage])
        except ArgumentError as error:
            say(f"error: {' '.join(str(error).split())}", style="red")
            raise SystemExit(EXIT_USAGE) from None
        outcome = run(chosen, err)
        if "torch" in sys.modules:  # what ran without it had no peers, and need not load it now
            from train.engine.distributed import leave_processes

            leave_processes()
        if getattr(outcome, "stopped", "") == "interrupted":
            raise SystemExit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
