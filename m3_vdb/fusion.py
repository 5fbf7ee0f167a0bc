"""What a store must compute: the weights of the M3 score, and the paper's presets.

``s_hybrid = dense · s_dense + sparse · s_lex + multi_vector · s_mul``, a weighted sum of *raw* scores, never of ranks
and never of normalised scores (M3-Embedding, arXiv 2402.03216v4, section 3.2). The parts are defined in
``m3_vdb.scoring``.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Final

from m3_vdb.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights (w1, w2, w3) of the three scores.

    Attributes:
        dense: weight of the dense score.
        sparse: weight of the lexical score.
        multi_vector: weight of the multi-vector score.

    Raises:
        ConfigError: a weight is negative or not finite, or all three are 0.
    """

    dense: float = 1.0
    sparse: float = 0.3
    multi_vector: float = 1.0

    def __post_init__(self) -> None:
        values = astuple(self)
        if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
            raise ConfigError(f"weights must be finite, at least 0 and not all 0; got {values}")

    @classmethod
    def parse(cls, text: str) -> Weights:
        """Read a preset's name or three numbers, ``"1,0.3,1"``.

        Raises:
            ConfigError: neither a preset nor three numbers.
        """
        if text in PRESETS:
            return PRESETS[text]
        try:
            dense, sparse, multi_vector = (float(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(
                f"weights {text!r}: expected three numbers such as 1,0.3,1 or one of {', '.join(PRESETS)}"
            ) from None
        return cls(dense, sparse, multi_vector)


PRESETS: Final[dict[str, Weights]] = {
    "default": Weights(1.0, 0.3, 1.0),  # MIRACL and MKQA, "All"
    "dense_sparse": Weights(1.0, 0.3, 0.0),  # MIRACL and MKQA, "Dense+Sparse"
    "long_document": Weights(0.15, 0.5, 0.35),  # MLDR and NarrativeQA, "All"
    "long_dense_sparse": Weights(0.2, 0.8, 0.0),  # MLDR and NarrativeQA, "Dense+Sparse"
}
"""The weights that the paper used, by task (section 4 and appendix C of arXiv 2402.03216v4)."""
