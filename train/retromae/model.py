"""RetroMAE: an encoder learns to put a whole text into its CLS vector, since a weak decoder must rebuild it from that.

Two losses share word embeddings and LM head: the encoder predicts its masked tokens (MLM), and a one-layer decoder
predicts every token from the CLS vector and a random part of the others (RetroMAE, arXiv 2205.12035, "enhanced
decoding"). Legend: B texts, L padded tokens, d encoder width, V pieces, n predicted positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import XLMRobertaConfig, XLMRobertaModel

from m3_vdb.encoding.tokenizer import PAD
from m3_vdb.errors import BundleError
from train.model import read_state
from train.retromae.masking import IGNORED, MaskedBatch, is_content, visibility

DECODER_FILE: Final = "retromae_decoder.safetensors"
INITIAL_STD: Final = 0.02
LM_ROWS: Final = 512
"""Rows of logits held at once: 0.5 GiB in float32 with XLM-R's 250 002 pieces."""


@dataclass(frozen=True, slots=True)
class RetroMAESums:
    """Sums over a batch, each a float32 scalar; the objective is MLM mean + decoder mean, over the *whole* batch.

    Sums, since a batch may be split: whoever splits it divides by the counts of all its parts.

    Attributes:
        mlm_loss_sum: Σ −log p of the encoder's masked tokens, with gradient.
        mlm_count: tokens in it.
        mlm_correct: of these, how many have the highest logit.
        decoder_loss_sum: Σ −log p of all content tokens by the decoder, with gradient.
        decoder_count: tokens in it.
        decoder_correct: of these, how many have the highest logit.
    """

    mlm_loss_sum: Tensor
    mlm_count: Tensor
    mlm_correct: Tensor
    decoder_loss_sum: Tensor
    decoder_count: Tensor
    decoder_correct: Tensor


