"""How a loss module keeps the options of its function."""

from typing import Any

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
