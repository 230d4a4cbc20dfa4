"""A second device that needs no hardware: tensors that say they lie on `meta` and hold their numbers on the CPU.

An operation on tensors of both devices fails as it would with a GPU. `with elsewhere():` makes `.to("meta")` and
`device="meta"` lead there, and modules keep their parameters' identity when they move, as they do between real devices.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from maskmill.vision.device import AUTO

ADAM = importlib.import_module("torch.optim.adam")
DEVICE = torch.device("meta")
BY_INDEX = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Elsewhere(torch.Tensor):
    """A tensor on the second device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Elsewhere":
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on one device alone."""
    target = kwargs.get("device")
    everything = tensors_in((*args, *kwargs.values()))
    away = [t for t in everything if isinstance(t, Elsewhere)]
    if not away and target is None:
        return func(*args, **kwargs)
    met = tensors_in((args[0], *args[2:])) if func in BY_INDEX else everything  # indices may lie here: GPUs take them
    if away and func not in COPIES and any(not isinstance(t, Elsewhere) and t.dim() > 0 for t in met):
        raise RuntimeError(f"{func}: expected all tensors on one device, found meta and cpu")
    plain = kwargs if target is None else {**kwargs, "device": torch.device("cpu")}
    found = func(*changed(args, held), **{name: changed(value, held) for name, value in plain.items()})
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if target is not None and torch.device(target).type != "meta":
        return found
    owners = {id(t.held): t for t in away}

    def back(value: torch.Tensor) -> torch.Tensor:
        if isinstance(value, Elsewhere):
            return value
        return owners[id(value)] if id(value) in owners else Elsewhere(value)  # an owner's was changed in place

    return changed(found, back)


def held(value: torch.Tensor) -> torch.Tensor:
    """The numbers of a tensor, where it lies on the second device."""
    return value.held if isinstance(value, Elsewhere) else value


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors among the arguments of an operation: they stand alone or in lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    if type(value) in (list, tuple):
        return [tensor for one in value for tensor in tensors_in(one)]
    return []


def changed(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same with every tensor changed. (PyTorch's own trees know more kinds of nests, and take most of the time.)"""
    if isinstance(value, torch.Tensor):
        return change(value)
    return type(value)(changed(one, change) for one in value) if type(value) in (list, tuple) else value


class Numbers(TorchFunctionMode):
    """Where numbers of Python become tensors, or tensors become numbers: what would happen below the dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and (device := options.pop("device", None)) is not None:
            return func(*args, **options).to(device)
        if func is torch.Tensor.new_tensor:
            like, values = args
            return torch.tensor(values, dtype=options.pop("dtype", like.dtype)).to(options.pop("device", like.device))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], listed(args[1]), *args[2:])
        if func is torch.Tensor.tolist:
            return func(args[0].cpu())
        if func in (torch.where, torch.Tensor.where):
            args = tuple(torch.tensor(a) if isinstance(a, int | float) else a for a in args)
        return func(*args, **options)


def listed(index: Any) -> Any:
    """An index whose lists of Python are tensors here: below the dispatcher their numbers would be lost."""
    if isinstance(index, tuple):
        return tuple(listed(one) for one in index)
    if not isinstance(index, list) or not all(isinstance(one, int) for one in index):
        return index
    return torch.tensor(index, dtype=torch.bool if index and isinstance(index[0], bool) else torch.long)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[None]:
    """Inside, `meta` is the second device, and the one that `auto` finds."""
    before, submit = torch.__future__.get_swap_module_params_on_conversion(), ThreadPoolExecutor.submit

    def there_too(pool: ThreadPoolExecutor, work: Any, *args: Any, **options: Any) -> Any:
        """Modes belong to a thread: those of a pool get their own."""

        def inside() -> Any:
            with Mode(), Numbers():
                return work(*args, **options)

        return submit(pool, inside)

    autocast = torch.autocast

    def mixed(device_type: str, *args: Any, **options: Any) -> AbstractContextManager[Any]:
        return nullcontext() if device_type == "meta" else autocast(device_type, *args, **options)

    def ungraded(on: bool) -> AbstractContextManager[Any]:
        return torch.no_grad() if on else nullcontext()

    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with (
            Mode(),
            Numbers(),
            mock.patch.object(ThreadPoolExecutor, "submit", there_too),
            mock.patch.object(torch, "autocast", mixed),
            mock.patch.object(torch._C, "_InferenceMode", ungraded),  # its tensors would bypass the dispatcher
            mock.patch.dict(os.environ, {AUTO: DEVICE.type}),
            mock.patch.object(ADAM, "_device_dtype_check_for_fused", return_value=None),
        ):
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
