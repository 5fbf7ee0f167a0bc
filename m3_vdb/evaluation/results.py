"""What an evaluation found, as plain values: ``results.json`` is exactly this, and every report is drawn from it.

A *system* is one ranking: one of the five modes (``protocol.MODES``) or ``bm25``. A *group* is the queries of one
language in one collection; a task's *mean* counts every group once, its *pooled* figure every query once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from m3_vdb.errors import ConfigError

T = TypeVar("T")
FORMAT = 1
"""Version of ``results.json``."""
PACKAGES: Final = (
    *("m3-vdb", "numpy", "tokenizers", "onnxruntime", "openvino", "qdrant-client", "qdrant-edge-py", "pymilvus"),
    *("ir-measures", "bm25s"),
)
"""Their versions are part of the environment."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean and its 95 % bootstrap confidence interval over queries (``significance.bootstrap``)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system compared with the baseline, query by query.

    Attributes:
        delta: mean of the system minus mean of the baseline.
        p_value: two-sided, of a paired randomization test (``significance.randomization``).
        better: queries on which the system is better.
        worse: queries on which it is worse.
        low: where the 95 % bootstrap confidence interval of ``delta`` begins; None if it was not computed.
        high: where it ends.
    """

    delta: float
    p_value: float
    better: int
    worse: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The queries of one language in one collection.

    Attributes:
        collection: name of the collection.
        lang: language of the queries, "" if the collection does not say.
        documents: documents of the collection.
        queries: queries of the group.
        figures: system → measure → figure.
    """

    collection: str
    lang: str
    documents: int
    queries: int
    figures: Mapping[str, Mapping[str, Figure]]

    @property
    def label(self) -> str:
        """Name in a report: the collection, with the language unless the collection is named after it."""
        known = not self.lang or self.collection == self.lang or self.collection.endswith(f"-{self.lang}")
        return self.collection if known else f"{self.collection} {self.lang}"


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds: the median, the slowest 5 % and the slowest 1 % begin there; ``count`` measurements."""

    p50: float
    p95: float
    p99: float
    count: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a collection cost.

    Attributes:
        documents: documents (passages, where those were split) encoded and stored in this run; 0 if all were there.
        reused: documents that the store already held unchanged.
        rejected: documents that could not be stored, and so are never found.
        tokens: tokens encoded.
        truncated: documents cut to the maximum length.
        ingest_seconds: wall time of encoding and storing.
        index_bytes: size of the collection on disk; None if the store cannot say.
        encode_ms: encoding one query.
        search_ms: system → one request for 10 hits with their texts, without encoding.
    """

    documents: int
    reused: int
    rejected: int
    tokens: int
    truncated: int
    ingest_seconds: float
    index_bytes: int | None
    encode_ms: Percentiles | None
    search_ms: Mapping[str, Percentiles]


@dataclass(frozen=True, slots=True)
class Approximation:
    """What approximate search costs one mode.

    Attributes:
        exact: measure → mean over groups with a full scan.
        approximate: measure → the same with the engine's graph.
        overlap: share of the exact top 10 that the approximate top 10 holds, mean over queries.
        search_ms: latency of the approximate request.
    """

    exact: Mapping[str, float]
    approximate: Mapping[str, float]
    overlap: float
    search_ms: Percentiles | None


