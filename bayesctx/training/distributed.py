"""Training by several processes: each computes its share of every batch; gradients are averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, distributed, nn

from ..simulation import rank_of_process

__all__ = ["average", "process_group", "together"]


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes where ``torchrun`` has started this one; on the CPU, by gloo."""
    if not distributed.is_torchelastic_launched() or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def together(model: nn.Module) -> Iterator[None]:
    """Synchronise weights at the start, and batch normalisation over all ranks.

    Parameters
    ----------
    model : Module
        Changed in place: within the context every rank has the weights of the first one, and
        normalises over the batches of all.
    """
    rank, size = rank_of_process()
    with ExitStack() as hooks:
        if size > 1:
            for value in model.state_dict().values():
                distributed.broadcast(value, 0)
            for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
                hooks.callback(
                    norm.register_forward_pre_hook(lambda _, rows: _gather(*rows)).remove
                )
                hooks.callback(
                    norm.register_forward_hook(
                        lambda _, rows, found: found.chunk(size)[rank]
                    ).remove
                )
        yield


def _gather(rows: Tensor) -> Tensor:
    """Rows of all ranks in their order; differentiable on every rank."""
    rank, size = rank_of_process()
    return _Sum.apply(
        torch.cat([rows if i == rank else torch.zeros_like(rows) for i in range(size)])
    )


class _Sum(torch.autograd.Function):
    """Sum over the ranks; its gradient is the sum of the gradients of the ranks."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def average(values: Sequence[Tensor]) -> None:
    """Replace tensors by their mean over the ranks.

    Parameters
    ----------
    values : sequence of Tensor
        Changed in place; the same shapes on every rank.
    """
    _, size = rank_of_process()
    if size > 1:
        flat = torch.cat([v.flatten() for v in values])
        distributed.all_reduce(flat)
        for value, mean in zip(
            values, (flat / size).split([v.numel() for v in values]), strict=True
        ):
            value.copy_(mean.view_as(value))
