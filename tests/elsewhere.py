"""A simulated device: its tensors are on the CPU, but operations refuse to mix them with others."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")  # the one that nothing has to be installed for


class Elsewhere(torch.Tensor):
    """A tensor on the other device; ``held`` is what it holds."""

    @staticmethod
    def __new__(cls, held):
        layout = {
            "strides": held.stride(),
            "storage_offset": held.storage_offset(),
            "dtype": held.dtype,
        }
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, device=DEVICE, **layout)

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class Simulated(TorchDispatchMode):
    """Within it ``DEVICE`` computes, and refuses operands from the CPU as a GPU does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
    away = [v for v in tensors if isinstance(v, Elsewhere)]
    # numbers go anywhere, a copy is meant to move, and an index may come from the CPU
    indexes = str(func).startswith(("aten.index.", "aten.index_put", "aten._index_put"))
    free = "copy_" in str(func) or (indexes and isinstance(args[0], Elsewhere))
    stray = [tuple(v.shape) for v in tensors if not isinstance(v, Elsewhere) and v.ndim]
    if away and stray and not free:
        raise RuntimeError(f"{func} mixes devices, shapes {stray} lie on the CPU")
    where = kwargs.get("device")
    goes = bool(away) if where is None else torch.device(where) == DEVICE
    if where is not None:
        kwargs = {**kwargs, "device": "cpu"}
    args, kwargs = (
        tree_map(lambda v: v.held if isinstance(v, Elsewhere) else v, a) for a in (args, kwargs)
    )
    result = func(*args, **kwargs)

    def wrap(value):
        if not isinstance(value, torch.Tensor):
            return value
        same = [v for v in away if v.held is value]
        return same[0] if same else Elsewhere(value.resolve_conj().resolve_neg())

    return tree_map(wrap, result) if goes else result
