"""Models by name: a hub id or the folder of a checkpoint → a bundle in the cache, fetched and converted on first use.

The cache is ``~/.cache/m3-vdb``, or the folder that the environment variable ``M3VDB_CACHE`` names. A bundle in it is
like any other: it may be copied, and what is deleted is made again. ``org/name`` stays at the revision that was newest
when it was first opened, so a collection's model never changes by itself and later opens need no network;
``org/name@revision`` opens another one, ``org/name@main`` asks the hub for the newest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from m3_vdb.encoding.bundle import CONFIG, DEFAULT_MODEL, MODEL, ONNXRUNTIME, Bundle
from m3_vdb.encoding.model_files import brief
from m3_vdb.errors import BundleError, MissingExtraError
from m3_vdb.inputs import read_path

CACHE: Final = "M3VDB_CACHE"
_CHECKPOINT_CONFIGS: Final = ("config.json", "adapter_config.json")
"""A folder with one of them is a checkpoint, or a LoRA adapter of one."""
_SMALL_FILES: Final = ["*.json", "*.pt", "*.bpe.model", "SHA256SUMS"]
_PINNED: Final = "revision"


def find_bundle(model: str | os.PathLike[str] | None = None) -> Bundle:
    """Open a bundle by path or name.

    Args:
        model: the folder of a bundle, a checkpoint or a LoRA adapter; the name of a built-in model; ``org/name`` of any
            of these on the Hugging Face hub; None for the default model.

    Returns:
        The open bundle.

    Raises:
        BundleError: there is no such model, it is damaged, or it is not an M3 model.
        MissingExtraError: it must be converted and the packages for that are not installed.
        ConfigError: ``model`` is neither a name nor a path.
    """
    models = Path(__file__).parents[1] / "models"
    if model is None:  # even if the working directory has a folder of that name
        return Bundle.open(models / DEFAULT_MODEL)
    path = read_path("model", model)
    if path.is_dir():
        return Bundle.open(_from_checkpoint(path) if _is_checkpoint(path) else path)
    built_in = models / str(model)
    if "/" not in str(model) and built_in.is_dir():
        return Bundle.open(built_in)
    if isinstance(model, str) and is_hub_id(model):
        return Bundle.open(_from_hub(model))
    known = sorted(path.name for path in models.iterdir() if path.is_dir() and not path.name.startswith("_"))
    raise BundleError(f"no model {str(model)!r}: expected a bundle directory, a hub id, or one of {', '.join(known)}")


def _is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a checkpoint or a LoRA adapter; what is wrong with it shows when it is converted."""
    return not (folder / CONFIG).is_file() and any((folder / name).is_file() for name in _CHECKPOINT_CONFIGS)


def _from_checkpoint(folder: Path) -> Path:
    """The bundle of a checkpoint's folder, converted when it is first opened and whenever its files have changed.

    Raises:
        BundleError: it is not an M3 checkpoint, or damaged.
        MissingExtraError: it must be converted and the packages for that are not installed.
    """
    folder = folder.resolve()
    place = cache_folder() / "folders" / f"{folder.name}-{_digest(str(folder))}"
    out = place / _state(folder)
    if not (out / CONFIG).is_file():
        _convert(folder, out, name=folder.name)
        for earlier in place.iterdir():
            if earlier.is_dir() and earlier != out:
                shutil.rmtree(earlier, ignore_errors=True)
    return out


def _from_hub(model: str) -> Path:
    """The bundle of a model on the Hugging Face hub: ``org/name`` or ``org/name@revision``.

    Raises:
        BundleError: it could not be fetched, or is neither a bundle nor an M3 checkpoint.
        MissingExtraError: as ``_from_checkpoint``.
    """
    name, _, revision = model.partition("@")
    place = cache_folder() / "hub" / name.replace("/", "--")
    pinned = place / _PINNED
    if not revision and pinned.is_file():
        revision = pinned.read_text(encoding="utf-8").strip()
    out = place / revision if revision else None
    if out is None or not (out / CONFIG).is_file():
        fetched = _fetch(name, revision or None)
        out = fetched if (fetched / CONFIG).is_file() else place / fetched.name
        if out != fetched and not (out / CONFIG).is_file():
            _convert(fetched, out, name=name)
        if not revision:
            place.mkdir(parents=True, exist_ok=True)
            pinned.write_text(fetched.name + "\n", encoding="utf-8")
    return out


def is_hub_id(model: str) -> bool:
    """Whether a string has the form ``org/name`` or ``org/name@revision``, and is not written like a path."""
    return model.partition("@")[0].count("/") == 1 and not model.startswith((".", "/", "~"))


def fetch(model: str) -> Path:
    """The folder of a model's files in the hub's own cache; fetches what is missing, without ONNX copies.

    Args:
        model: ``org/name``, the newest revision, or ``org/name@revision``.

    Raises:
        BundleError: it could not be fetched.
    """
    name, _, revision = model.partition("@")
    return _fetch(name, revision or None)


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a second, and only for hub ids
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    def get(patterns: list[str], revision: str | None) -> Path:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"]))

    try:
        folder = get(_SMALL_FILES, revision)
        if not (folder / CONFIG).is_file():
            _require_extra(name)  # before gigabytes are fetched
        if (folder / CONFIG).is_file():
            get([f"{MODEL}*", ONNXRUNTIME], folder.name)
        elif not any(get(["*.safetensors"], folder.name).glob("*.safetensors")):
            get(["*.bin"], folder.name)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BundleError(
            f"{name} is not a directory here and could not be fetched from the hub: {brief(error)}"
        ) from error
    return folder


def _convert(source: Path, out: Path, *, name: str) -> None:
    """Convert to float32; of several processes that open the model at once, one does."""
    _require_extra(name)
    from filelock import FileLock  # noqa: PLC0415 - an extra

    from onnx_export.export import convert  # noqa: PLC0415 - an extra

    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.parent / ".lock"):
        if not (out / CONFIG).is_file():
            with conversion_bar(f"converting {name}") as progress:
                convert(source, out, name=name, fetch=fetch, progress=progress)


def _require_extra(name: str) -> None:
    if find_spec("onnx") is None or find_spec("onnx_export") is None:
        raise MissingExtraError(f"{name} is a checkpoint; converting it to a bundle", extra="export")


@contextmanager
def conversion_bar(title: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on a terminal's standard error: BGE-M3 takes minutes."""
    from rich.console import Console  # noqa: PLC0415 - only where a model is converted
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda done, what: bar.update(task, completed=done, description=f"{title}: {what}")


def cache_folder() -> Path:
    """Where converted and compiled models are kept: what ``M3VDB_CACHE`` names, or ``~/.cache/m3-vdb``."""
    if named := os.environ.get(CACHE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "m3-vdb"


def _state(folder: Path) -> str:
    """Changes with the files of a checkpoint, and with those of an adapter's base model."""
    folders = [folder]
    if (adapter := folder / "adapter_config.json").is_file():
        try:
            base = json.loads(adapter.read_bytes())["base_model_name_or_path"]
            folders += [path for path in (folder / base, Path(base)) if path.is_dir()]
        except (ValueError, LookupError, TypeError):
            pass  # the conversion says what is wrong with it
    files = (file for one in folders for file in sorted(one.iterdir()) if file.is_file())
    states = ((file.name, file.stat()) for file in files)
    return _digest(json.dumps([(name, state.st_size, state.st_mtime_ns) for name, state in states]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
