"""What each leaf makes of a case: the loss of each row, and the gradient of their sum by the logits.

Used by the tests and by the table of benchmarks/frameworks.py. A leaf is imported when it is asked.
"""

# pyright: reportMissingImports=false

from types import SimpleNamespace
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


def transformers(case: FrameworkCase) -> tuple[np.ndarray, np.ndarray]:
    """Ask the function a row at a time, as parts of a batch in which each row counts once."""
    from manyhot.transformers import MultiLabelTrainer

    logits, labels, options = tensors_of(case)
    args = SimpleNamespace(average_tokens_across_devices=False, world_size=1)
    trainer: Any = SimpleNamespace(loss=manyhot.zlpr_loss, loss_options=options, args=args)

    def part(rows: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        inputs: dict[str, Any] = {"labels": of}
        model: Any = lambda: {"logits": rows}  # noqa: E731
        return MultiLabelTrainer.compute_loss(trainer, model, inputs, num_items_in_batch=1)

    pairs = zip(logits.flatten(0, -2), labels.flatten(0, -2), strict=True)
    value = torch.stack([part(s[None], t[None]) for s, t in pairs])
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach().numpy().reshape(case.logits.shape[:-1]), gradient.numpy()


def in_jax(case: FrameworkCase, loss: str = "zlpr") -> tuple[np.ndarray, np.ndarray]:
    """Compile the loss and its gradient; the largest of options is an array."""
    import jax

    import manyhot.jax

    options = dict(case.options)
    function = getattr(manyhot.jax, loss)

    @jax.jit
    def both(logits: Any, labels: Any) -> Any:
        value, pull = jax.vjp(lambda s: function(s, labels, **options), logits)
        return value, pull(jax.numpy.ones_like(value))[0]

    value, gradient = both(case.logits, case.labels)
    return np.asarray(value, dtype=np.float64), np.asarray(gradient, dtype=np.float64)


def in_keras(case: FrameworkCase) -> tuple[np.ndarray, np.ndarray]:
    """Take the gradient by the backend that is chosen, each in its own way."""
    import keras

    import manyhot.keras

    options = dict(case.options)

    def losses(logits: Any) -> Any:
        return manyhot.keras.zlpr(case.labels, logits, **options)

    if keras.backend.backend() == "jax":
        import jax

        value, pull = jax.vjp(losses, case.logits)
        gradient = pull(jax.numpy.ones_like(value))[0]
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]

        with tf.GradientTape() as tape:
            logits = tf.constant(case.logits)
            tape.watch(logits)
            value = losses(logits)
        gradient = tape.gradient(value, logits)
    else:
        logits = torch.from_numpy(case.logits.copy()).requires_grad_()
        value = losses(logits)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
    return keras.ops.convert_to_numpy(value), keras.ops.convert_to_numpy(gradient)


def in_skorch(case: FrameworkCase) -> tuple[np.ndarray, np.ndarray]:
    """Ask the criterion of an initialised net, through the net."""
    from manyhot.skorch import MultiLabelNet

    logits, labels, options = tensors_of(case)
    criterion: Any = {f"criterion__{key}": value for key, value in (options | {"reduction": "none"}).items()}
    module: Any = torch.nn.Linear(1, 1)  # an optimizer wants parameters
    net = MultiLabelNet(module, verbose=0, **criterion).initialize()
    value = net.get_loss(logits, labels)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach().numpy(), gradient.numpy()


def in_lightning(case: FrameworkCase) -> tuple[np.ndarray, np.ndarray]:
    """Ask the loss that a module has."""
    from manyhot.lightning import MultiLabelModule

    logits, labels, options = tensors_of(case)
    module = MultiLabelModule(torch.nn.Identity(), manyhot.ZLPRLoss(reduction="none", **options))
    value = module.loss(module(logits), labels)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach().numpy(), gradient.numpy()
