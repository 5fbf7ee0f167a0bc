"""``python -m train pretrain`` (stage 1) and ``finetune`` (stage 2): an M3 model, rows, and one contrastive step.

At checkpoints a run may evaluate and choose the best (``watch``), and mine fresh hard negatives (``refresh``). Both
read the checkpoint that was just written, in the main process, so what is measured is what is saved, whatever the
model's shards or adapters. Both leave their results in files and find them again, so a resumed run repeats nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from m3_vdb.encoding.embedding_function import M3EmbeddingFunction
from m3_vdb.encoding.packing import pack
from m3_vdb.encoding.tokenizer import TokenBatch, Tokenizer
from m3_vdb.errors import ConfigError
from train.config import FinetuneConfig, Head, Phase, PretrainConfig, Watch
from train.contrastive.anchor import AnchorEncoder
from train.contrastive.backward import Forward, gradcache, through_the_graph
from train.contrastive.batch import Batch, Order, batch_losses
from train.contrastive.draw import Draw, draw_batch
from train.contrastive.losses import Losses
from train.contrastive.representations import Representations, concatenate, owners, pack_output
from train.data.batches import BatchSampler, Numbers, RowSizes
from train.data.store import Lengths, RowStore
from train.engine.loop import Loop
from train.engine.m3_task import M3Task
from train.engine.plot import read_lines
from train.engine.processes import world_size
from train.engine.run import Outcome, Report, Run, fastest_micro_tokens
from train.engine.task import Hook, Measures, Sync
from train.model import M3Model
from train.retrieval.config import SearchOptions
from train.retrieval.data import Corpus, read_rows, write_rows
from train.retrieval.evaluation import evaluate_model, read_collections
from train.retrieval.mining import mine_rows
from train.session import embedding_function
from train.words import word_starts


def contrastive(config: PretrainConfig | FinetuneConfig, *, report: Report, warn: Callable[[str], None]) -> Outcome:
    """Train the dense score on pairs (stage 1), or all heads on rows with hard negatives (stage 2).

    Args:
        config: settings; their kind says which stage.
        report: called after each step in the main process.
        warn: called with each warning in the main process.

    Raises:
        BundleError: the checkpoint is incomplete.
        DocumentError: a row is malformed.
        ConfigError: settings, files or directories do not fit together.
        ModelOutputError: the loss is not finite; the last checkpoint is kept.
    """
    run = Run.open(config, report=report, warn=warn)
    phases: list[tuple[str, Phase]]
    if isinstance(config, FinetuneConfig):
        draw, phases = Draw(config.group_size, config.seed), list(config.phases)
    else:
        starts = word_starts(run.tokenizer_json) if config.shuffle else None
        draw, phases = Draw(1, config.seed, config.shuffle, starts), [("pretrain", config.phase)]
    # An evaluation of the last checkpoint may be missing.
    if run.resume_from and not config.watch.data and run.is_finished(phases):
        return Outcome(run.resume_from)
    model = run.load_model(config.model, longest=max(config.query_max_length, config.passage_max_length))
    lengths = Lengths(*(min(n, model.max_length) for n in (config.query_max_length, config.passage_max_length)))
    open_rows = partial(run.read_rows, lengths=lengths, need_negatives=draw.group_size > 1)
    store = open_rows(rows_before(config, run.resume_from))
    torch.manual_seed(config.seed)  # adapters begin at random
    task = ContrastiveTask(run, model, store, draw, phases)
    if config.watch.data:
        task.hooks.append(watch_hook(run, config.watch))
    if isinstance(config, FinetuneConfig) and config.refresh.every:
        task.hooks.append(refresh_hook(run, config, task, open_rows))
    if not config.micro_tokens:
        longest = int(store.column("longest").max())
        task.micro_tokens = fastest_micro_tokens(model, longest=longest, processes=run.processes)
    return Loop(task, run).run()


@dataclass(frozen=True, slots=True)
class Forwards:
    """The forward passes of a batch: sub-batches of queries, then of passages, each of texts of like length."""

    passes: list[Forward]
    queries: int
    order: Order
    tokens: int
    padded_tokens: int


class ContrastiveTask(M3Task):
    """See ``train.engine.task.Task``.

    Args:
        run: settings, tokenizer and processes.
        model: on the CPU.
        store: the rows.
        draw: how groups are drawn.
        phases: (name, phase).
    """

    def __init__(
        self,
        run: Run[Any],
        model: M3Model,
        store: RowStore,
        draw: Draw,
        phases: Sequence[tuple[str, Phase]],
    ) -> None:
        config: PretrainConfig | FinetuneConfig = run.config
        super().__init__(run, model, config.lora)
        self.phases, self.hooks = phases, list[Hook]()
        self.micro_tokens = config.micro_tokens
        self._config, self._draw = config, draw
        if config.anchor and not any(phase.self_distill for _, phase in phases):
            raise ConfigError(
                "anchor teaches in self-distillation: give a phase self_distill: true, or leave anchor out"
            )
        self._anchor = AnchorEncoder(run, config.anchor) if config.anchor else None
        self.use_rows(store)

    def use_rows(self, store: RowStore, *, epoch: int = 0) -> None:
        """Train on these rows, from the beginning of the epoch of that number."""
        self._store = store
        self._datasets = store.column("dataset")
        self.sampler = BatchSampler(
            row_sizes(store, self._draw.group_size),
            self._config.batching,
            least=max(2, world_size()),
            seed=self._config.seed,
            epoch=epoch,
        )

    def collate(self, rows: Numbers, *, epoch: int, share: float) -> Batch:
        """Draw passages for the rows."""
        return draw_batch(self._store.rows(rows.tolist()), rows.tolist(), self._draw, epoch=epoch, share=share)

    def step(self, model: nn.Module, batch: Batch, phase: Phase, *, scale: float, sync: Sync) -> Measures:
        """Forward passes over sub-batches, the loss over all of them, and the gradients."""
        heads = tuple(phase.losses)
        work = self.forwards(model, batch, heads)
        anchored = None
        if self._anchor:
            anchored = self._anchor.says(batch.queries, batch.passages, batch_tokens=self.micro_tokens)
        losses_of = partial(
            batch_losses,
            batch=batch,
            order=work.order,
            heads=heads,
            objective=self._config.objective,
            self_distill=phase.self_distill,
            anchored=anchored,
        )

        def loss_of(parts: list[Representations]) -> tuple[Tensor, tuple[Losses, dict[str, Tensor], dict[str, float]]]:
            queries, passages = concatenate(parts[: work.queries]), concatenate(parts[work.queries :])
            losses, found = losses_of(queries, passages)
            return losses.total * (scale * batch.share), (losses, found, sparsity(passages))

        backward = gradcache if self._config.memory == "gradcache" else through_the_graph
        idle = self._run.idle_passes(len(work.passes))
        losses, found, sparse = backward(work.passes, loss_of, sync=sync, idle=idle)
        means = {"loss": losses.total, "teacher_entropy": losses.entropy} | found
        means |= {f"loss/{name}": term for name, term in losses.terms.items()}
        numbers = {name: float(value.detach()) for name, value in means.items()}
        return Measures(numbers | sparse, {"tokens": work.tokens, "padded_tokens": work.padded_tokens})

    def forwards(self, model: nn.Module, batch: Batch, heads: tuple[Head, ...]) -> Forwards:
        """Sub-batches of at most ``micro_tokens`` padded tokens."""
        passes: list[Forward] = []
        orders: list[Tensor] = []
        tokens = padded = 0
        queries = 0
        for texts in (batch.queries, batch.passages):
            groups = pack(texts.lengths, batch_tokens=self.micro_tokens, call_cost=self.call_cost)
            passes += [partial(self._forward, model, texts, group, heads) for group in groups]
            orders.append(torch.from_numpy(np.concatenate(groups)).to(self._processes.device))
            tokens += int(texts.lengths.sum())
            padded += sum(len(group) * int(texts.lengths[group].max()) for group in groups)
            queries = queries or len(groups)
        return Forwards(passes, queries, Order(*orders), tokens, padded)

    def _forward(
        self, model: nn.Module, texts: TokenBatch, group: NDArray[np.intp], heads: tuple[Head, ...]
    ) -> Representations:
        output, ids, mask = self.forward(model, texts, group)
        return pack_output(output, ids, mask, heads)

    def name_rows(self, rows: Numbers) -> str:
        """Row numbers and data set."""
        return f"rows {rows.tolist()} of data set {self._datasets[rows[0]]!r}"


def row_sizes(store: RowStore, group_size: int) -> RowSizes:
    """What the batch plan needs; the cost of a row counts its longest passages."""
    negatives = np.minimum(store.column("negatives_count"), group_size - 1)
    cost = store.column("query_length") + store.column("positive_length") + negatives * store.column("negative_length")
    dataset = np.unique(store.column("dataset"), return_inverse=True)[1]
    return RowSizes(store.column("longest").astype(np.int64), cost.astype(np.int64), dataset.astype(np.int64))


@torch.no_grad()
def sparsity(passages: Representations) -> dict[str, float]:
    """Mean number of distinct ids with a weight, and share of texts without any; {} if the head is not in use."""
    if not len(passages.ids):
        return {}
    alive = passages.weights > 0
    owner = owners(passages.id_counts)[alive]
    pairs = torch.unique(torch.stack([owner, passages.ids[alive]]), dim=1)
    per_text = torch.bincount(pairs[0], minlength=len(passages))
    return {
        "sparse/active_dimensions": float(per_text.float().mean()),
        "sparse/zero_share": float((per_text == 0).float().mean()),
    }


def watch_hook(stage: Run[Any], watch: Watch) -> Hook:
    """Evaluate every ``watch.every`` steps: ``evaluations.jsonl`` and the name of the best checkpoint, ``best.txt``."""
    path = stage.config.out / "evaluations.jsonl"

    def run(checkpoint: Path, step: int) -> None:
        if all(entry["step"] != step for entry in read_lines(path)):
            embed = _load(checkpoint, stage, watch.options)
            result = evaluate_model(embed, read_collections(watch.data, watch.options), watch.options)
            mode, measure = watch.metric.split("/", 1)
            entry = {"step": step, "value": result.mean[mode][measure], "mean": asdict(result)["mean"]}  # type: ignore[index]
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            stage.warn(f"step {step}: {watch.metric} {entry['value']:.4f}")
        best = max(read_lines(path), key=lambda entry: float(entry["value"]))
        path.with_name("best.txt").write_text(f"step-{best['step']:06d}\n", encoding="utf-8")

    def adopt(step: int) -> bool:
        values = [float(entry["value"]) for entry in read_lines(path) if entry["step"] <= step]
        since_best = len(values) - 1 - values.index(max(values))
        return bool(watch.patience) and since_best >= watch.patience

    return Hook("watch", watch.every, run, adopt)


def refresh_hook(
    run: Run[Any], config: FinetuneConfig, task: ContrastiveTask, open_rows: Callable[[list[Path]], RowStore]
) -> Hook:
    """Mine new negatives every ``refresh.every`` steps into ``negatives/step-N.jsonl`` and begin an epoch with them."""
    refresh = config.refresh

    def mine(checkpoint: Path, step: int) -> None:
        path = negatives_path(config.out, step)
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            embed = _load(checkpoint, run, refresh.options)
            corpus = Corpus.read(refresh.corpus) if refresh.corpus else None
            rows, done = mine_rows(embed, read_rows(config.data), refresh.options, corpus=corpus)
            write_rows(rows, path)
            run.warn(f"step {step}: {done.negatives} new negatives, {done.dropped} candidates too close to a positive")

    def adopt(step: int) -> bool:
        task.use_rows(open_rows([negatives_path(config.out, step)]), epoch=task.sampler.epoch + 1)
        return False

    return Hook("refresh", refresh.every, mine, adopt)


def negatives_path(out: Path, step: int) -> Path:
    """Where the rows that were mined at a step are."""
    return out / "negatives" / f"step-{step:06d}.jsonl"


def rows_before(config: PretrainConfig | FinetuneConfig, resume_from: Path | None) -> list[Path]:
    """The rows that a run trains on when it arrives at a checkpoint: those of the refresh before it, or its own."""
    if isinstance(config, FinetuneConfig) and config.refresh.every and resume_from:
        step = int(resume_from.name.removeprefix("step-"))
        last = (step - 1) // config.refresh.every * config.refresh.every
        if last > 0:
            return [negatives_path(config.out, last)]
    return config.data


def _load(checkpoint: Path, run: Run[Any], options: SearchOptions) -> M3EmbeddingFunction:
    model = run.load_model(checkpoint, longest=run.config.passage_max_length).to(run.processes.device)
    tokenizer = Tokenizer.from_file(checkpoint / "tokenizer.json")
    return embedding_function(model, tokenizer, dtype=options.dtype, batch_tokens=options.batch_tokens)
