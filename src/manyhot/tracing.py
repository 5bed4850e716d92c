"""Whether values of tensors can be looked at: not while torch traces a call, and at a cost on a device."""

import torch
from torch import Tensor


def transformed() -> bool:
    """Say whether torch.func transforms the call."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore


def traced() -> bool:
    """Say whether operations are recorded or transformed, so that values cannot be looked at, nor memory handed out.

    torch.compile and torch.export, torch.jit.trace, torch.func, and the modes of make_fx. A mode that only watches what
    is dispatched, a counter of flops, is none of them.
    """
    # torch offers no public way to ask for the transforms of torch.func and for dispatch modes.
    return (
        torch.compiler.is_compiling()
        or transformed()
        or torch._C._is_tracing()  # pyright: ignore
        or (watched() and any(torch._C._get_dispatch_mode(mode) is not None for mode in _RECORDING))  # pyright: ignore
    )


def watched() -> bool:
    """Say whether a dispatch mode sees each operation: a kernel's would be hidden from it."""
    return torch._C._len_torch_dispatch_stack() > 0  # pyright: ignore


_MODES = torch._C._TorchDispatchModeKey  # pyright: ignore
_RECORDING = (_MODES.PROXY, _MODES.FAKE, _MODES.FUNCTIONAL)


def values_readable(*tensors: Tensor | None) -> bool:
    """Say whether looking at values costs no device sync and breaks no trace."""
    return not traced() and all(t is None or t.device.type == "cpu" for t in tensors)
