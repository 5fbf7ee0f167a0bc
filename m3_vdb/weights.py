"""The weights of the M3 score, and the paper's presets.

``s_hybrid = dense · s_dense + sparse · s_lex + multi_vector · s_mul``, a weighted sum of *raw* scores, not of ranks or
normalised scores (M3-Embedding, arXiv 2402.03216v4, section 3.2). ``m3_vdb.scoring`` defines the parts. A collection
may have a fourth part of our own, ``bm25`` for exact words; its weight is 0 unless given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from m3_vdb.errors import ConfigError
from m3_vdb.inputs import as_real


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights (w1, w2, w3, w4) of the scores.

    Attributes:
        dense: weight of the dense score.
        sparse: weight of the lexical score.
        multi_vector: weight of the multi-vector score.
        bm25: weight of the score of exact words; above 0 only for a collection that has them.

    Raises:
        ConfigError: a weight is negative or not a finite number, or all are 0.
    """

    dense: float = 1.0
    sparse: float = 0.3
    multi_vector: float = 1.0
    bm25: float = 0.0

    def __post_init__(self) -> None:
        given = self.dense, self.sparse, self.multi_vector, self.bm25
        values = [as_real(value) for value in given]
        if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
            raise ConfigError(
                f"weights must be finite numbers, at least 0 and not all 0; got {given if given[3] else given[:3]}"
            )
        for part, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, part.name, value)

    def __repr__(self) -> str:
        """As before there was a fourth part, where it has no weight: evaluations keep rankings under this text."""
        return f"Weights({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"

    def as_dict(self) -> dict[str, float]:
        """Name → weight; without ``bm25`` where exact words have none."""
        return {name: value for name, value in asdict(self).items() if name != "bm25" or value}

    @classmethod
    def parse(cls, value: WeightsLike) -> Weights:
        """Read weights in any accepted form.

        Args:
            value: ``Weights``, the name of a preset, or three or four numbers (dense, sparse, multi_vector, bm25) as a
                tuple, list, array, dict with these names, or text such as ``"1,0.3,1"``.

        Raises:
            ConfigError: ``value`` has another form, or a weight is out of range.
        """
        if isinstance(value, Weights):
            return value
        parts: object = value
        if isinstance(value, str):
            if value.strip() in PRESETS:
                return PRESETS[value.strip()]
            parts = _numbers(value.split(","))
        names = [part.name for part in fields(cls)]
        if isinstance(value, Mapping) and set(value) | {"bm25"} == set(names):
            parts = [value.get(name, 0.0) for name in names]
        if isinstance(parts, (tuple, list, np.ndarray)) and len(parts) in (3, 4):
            return cls(*parts)
        raise ConfigError(
            f"weights={value!r}: expected three numbers (dense, sparse, multi_vector) such as 1,0.3,1, a fourth for "
            f"bm25, or one of {', '.join(PRESETS)}"
        )


WeightsLike: TypeAlias = Weights | str | Sequence[float] | Mapping[str, float] | NDArray[np.floating[Any]]
"""Accepted by ``Weights.parse`` and by every ``weights=``."""


def _numbers(parts: Sequence[str]) -> list[float]:
    """Numbers written as text; [] if one is not a number."""
    try:
        return [float(part) for part in parts]
    except ValueError:
        return []


PRESETS: Final[dict[str, Weights]] = {
    "default": Weights(1.0, 0.3, 1.0),  # MIRACL and MKQA, "All"
    "dense_sparse": Weights(1.0, 0.3, 0.0),  # MIRACL and MKQA, "Dense+Sparse"
    "long_document": Weights(0.15, 0.5, 0.35),  # MLDR and NarrativeQA, "All"
    "long_dense_sparse": Weights(0.2, 0.8, 0.0),  # MLDR and NarrativeQA, "Dense+Sparse"
}
"""The paper's weights by task (section 4 and appendix C of arXiv 2402.03216v4)."""
