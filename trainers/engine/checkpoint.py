"""One checkpoint = one safetensors file: tensors as tensors, everything else as JSON in its header, renamed into
place whole.
"""

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim import Optimizer

from maskmill.data_contracts import changes, read_bytes, write_bytes
from maskmill.data_contracts.texts import parse_json
from maskmill.data_contracts.versions import deciding_versions

Json = Any  # what json.dumps takes


@dataclass
class Progress:
    """Where a run stands beside its tensors. `memory` is the trainer's own, JSON only. Data and random numbers follow
    from `step`.
    """

    fingerprint: str
    step: int = 0  # steps done
    memory: dict[str, Json] = field(default_factory=dict)
    scaler: dict[str, Json] = field(default_factory=dict)  # of fp16's loss scaling
    history: list[dict[str, Json]] = field(default_factory=list)  # evaluations so far
    made_with: dict[str, str] = field(default_factory=deciding_versions)  # whole runs are trained by one major version


def pack_tensors(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """safetensors bytes. Tensors that share memory (tied weights) are written once each, as safetensors knows no
    sharing.
    """
    seen: set[int] = set()
    packed = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        packed[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return save_tensors(packed, metadata)


def module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Weights and buffers of several modules under `module/NAME/KEY`."""
    return {f"module/{name}/{key}": t for name, m in modules.items() for key, t in m.state_dict().items()}


def load_modules(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `module_tensors`; strict."""
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})


def save_checkpoint(
    path: str, progress: Progress, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> None:
    """Write all state atomically: a kill leaves the checkpoint before or this one."""
    tensors = module_tensors(modules)
    plain: dict[str, Json] = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        scalars: dict[str, dict[str, Json]] = {}
        for index, slots in state["state"].items():
            for key, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{name}/{index}/{key}"] = value
                else:
                    scalars.setdefault(str(index), {})[key] = value
        plain[name] = {"groups": state["param_groups"], "scalars": scalars}
    header = json.dumps({"progress": vars(progress), "optimizers": plain})
    write_bytes(path, pack_tensors(tensors, {"state": header}))


def load_checkpoint(
    path: str, fingerprint: str, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> Progress | None:
    """Put a checkpoint's state into modules and optimisers; None (and nothing touched) where there is none of this
    run, or one of other major versions of what decides results.
    """
    if not os.path.exists(path):
        return None
    data = read_bytes(path)
    state = parse_json(read_metadata(data)["state"])
    progress = Progress(**{"made_with": {}, **state["progress"]})
    if progress.fingerprint != fingerprint or changes(progress.made_with, major=True):
        return None
    progress.made_with = deciding_versions()
    tensors = load_tensors(data)
    load_modules(modules, tensors)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(_optimizer_state(name, state["optimizers"][name], tensors))
        for param, slots in optimizer.state.items():
            for key, value in slots.items():
                if isinstance(value, Tensor) and value.shape == param.shape:
                    slots[key] = torch.empty_like(param).copy_(value)  # the memory layout of its parameter
    return progress


def _optimizer_state(name: str, plain: dict[str, Json], tensors: Mapping[str, Tensor]) -> dict[str, Json]:
    slots: dict[int, dict[str, Json]] = {int(i): dict(values) for i, values in plain["scalars"].items()}
    for key, tensor in tensors.items():
        kind, owner, *rest = key.split("/", 3)
        if kind == "optimizer" and owner == name:
            slots.setdefault(int(rest[0]), {})[rest[1]] = tensor
    return {"state": slots, "param_groups": plain["groups"]}


def read_metadata(data: bytes) -> dict[str, str]:
    """The string metadata in the header of safetensors bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, dict[str, str]] = parse_json(data[8 : 8 + length])
    return header.get("__metadata__", {})
