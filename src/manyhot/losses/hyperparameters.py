"""How a loss module keeps the options of its function."""

from typing import Any

import torch
from torch import Tensor, nn


def keep(module: nn.Module, **options: Any) -> None:
    """Store options on a module: a Parameter stays one, a tensor becomes a buffer, anything else an attribute.

    Buffers and parameters follow `.to()` and stand in `state_dict`.
    """
    for name, value in options.items():
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            module.register_buffer(name, value)
        else:
            setattr(module, name, value)
    vars(module)["options"] = tuple(options)


def kept(module: nn.Module) -> dict[str, Any]:
    """Return what :func:`keep` stored, as keyword arguments for the function."""
    return {name: getattr(module, name) for name in vars(module)["options"]}


def as_tensor(value: Any, like: Tensor) -> Tensor:
    """Turn a list, an array or a tensor into a float tensor on the device of the logits."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.as_tensor(value, dtype=dtype, device=like.device)
