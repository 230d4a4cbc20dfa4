"""Several processes of one machine that train as one, each on a device of its own. accelerate says who is who, and
carries gradients and numbers between them (gloo on CPUs, NCCL on GPUs).
"""

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskmill.trainers.engine.batches import Batch, Source
from maskmill.vision.device import AUTO

logger = logging.getLogger("maskmill.train")

T = TypeVar("T")
MEMBERS = "MASKMILL_TRAINING_PROCESSES"  # set in processes that `train_together` started
PATIENCE = timedelta(hours=12)  # one may evaluate on a machine that is busier
BUCKET = 1 << 24  # gradients that travel at once


@dataclass(frozen=True)
class Team:
    """This process among those that train as one: its number, and how many they are. Number 0 writes."""

    rank: int = 0
    size: int = 1
    start_method: ClassVar[str] = "spawn"

    @classmethod
    def here(cls) -> "Team":
        """The team of this process; of one where it is alone."""
        if MEMBERS not in os.environ:
            return cls()
        from accelerate import PartialState

        cpu = not torch.cuda.is_available()
        state = PartialState(cpu=cpu, backend="gloo" if cpu else "nccl", timeout=PATIENCE)
        return cls(state.process_index, state.num_processes)

    @property
    def writes(self) -> bool:
        """Whether this process writes checkpoint, log and artifact."""
        return self.rank == 0

    def share(self, source: Source) -> Source:
        """Every `size`-th batch of a source, from the `rank`-th on: together they go through it without repeats."""
        return source if self.size == 1 else _Share(source, self.rank, self.size)

    def mean_gradients(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Give every process the mean of all gradients; one that has none counts as 0. False where nobody has any."""
        some = list(parameters)
        if self.size == 1:
            return any(one.grad is not None for one in some)
        from accelerate.utils import reduce

        device = some[0].device
        have: Tensor = reduce(torch.tensor([float(p.grad is not None) for p in some], device=device), "sum")
        wanted = [p for p, count in zip(some, have.tolist(), strict=True) if count]
        for bucket in _buckets(wanted):
            for one in bucket:
                one.grad = torch.zeros_like(one) if one.grad is None else one.grad
            grads = [one.grad for one in bucket if one.grad is not None]
            mean = reduce(torch.cat([grad.reshape(-1) for grad in grads]), "mean")
            for grad, part in zip(grads, mean.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view(grad.shape))
        return bool(wanted)

    def mean_statistics(self, modules: Mapping[str, nn.Module]) -> None:
        """Give every process the mean of all batch norms' running statistics."""
        if self.size == 1:
            return
        from accelerate.utils import reduce

        for module in (part for one in modules.values() for part in one.modules() if isinstance(part, _BatchNorm)):
            for buffer in (module.running_mean, module.running_var):
                if buffer is not None:
                    buffer.copy_(reduce(buffer, "mean"))

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in process 0, in all of them; the others wait for it."""
        found: list[Any] = [make() if self.writes else None]
        if self.size > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(found)
        result: T = found[0]
        return result

    def means(self, records: list[dict[str, float]]) -> list[dict[str, float]]:
        """Records of numbers, the n-th of each process made one: the mean of each name over those that have it."""
        if self.size == 1:
            return records
        from accelerate.utils import gather_object

        all_of_them: list[list[dict[str, float]]] = gather_object([records])
        return [_mean(same) for same in zip(*all_of_them, strict=True)]


@dataclass(frozen=True)
class _Share:
    source: Source
    rank: int
    size: int

    def __call__(self, step: int) -> Batch:
        return self.source(step * self.size + self.rank)


def _buckets(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Neighbours of one type, so many that their gradients make about a bucket."""
    found: list[list[nn.Parameter]] = []
    room, kind = 0, None
    for one in parameters:
        if not found or one.dtype != kind or one.numel() > room:
            found.append([])
            room, kind = BUCKET, one.dtype
        found[-1].append(one)
        room -= one.numel()
    return found


def _mean(records: Iterable[dict[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.items():
            values.setdefault(name, []).append(value)
    return {name: sum(some) / len(some) for name, some in values.items()}


def train_together(processes: int, device: str, work: Callable[..., object], *arguments: Any) -> None:
    """Call `work` with `arguments` in so many new processes, which find each other by `Team.here`; where there are
    GPUs each sees one of its own, unless `device` is cpu.

    Raises:
        ValueError: one device is named for all, or there are fewer GPUs than processes.
        ProcessRaisedException: one of them failed; the others are ended. Holds what it said.
    """
    device = os.environ.get(AUTO, device) if device == "auto" else device
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"device {device!r}: expected auto, cpu or cuda with processes: {processes}; each takes its own"
        )
    if (device == "cuda" or gpus) and gpus < processes:
        fix = f"processes: {max(gpus, 1)}, or runtime.device: cpu"
        raise ValueError(f"processes: {processes}: torch finds {gpus} GPUs here, each process needs its own; {fix}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",") if gpus else []
    given = (processes, port, visible, work, arguments)
    start: Any = torch.multiprocessing
    start.start_processes(_member, given, nprocs=processes, start_method=Team.start_method)


def warn_of_spare(processes: int, device: str) -> None:
    """Say so where GPUs of this machine would stay idle."""
    gpus = torch.cuda.device_count()
    if gpus > processes and "cpu" not in (device, os.environ.get(AUTO)):
        logger.warning("%d of %d GPUs stay unused; settings.processes: %d trains on all", gpus - processes, gpus, gpus)


def _member(
    rank: int, processes: int, port: int, visible: list[str], work: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    told = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    os.environ.update({MEMBERS: str(processes), "CUDA_VISIBLE_DEVICES": visible[rank] if visible else ""})
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        work(*arguments)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