@dataclass(frozen=True, slots=True)
class Curve:
    """Quality of ``all`` while one weight varies and the two others stay.

    Attributes:
        weight: "dense", "sparse" or "multi_vector".
        used: the weight of the run.
        points: (weight, mean over groups of the first measure), ascending.
    """

    weight: str
    used: float
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """Weights found on the dev split, and what they gained there and on the reported split.

    Attributes:
        mode: "all" or "dense_sparse".
        before: weights of the protocol.
        after: weights with the best mean on the dev queries.
        dev_queries: dev queries.
        dev_before: first measure on dev with the protocol's weights.
        dev_after: and with the tuned ones.
        test_before: first measure on the reported split with the protocol's weights.
        test_after: and with the tuned ones; the report's figures are these.
    """

    mode: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    dev_queries: int
    dev_before: float
    dev_after: float
    test_before: float
    test_after: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One task: one or more collections measured by one protocol.

    Attributes:
        task: name of the task.
        created: date and time, ISO 8601, UTC.
        command: the command line, or "" if it was called from Python.
        environment: package versions, runtime, processor, commit.
        model: name, fingerprint, precision, max_length of the model.
        store: where the documents were, without secrets.
        protocol: settings by name, readable as they are.
        measures: names of the measures, the first one is the headline.
        systems: the columns, in order.
        baseline: the system that the others are compared with.
        groups: the rows.
        mean: system → measure → figure, every group counted once.
        pooled: system → measure → figure, every query counted once.
        comparisons: system → measure → against the baseline, every query counted once.
        costs: collection → cost.
        approximations: mode → what approximate search costs; empty if it was not asked for.
        curves: weight sensitivity of ``all``; empty if it was not run.
        tunings: tuned weights; empty if they were not asked for.
        fusion_error: largest relative difference between a fused score of the store and the weighted sum of its three
            parts, asked for one by one; None if ``all`` was not run.
    """

    task: str
    created: str
    command: str
    environment: Mapping[str, str]
    model: Mapping[str, str]
    store: str
    protocol: Mapping[str, str]
    measures: tuple[str, ...]
    systems: tuple[str, ...]
    baseline: str
    groups: tuple[Group, ...]
    mean: Mapping[str, Mapping[str, Figure]]
    pooled: Mapping[str, Mapping[str, Figure]]
    comparisons: Mapping[str, Mapping[str, Comparison]]
    costs: Mapping[str, Cost]
    approximations: Mapping[str, Approximation]
    curves: tuple[Curve, ...]
    tunings: tuple[Tuning, ...]
    fusion_error: float | None

    def save(self, path: Path) -> None:
        """Write ``results.json``."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        # A lone surrogate (a file name that is not UTF-8) becomes \udc80, which is how JSON spells it.
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read ``results.json``.

        Raises:
            ConfigError: the file is missing or holds something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ConfigError(f"{path} has format {content['format']!r}, expected {FORMAT}: evaluate again")
            return restore(cls, content)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}): expected an m3-vdb results.json") from error
        except ConfigError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path} is not an m3-vdb results.json, or is damaged: {error!r}") from error


def restore(kind: type[T], value: Any) -> T:  # noqa: ANN401 - JSON
    """The inverse of ``dataclasses.asdict`` after a trip through JSON, by the annotations of the classes above.

    Raises:
        TypeError: a value is of another kind than its annotation says.
        KeyError: a field is missing.
        ValueError: a tuple of fixed length has another one.
    """
    found: Any = value
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints, given = get_type_hints(kind), _checked(value, dict)
        fields = {field.name: restore(hints[field.name], given[field.name]) for field in dataclasses.fields(kind)}
        found = kind(**fields)
    elif type(None) in arguments:
        found = None if value is None else restore(next(a for a in arguments if a is not type(None)), value)
    elif origin is tuple and arguments[-1] is Ellipsis:
        found = tuple(restore(arguments[0], item) for item in _checked(value, list))
    elif origin is tuple:
        found = tuple(restore(a, item) for a, item in zip(arguments, _checked(value, list), strict=True))
    elif origin is not None:
        found = {key: restore(arguments[1], item) for key, item in _checked(value, dict).items()}
    elif kind is float and type(value) is int:
        found = float(value)
    else:
        found = _checked(value, kind)
    return found  # type: ignore[no-any-return]


def _checked(value: Any, kind: type[T]) -> T:  # noqa: ANN401 - JSON
    """The value, which has to be of exactly this kind: to ``isinstance``, true is an integer."""
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {value!r:.80}")
    return value


def describe_environment() -> dict[str, str]:
    """Package versions, Python, processor, cores, memory and, in a git checkout, the commit."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    found |= {"python": platform.python_version(), "processor": platform.processor() or platform.machine()}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        found["processor"] = names[0] if names else platform.machine()
    found["cores"] = str(os.cpu_count() or "unknown")
    with suppress(ValueError, OSError, AttributeError):
        found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    if commit := _commit(Path(__file__)):
        found["commit"] = commit
    return found


def _commit(file: Path) -> str:
    """Short hash of the checkout that the package runs from, "+" where its files differ; "" outside of one."""
    git = shutil.which("git")
    if git is None:
        return ""
    here = [git, "-C", str(file.parent)]
    try:
        tracked = [*here, "ls-files", "--error-unmatch", file.name]
        if subprocess.run(tracked, capture_output=True, check=False, timeout=10).returncode:
            return ""
        ask = [*here, "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
