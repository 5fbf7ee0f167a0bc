"""``python -m train retromae`` (stage 0): plain text, masked anew in every epoch, in independent sub-batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from m3_vdb.encoding.packing import pack
from train.config import Phase
from train.data.batches import BatchSampler, Numbers, RowSizes
from train.data.store import Lengths, RowStore, token_batch
from train.edit import extend_positions
from train.engine.loop import Loop
from train.engine.processes import sum_over_processes, world_size
from train.engine.run import Outcome, Report, Run
from train.engine.task import Hook, Measures, ParameterGroup, Sync
from train.model import M3Model
from train.retromae.config import RetroMAEConfig
from train.retromae.masking import MaskedBatch, mask_batch
from train.retromae.model import RetroMAE, RetroMAESums, save_decoder
from train.words import word_starts


def retromae(config: RetroMAEConfig, *, report: Report, warn: Callable[[str], None]) -> Outcome:
    """Train encoder and decoder on plain text.

    Raises:
        BundleError: the checkpoint is incomplete.
        DocumentError: a line is malformed.
        ConfigError: settings, files or directories do not fit together.
        ModelOutputError: the loss is not finite; the last checkpoint is kept.
    """
    run = Run.open(config, report=report, warn=warn)
    if run.resume_from and run.is_finished([("retromae", config.phase)]):
        return Outcome(run.resume_from)
    length = config.retromae.max_length
    base = run.load_model(config.model, longest=length)
    extend_positions(base.encoder, length, how=config.retromae.positions)
    store = run.read_rows(config.data, Lengths(length, length), kind="texts")
    return Loop(RetroMAETask(run, base, store), run).run()


@dataclass(frozen=True, slots=True)
class MaskedTexts:
    """Sub-batches of this process, and how many tokens they have."""

    parts: list[MaskedBatch]
    tokens: int
    padded_tokens: int


class RetroMAETask:
    """See ``train.engine.task.Task``.

    Args:
        run: settings, tokenizer and processes.
        base: the model to start from, its positions extended already; its heads go into every checkpoint unchanged.
        store: the texts, as queries.
    """

    def __init__(self, run: Run[RetroMAEConfig], base: M3Model, store: RowStore) -> None:
        config = run.config
        self.model = RetroMAE.from_encoder(base.encoder, seed=config.seed)
        self.phases: Sequence[tuple[str, Phase]] = [("retromae", config.phase)]
        self.hooks: Sequence[Hook] = []
        self.layers: Sequence[nn.Module] = list(base.encoder.encoder.layer)
        self._run, self._config, self._base, self._store = run, config, base, store
        self._word_starts = torch.from_numpy(word_starts(run.tokenizer_json))
        self._mask_id = mask_id(run.tokenizer_json)
        lengths = store.column("query_length").astype("int64")
        sizes = RowSizes(lengths, lengths, lengths * 0)
        self.sampler = BatchSampler(sizes, config.batching, least=world_size(), seed=config.seed)
        if config.memory == "split":
            base.encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        run.set_dropout(self.model)

    def begin(self, phase: Phase) -> list[ParameterGroup]:
        """Decoder and LM head always train."""
        encoder = self._base.encoder
        encoder.embeddings.requires_grad_("embeddings" in phase.train)
        encoder.encoder.requires_grad_("encoder" in phase.train)
        for layer in self.layers[: phase.freeze_layers]:
            layer.requires_grad_(False)
        return [ParameterGroup(("",), phase.learning_rate)]

    def collate(self, rows: Numbers, *, epoch: int, share: float) -> MaskedTexts:
        """Pack the texts and mask them; the masks depend on seed, epoch and rows alone."""
        texts = token_batch(record["query"] for record in self._store.rows(rows.tolist()))
        name = f"{self._config.seed}/{epoch}/{rows.tolist()}"
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")
        generator = torch.Generator().manual_seed(seed)
        parts = [
            mask_batch(
                torch.from_numpy(texts.padded(group)[0]),
                self._word_starts,
                self._config.retromae,
                mask_id=self._mask_id,
                generator=generator,
            )
            for group in pack(texts.lengths, batch_tokens=self._config.micro_tokens)
        ]
        return MaskedTexts(parts, int(texts.lengths.sum()), sum(part.input_ids.numel() for part in parts))

    def step(self, model: nn.Module, batch: MaskedTexts, phase: Phase, *, scale: float, sync: Sync) -> Measures:
        """MLM mean plus decoder mean over the tokens of all processes, one sub-batch after another."""
        device = self._run.processes.device
        counts = {
            "mlm": float(sum(part.mlm_count for part in batch.parts)),
            "decoder": float(sum(part.decoder_count for part in batch.parts)),
        }
        counts = {name: max(1.0, count) for name, count in sum_over_processes(counts, device).items()}
        sums = dict.fromkeys(("loss", "loss/mlm", "loss/decoder", "accuracy/mlm", "accuracy/decoder"), 0.0)
        passes = [(part, 1.0) for part in batch.parts] + [(batch.parts[0], 0.0)] * self._run.idle_passes(
            len(batch.parts)
        )
        for number, (part, weight) in enumerate(passes, start=1):
            with sync(number == len(passes)):
                with self._run.processes.autocast():
                    found: RetroMAESums = model(part.to(device))
                mlm = found.mlm_loss_sum / counts["mlm"] * weight
                decoder = found.decoder_loss_sum / counts["decoder"] * weight
                ((mlm + decoder) * scale).backward()
            part_of_batch = weight * scale / world_size()
            sums["loss/mlm"] += float(mlm.detach()) * part_of_batch
            sums["loss/decoder"] += float(decoder.detach()) * part_of_batch
            sums["accuracy/mlm"] += float(found.mlm_correct) / counts["mlm"] * part_of_batch
            sums["accuracy/decoder"] += float(found.decoder_correct) / counts["decoder"] * part_of_batch
        sums["loss"] = sums["loss/mlm"] + sums["loss/decoder"]
        return Measures({}, sums | {"tokens": batch.tokens, "padded_tokens": batch.padded_tokens})

    def write(self, path: Path, state: Mapping[str, Tensor]) -> None:
        """BGE-M3 layout with the base's heads, and the decoder beside it."""
        whole = {n: t for n, t in self._base.state_dict().items() if not n.startswith("encoder.")}
        whole |= {n: t for n, t in state.items() if n.startswith("encoder.")}
        self._base.save(path, tokenizer_json=self._run.tokenizer_json, state=whole)
        save_decoder(state, path)

    def restore(self, path: Path) -> None:
        """Encoder and decoder of a checkpoint."""
        self._base.load_state_dict(M3Model.load(path).state_dict())
        self.model.load_decoder(path)

    def name_rows(self, rows: Numbers) -> str:
        """Text numbers."""
        return f"texts {rows.tolist()}"


def mask_id(tokenizer_json: str) -> int:
    """Id of ``<mask>``."""
    tokens: list[dict[str, object]] = json.loads(tokenizer_json)["added_tokens"]
    vocabulary = json.loads(tokenizer_json)["model"]["vocab"]
    found = [token["id"] for token in tokens if token["content"] == "<mask>"]
    found += [number for number, (piece, _) in enumerate(vocabulary) if piece == "<mask>"]
    return int(str(found[0]))
