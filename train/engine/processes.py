"""Devices and processes: one CPU, one GPU or many of either (``accelerate launch`` or ``torchrun``).

``accelerate`` starts the process group, picks the device and feeds the trackers. Wrapping is done here with torch's own
DistributedDataParallel and fully_shard (FSDP2): phases wrap anew, sub-batches decide themselves when gradients are
exchanged, and sharding also works on CPUs, where it is tested.

Each process computes the loss of its own queries against the passages of all processes, gathered with gradients. The
sum of these losses is the loss of the global batch, so summing gradients over processes gives exactly the gradient of
one process with the whole batch. (The public code gathers without gradient and averages, which divides the dense
gradient by the number of processes.)
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from m3_vdb.errors import ConfigError, MissingExtraError
from train.config import RunConfig


class Processes:
    """This process among its peers.

    Args:
        config: device, precision, how several processes share the model, trackers and where they write.

    Attributes:
        accelerator: accelerate's object.
        device: torch device of this process.

    Raises:
        ConfigError: there is no such device.
        MissingExtraError: a tracker is not installed.
    """

    def __init__(self, config: RunConfig) -> None:
        device, trackers = config.device, config.trackers
        cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device={device!r}: torch {torch.__version__} sees no GPU; set device to cpu")
        for tracker in trackers:
            if find_spec(tracker) is None:  # accelerate would only leave it out
                raise MissingExtraError(f"the tracker {tracker!r}", extra="trackers")
        self.accelerator = Accelerator(cpu=cpu, log_with=list(trackers) or None, project_dir=config.out)
        self.device: torch.device = self.accelerator.device
        self._precision = config.precision
        self._parallel = config.parallel

    def start_trackers(self, settings: dict[str, Any]) -> None:
        """Open the trackers' files or connections, in the main process; not before ``out`` is known to be free."""
        self.accelerator.init_trackers("m3", config={name: str(value) for name, value in settings.items()})

    def close(self) -> None:
        """Flush the trackers; the process group stays."""
        for tracker in self.accelerator.trackers:
            tracker.finish()

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return bool(self.accelerator.is_main_process)

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    def first(self) -> AbstractContextManager[None]:
        """Context that the main process passes before the others enter."""
        context: AbstractContextManager[None] = self.accelerator.main_process_first()
        return context

    def autocast(self) -> torch.autocast:
        """Context of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16")

    def wrap(self, model: nn.Module, layers: Sequence[nn.Module]) -> nn.Module:
        """The model as it is called in training; ``layers`` are sharded one by one."""
        if self._parallel == "fsdp":
            if not isinstance(model, FSDPModule):
                if world_size() == 1:
                    raise ConfigError(
                        "parallel='fsdp' with one process: start several, e.g. torchrun --nproc_per_node 2"
                    )
                for module in [*layers, model]:
                    fully_shard(module)
            return model
        if world_size() == 1:
            return model
        # buffers never change; broadcasting them in every forward pass would need equal numbers of passes
        return DistributedDataParallel(model, broadcast_buffers=False)

    @property
    def lockstep(self) -> bool:
        """Whether every process must run the same number of forward passes."""
        return self._parallel == "fsdp"


@contextmanager
def gradient_sync(model: nn.Module, exchange: bool) -> Iterator[None]:
    """Context of forward and backward passes whose gradients are, or are not, exchanged at their end."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(exchange)
        yield
        return
    with nullcontext() if exchange or not isinstance(model, DistributedDataParallel) else model.no_sync():
        yield


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Scale all gradients so that their common norm is at most ``most``; returns the norm before."""
    norm: Tensor = nn.utils.clip_grad_norm_(parameters, most)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # sharded gradients give a DTensor


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def leave_processes() -> None:
    """End this process's part in the group; the last thing that a successful program does with it.

    Gloo's threads need the interpreter to let go of the tensors of the last exchanges; if it shuts down meanwhile, the
    process aborts ("terminate called without an active exception", pytorch issue 190489), and torch keeps the threads
    for as long as it remembers the mesh of a sharded model. Collecting garbage after the group is destroyed settles it:
    0 of 32 runs of 4 processes aborted, 8 of 16 without.
    """
    if dist.is_initialized():
        dist.barrier()  # a process that leaves early breaks the others' last exchange
        dist.destroy_process_group()
        gc.collect()


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, one process after another; each may bring another number of rows.

    Args:
        rows: [k, …], alike in all but k.

    Returns:
        [Σ k, …], through which gradients flow to the process that brought the row.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes = [int(count) for count in counts]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.own = slice(sum(sizes[: rank()]), sum(sizes[: rank() + 1]))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)  # every process has a share of the gradient of every row
        own: Tensor = total[ctx.own]
        return own


def sum_over_processes(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Sum each value over all processes; all must pass the same names."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(list(values.values()), dtype=torch.float64, device="cpu" if device.type == "cpu" else device)
    dist.all_reduce(tensor)
    return dict(zip(values, tensor.tolist(), strict=True))


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    return sum_over_processes({"flag": float(flag)}, device)["flag"] > 0


def most(value: int, device: torch.device) -> int:
    """The largest value of all processes."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)


def random_state() -> list[Tensor]:
    """State of torch's generators: the CPU's, then those of all GPUs in use."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def set_random_state(state: Sequence[Tensor]) -> None:
    """Put back what ``random_state`` gave."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(list(state[1:]))
