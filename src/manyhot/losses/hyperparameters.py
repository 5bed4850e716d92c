"""How a loss module keeps the options of its function."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn


class PriorLogits(NamedTuple):
    """A prior as its log-odds, or logarithms where classes exclude each other: what a module keeps in its place.

    A frequency of 1 - 1e-9 is 1 in float32, and one of .999 is 1 in half types; their log-odds are 20.7 and 6.9.
    """

    values: Tensor


class LossModule(nn.Module):
    """A loss with its options; a tensor among them keeps at least 32 bits, whatever the module is cast to.

    The loss is computed in float32 for half types too, so that nothing is gained by rounding its options.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LossModule":
        options, self._buffers = self._buffers, {}
        try:
            super()._apply(fn, recurse)
        finally:
            self._buffers = {name: value if value is None else _moved(value, fn) for name, value in options.items()}
        return self

    def extra_repr(self) -> str:
        """Show the options that differ from their defaults: `ZLPRLoss(scale=2.0)`; of a tensor its shape."""
        defaults = inspect.signature(type(self).__init__).parameters
        shown = []
        for name, attribute in vars(self)["options"].items():
            value = getattr(self, attribute)
            if isinstance(value, Tensor):
                shown.append(f"{name}={type(value).__name__}{tuple(value.shape)}")
            elif name in defaults and value != defaults[name].default:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)


def _moved(option: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    try:
        moved = fn(option)
    except TypeError:  # Apple's GPUs have no float64
        moved = fn(option.float())
    rounded = moved.is_floating_point() and moved.dtype.itemsize < 4 and moved.dtype != option.dtype
    return option.to(moved.device) if rounded else moved


def keep(module: LossModule, **options: Any) -> None:
    """Store options on a module: a Parameter stays one, a tensor becomes a buffer, anything else an attribute.

    Buffers and parameters follow `.to()` and stand in `state_dict`.
    """
    attributes = {}
    for name, value in options.items():
        attributes[name] = f"{name}_logits" if isinstance(value, PriorLogits) else name
        if isinstance(value, PriorLogits):
            module.register_buffer(attributes[name], value.values)
        elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            module.register_buffer(name, value)
        else:
            setattr(module, name, value)
    vars(module)["options"] = attributes


def kept(module: LossModule) -> dict[str, Any]:
    """Return what :func:`keep` stored, as keyword arguments for the function."""
    options = {name: getattr(module, attribute) for name, attribute in vars(module)["options"].items()}
    if vars(module)["options"].get("prior", "prior") != "prior":
        options["prior"] = PriorLogits(options["prior"])
    return options
