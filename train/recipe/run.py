"""Running a recipe: what is finished is skipped, a training goes on from its last checkpoint, the rest begins anew.

Every step has a folder ``OUT/STEP`` with its result and its stamp. Whatever no longer fits is refused before anything
runs, and never made again unasked: results cost hours.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from m3_vdb.errors import BundleError, ConfigError, M3Error
from train.commands import say
from train.recipe.config import ExportConfig, RecipeConfig
from train.recipe.file import DATA, TRAINING, Step, read_recipe, used_step
from train.recipe.stamp import Stamp, differences, find, input_names, new_stamp, read_stamp, write_stamp
from train.stages import STAGES


class StepError(M3Error):
    """A step failed; the message names file and step, ``__cause__`` is the step's own error."""


def run_recipe(config: RecipeConfig, console: Console) -> bool:
    """Run the steps that are not finished; False if Ctrl-C or SIGTERM ended it before.

    Raises:
        ConfigError: the recipe is wrong, a result does not fit it any more, or an input is missing.
        StepError: a step failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a recipe runs in one process; start its training steps yourself for several")
    steps = read_recipe(config.file)
    names = [step.name for step in steps]
    if config.until is not None and config.until not in names:
        raise ConfigError(f"until={config.until!r}: {config.file} has {', '.join(names)}")
    steps = steps[: names.index(config.until) + 1] if config.until is not None else steps
    with _alone(config.out), _signals_interrupt():
        try:
            return _run(steps, config, console)
        except KeyboardInterrupt:
            say(console, "stopped: interrupted; the same command goes on")
            return False


def _run(steps: Sequence[Step], config: RecipeConfig, console: Console) -> bool:
    stamps: dict[str, Stamp] = {}

    def place(value: str) -> Path:
        if (used := used_step(value)) is not None:
            return config.out / used / stamps[used].result
        return config.data / value[len(DATA) + 2 :] if value.startswith("$") else Path(value)

    stamps |= check_results(steps, config, place)
    for step in steps:
        try:
            if step.name in stamps and stamps[step.name].made:
                say(console, f"{step.name}: finished before")
                continue
            stamps[step.name] = stamps.get(step.name) or new_stamp(step, stamps, place)
            say(console, f"{step.name}: {step.stage}", style="bold")
            found = _run_step(step, stamps[step.name], config.out / step.name, place, console)
        except (M3Error, OSError) as error:
            raise StepError(f"{config.file}, step {step.name!r}: {error}") from error
        if found is None:
            return False
        stamps[step.name] = found
        if step.stage in (*TRAINING, "mine", "evaluate"):
            _free_memory()
    say(console, str(config.out / steps[-1].name / stamps[steps[-1].name].result))
    return True


def check_results(steps: Sequence[Step], config: RecipeConfig, place: Callable[[str], Path]) -> dict[str, Stamp]:
    """The stamps of what is finished, or is a training to go on with.

    Raises:
        ConfigError: something was made from other settings or files; all folders to delete are named, or an input of
            a step to run does not exist.
    """
    stamps: dict[str, Stamp] = {}
    refused: dict[str, str] = {}
    for step in steps:
        folder = config.out / step.name
        stamp = read_stamp(folder)
        begun = step.stage in TRAINING and any(folder.glob("*/step-*"))
        if stamp is None or not (stamp.made or begun):
            continue  # nothing to lose
        reasons = list(differences(stamp, step, place))
        gone = [name for name in step.uses if name not in stamps or stamps[name].made != stamp.uses.get(name)]
        reasons += [f"was made from an earlier result of {name!r}" for name in gone]
        if reasons:
            refused[step.name] = reasons[0]
        else:
            stamps[step.name] = stamp
    if refused:
        first, reason = next(iter(refused.items()))
        folders = " ".join(str(config.out / name) for name in refused)
        raise ConfigError(
            f"{config.file}, step {first!r}: {config.out / first} {reason}: delete {folders}, or give another --out; "
            f"then the same command goes on"
        )
    for step in steps:
        for name in input_names(step) if step.name not in stamps else ():
            if not find(place(name)):
                raise ConfigError(f"{config.file}, step {step.name!r}: {place(name)} does not exist")
    return stamps


def _run_step(step: Step, stamp: Stamp, folder: Path, place: Callable[[str], Path], console: Console) -> Stamp | None:
    """The finished stamp, None if the step was interrupted."""
    begun = time.monotonic()
    out = folder / step.out
    if step.stage not in TRAINING or not any(out.glob("step-*")):
        _remove(out)  # what an interruption left
    write_stamp(stamp, folder)
    settings = step.settings(out, lambda value: str(place(value)))
    result = step.out
    if step.stage in TRAINING:
        out.mkdir(exist_ok=True)
        outcome: Any = STAGES[step.stage][1](replace(settings, resume=True), console)
        if outcome.stopped == "interrupted":
            return None
        result = outcome.checkpoint.relative_to(folder).as_posix()
    elif step.stage == "mine":
        work = folder / "work"  # encoded passages, found again after an interruption
        STAGES["mine"][1](settings if settings.work else replace(settings, work=work), console)
        shutil.rmtree(work, ignore_errors=True)
    elif step.stage == "export":
        _export(replace(settings, name=settings.name or step.name), console)
    else:
        STAGES[step.stage][1](settings, console)
    finished = stamp.finished(result, time.monotonic() - begun)
    write_stamp(finished, folder)
    return finished


def _export(settings: ExportConfig, console: Console) -> None:
    """The exporter's own command, since nothing of training imports the exporter."""
    options = ["--precision", settings.precision, "--name", str(settings.name)]
    command = [sys.executable, "-m", "onnx_export", str(settings.checkpoint), str(settings.out), *options]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, encoding="utf-8", check=False)
    lines = done.stderr.splitlines()
    if done.returncode:
        last = lines[-1].removeprefix("error: ") if lines else f"exit code {done.returncode}"
        raise BundleError(f"python -m onnx_export failed: {last}")
    for line in lines:
        say(console, line)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _free_memory() -> None:
    """Give back what the step's model held, on a GPU too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else runs a recipe into this folder; the lock goes with the process, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{out} is in use: another process runs a recipe there") from None
        yield


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does; a training catches both itself and writes a checkpoint first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
