"""What each leaf makes of a case: the loss of each row, and the gradient of their sum by the logits.

Used by the tests and by the table of benchmarks/frameworks.py. A leaf is imported when it is asked.
"""

from typing import Any

import numpy as np
import torch

import manyhot
from framework_cases import FrameworkCase


def tensors_of(case: FrameworkCase) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Return the logits as a leaf of the graph, the labels, and the options, all of torch."""
    options = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in case.options.items()
    }
    return torch.from_numpy(case.logits.copy()).requires_grad_(), torch.from_numpy(case.labels), options


def eager(case: FrameworkCase) -> tuple[np.ndarray, np.ndarray]:
    logits, labels, options = tensors_of(case)
    value = manyhot.zlpr_loss(logits, labels, reduction="none", impl="eager", **options)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach().numpy(), gradient.numpy()


def boosting(case: FrameworkCase) -> tuple[np.ndarray, np.ndarray]:
    from manyhot.boosting import ZLPRObjective

    value, gradient, _ = ZLPRObjective(**case.options).derivatives(case.labels, case.logits)
    return value, gradient