class LMHead(nn.Module):
    """States → logits, tied to the word embeddings; parameters named as ``lm_head`` of transformers' XLM-R."""

    def __init__(self, config: XLMRobertaConfig, *, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: Tensor, words: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(loss sum, correct predictions), float32 scalars, without ever holding n × V logits.

        Args:
            states: [n, d], n ≥ 0.
            words: [V, d], the encoder's word embeddings.
            labels: int64 [n].
        """
        blocks = zip(torch.split(states, self.rows), torch.split(labels, self.rows), strict=True)
        # Nothing random happens in a block, so the random state need not be kept for its second computation.
        parts: list[tuple[Tensor, Tensor]] = [
            checkpoint(self._block, *block, words, use_reentrant=False, preserve_rng_state=False) for block in blocks
        ]
        return torch.stack([loss for loss, _ in parts]).sum(), torch.stack([hits for _, hits in parts]).sum()

    def _block(self, states: Tensor, labels: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional.linear(self.layer_norm(functional.gelu(self.dense(states))), words, self.bias).float()
        return (
            functional.cross_entropy(logits, labels, reduction="sum"),
            (logits.detach().argmax(-1) == labels).sum().float(),
        )


class Decoder(nn.Module):
    """One post-norm transformer layer whose queries are not its keys.

    With attention dropout torch has no fused kernel on CPUs and holds heads × L × L numbers: 10 GiB at 8192 tokens and
    4 heads, 0.4 without.
    """

    def __init__(self, config: XLMRobertaConfig) -> None:
        super().__init__()
        self.heads = int(config.num_attention_heads)
        self.query, self.key, self.value, self.attended = (
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4)
        )
        self.attended_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.wide = nn.Linear(config.hidden_size, config.intermediate_size)
        self.narrow = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, queries: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """[B, L, d] from queries and memory [B, L, d] and seen, bool [B, L, L]; every row must see a column."""
        q, k, v = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, x in ((self.query, queries), (self.key, memory), (self.value, memory))
        )
        probability = self.attention_dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None], dropout_p=probability)
        states = self.attended_norm(queries + self.dropout(self.attended(mixed.transpose(1, 2).flatten(2))))
        narrowed: Tensor = self.dropout(self.narrow(functional.gelu(self.wide(states))))
        output: Tensor = self.output_norm(states + narrowed)
        return output


class RetroMAE(nn.Module):
    """Encoder + one-layer decoder + LM head.

    Args:
        encoder: an XLM-RoBERTa model without pooling layer; it alone outlives the stage.
        lm_rows: predicted positions whose logits are held at once.
    """

    def __init__(self, encoder: XLMRobertaModel, *, lm_rows: int = LM_ROWS) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(encoder.config)
        self.lm_head = LMHead(encoder.config, rows=lm_rows)

    @classmethod
    def from_encoder(cls, encoder: XLMRobertaModel, *, seed: int, lm_rows: int = LM_ROWS) -> RetroMAE:
        """A new decoder and LM head for an encoder, weights from N(0, 0.02²) by ``seed`` alone, biases 0.

        They take the encoder's dtype and device.
        """
        model = cls(encoder, lm_rows=lm_rows)
        generator = torch.Generator().manual_seed(seed)
        for module in (*model.decoder.modules(), *model.lm_head.modules()):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, INITIAL_STD, generator=generator)
                nn.init.zeros_(module.bias)
        return model.to(device=encoder.device, dtype=encoder.dtype)

    def forward(self, batch: MaskedBatch) -> RetroMAESums:
        """Both losses of a padded batch; see ``RetroMAESums``."""
        real = (batch.input_ids != PAD).long()
        states = self.encoder(input_ids=batch.masked_ids, attention_mask=real).last_hidden_state
        decoded = self._decode(states[:, :1], batch)
        sums: list[Tensor] = []
        words = self.encoder.embeddings.word_embeddings.weight
        for rows, predicted in ((states, batch.labels != IGNORED), (decoded, is_content(batch.input_ids))):
            loss, correct = self.lm_head(rows[predicted], words, batch.input_ids[predicted])
            sums += [loss, predicted.sum().float(), correct]
        return RetroMAESums(*sums)

    def _decode(self, cls_vector: Tensor, batch: MaskedBatch) -> Tensor:
        """[B, L, d]: row i has position i and the CLS vector [B, 1, d], and looks at clean token embeddings."""
        embeddings = self.encoder.embeddings
        memory = torch.cat([cls_vector, embeddings(input_ids=batch.input_ids)[:, 1:]], dim=1)
        # Texts begin at column 0 and are padded on the right, so column i is position i; padded rows are not used.
        first = int(embeddings.padding_idx) + 1
        positions = embeddings.position_embeddings.weight[first : first + memory.shape[1]]
        decoded: Tensor = self.decoder(cls_vector + positions, memory, visibility(batch))
        return decoded

    def load_decoder(self, path: Path) -> None:
        """Read what ``save_decoder`` wrote.

        Raises:
            BundleError: the file is missing, damaged, or of another size of model.
        """
        file = path / DECODER_FILE
        state = read_state(file)
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in decoder_state(self.state_dict()).items()}
        if wrong := sorted(name for name in found | expected if found.get(name) != expected.get(name)):
            name = wrong[0]
            raise BundleError(
                f"{file} has {name} {found.get(name)}, expected {expected.get(name)}: it belongs to another encoder"
            )
        self.load_state_dict(state, strict=False)  # the encoder's names are not in it; the others were compared above


def decoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of decoder and LM head, without the tied word embeddings, in a state dict of ``RetroMAE``."""
    return {name: tensor.contiguous() for name, tensor in state.items() if not name.startswith("encoder.")}


def save_decoder(state: Mapping[str, Tensor], path: Path) -> None:
    """Write decoder and LM head of a state dict into the existing directory ``path``."""
    save_file(decoder_state(state), path / DECODER_FILE)
