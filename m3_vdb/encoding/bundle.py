"""Model bundles: a folder with ``model.onnx``, ``tokenizer.json``, ``m3_config.json`` and ``SHA256SUMS``.

``python -m onnx_export`` writes a bundle once; it is never changed. Its fingerprint, a hash of model and tokenizer, is
stored with every collection, so that one collection never holds vectors of two models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from m3_vdb.encoding.identity import ModelIdentity
from m3_vdb.encoding.model_files import AGAIN, check_file, damaged, read_json, read_text_file
from m3_vdb.encoding.tokenizer import TOKENIZER, Tokenizer
from m3_vdb.errors import BundleError, ConfigError

FORMAT: Final = 1
MODEL, CONFIG, CHECKSUMS = "model.onnx", "m3_config.json", "SHA256SUMS"
ONNXRUNTIME: Final = "onnxruntime.onnx"
"""The same model for onnxruntime on CPUs, with the weights in ``model.onnx``; earlier exports do not have it."""
DEFAULT_MODEL: Final = "m3-small"
"""The model in the wheel."""
CONFIG_FIELDS: Final[Mapping[str, type]] = {
    "name": str,
    "precision": str,
    "dense_dim": int,
    "multi_vector_dim": int,
    "vocab_size": int,
    "max_length": int,
}
HASH_LIMIT: Final = 256 * 2**20
"""Bundles up to this many bytes are hashed when they are opened (0.1 s); larger ones only by ``verify``."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle.

    Attributes:
        path: its directory.
        name: the model's name.
        precision: "fp32", "fp16", "int8" or "int4", of the stored weights.
        dense_dim: width d of the dense vector.
        multi_vector_dim: width m of a multi-vector row.
        vocab_size: number of token ids, 0 … vocab_size - 1.
        max_length: maximum tokens of a text, with ``<s>`` and ``</s>``.
        fingerprint: hash of model and tokenizer, 16 hex digits.
        config: all of ``m3_config.json``, with the measured export errors.
    """

    path: Path
    name: str
    precision: str
    dense_dim: int
    multi_vector_dim: int
    vocab_size: int
    max_length: int
    fingerprint: str
    config: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Open a bundle directory and check its files.

        Args:
            path: the directory.

        Raises:
            BundleError: a file is missing or damaged, or the format is unknown.
        """
        if not (path / CONFIG).is_file():
            made_of = path if (path / "config.json").is_file() else "CHECKPOINT"
            raise BundleError(
                f"{path} is not a model bundle (no {CONFIG}): make one with python -m onnx_export {made_of} FOLDER"
            )
        sums = _read_checksums(path)
        config = _read_config(path)
        bundle = cls(
            path=path,
            fingerprint=fingerprint(sums),
            config=config,
            **{key: config[key] for key in CONFIG_FIELDS},
        )
        missing = [name for name in sums if not (path / name).is_file()]
        if missing:
            raise BundleError(f"{path} lacks {', '.join(missing)}: copy the whole bundle")
        for name in sums:
            check_file(path / name)
        if sum((path / name).stat().st_size for name in sums) <= HASH_LIMIT:
            bundle.verify()
        return bundle

    def verify(self) -> None:
        """Compare every file with its checksum.

        Raises:
            BundleError: a file differs.
        """
        for name, expected in _read_checksums(self.path).items():
            if sha256(self.path / name) != expected:
                raise BundleError(f"{self.path / name} is damaged (SHA-256 differs): copy or export the bundle again")

    def read_tokenizer(self) -> Tokenizer:
        """The tokenizer of the bundle.

        Raises:
            BundleError: it is damaged, or has more ids than the model.
        """
        tokenizer = Tokenizer.from_file(self.path / TOKENIZER)
        if tokenizer.vocab_size > self.vocab_size:
            raise BundleError(
                f"{self.path / TOKENIZER} has {tokenizer.vocab_size:,} ids, the model {self.vocab_size:,}: "
                f"they belong to two models, export the bundle again"
            )
        return tokenizer

    @property
    def mcls(self) -> bool:
        """Whether the graph's dense output averages all ``<s>`` (MCLS); False for bundles of earlier exports."""
        return self.config.get("mcls") is True

    def require_mcls(self) -> None:
        """Check that the graph averages all ``<s>``; others would ignore inserted ones.

        Raises:
            ConfigError: the bundle was exported before MCLS.
        """
        if not self.mcls:
            raise ConfigError(
                f"mcls_every: {self.name} was exported before MCLS, its dense vector is that of the first <s> alone: "
                f"export it again with python -m onnx_export"
            )

    @property
    def identity(self) -> ModelIdentity:
        """The model's identity, which is stored with each collection."""
        return ModelIdentity(self.name, self.fingerprint, self.dense_dim, self.multi_vector_dim)


def fingerprint(sums: Mapping[str, str]) -> str:
    """Hash of the checksums of model, weights and tokenizer: everything that determines the vectors; 16 hex digits."""
    lines = [f"{digest}  {name}" for name, digest in sorted(sums.items()) if name not in (CONFIG, ONNXRUNTIME)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def write_checksums(path: Path) -> None:
    """Write ``SHA256SUMS`` over model, tokenizer and config, in the format of ``sha256sum --check``."""
    ours = (MODEL, ONNXRUNTIME, TOKENIZER, CONFIG)
    names = sorted(file.name for file in path.iterdir() if file.name.startswith(ours))
    lines = [f"{sha256(path / name)}  {name}\n" for name in names]
    (path / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_checksums(path: Path) -> dict[str, str]:
    if not (path / CHECKSUMS).is_file():
        raise BundleError(f"{path} lacks {CHECKSUMS}: copy the whole bundle")
    lines = (line.partition("  ") for line in read_text_file(path / CHECKSUMS).splitlines())
    sums = {name: digest for digest, _, name in lines}
    if not {MODEL, TOKENIZER, CONFIG} <= sums.keys():
        raise BundleError(f"{path / CHECKSUMS} is damaged or incomplete: {AGAIN}")
    return sums


def _read_config(path: Path) -> dict[str, Any]:
    """``m3_config.json`` with every field that ``Bundle`` needs."""
    config = read_json(path / CONFIG)
    if (found := config.get("format")) != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        remedy = "it was made by a newer m3-vdb: pip install -U m3-vdb" if newer else "export the model again"
        raise BundleError(f"{path} has bundle format {found}, this version reads {FORMAT}: {remedy}")
    for field, kind in CONFIG_FIELDS.items():
        if field not in config:
            raise BundleError(f"{path / CONFIG} lacks {field}: {AGAIN}")
        if type(config[field]) is not kind or (kind is int and config[field] < 1):
            raise damaged(path / CONFIG, f"{field} is {config[field]!r}")
    return config
