"""The kinds of models by the names of --model: how each is fitted, and how it is restored from a run."""

from typing import Any

from manyhot.toolkit.config import Config
from manyhot.toolkit.linear import Linear, LinearLearner
from manyhot.toolkit.mlp import Mlp, MlpLearner
from manyhot.toolkit.model import Arrays, Learner, Loss, Model, Score, device_of


def learner_for(config: Config, rows: int, features: int, labels: int, loss: Loss, score: Score) -> Learner:
    """Plan how a run fits its models.

    Raises:
        InputError: a device that is not there, or more memory than is free.
    """
    if config.model == "mlp":
        device = device_of(config.device)
        return MlpLearner.planned(rows, features, labels, loss=loss, score=score, seed=config.seed, device=device)
    return LinearLearner.planned(rows, features, labels, loss=loss, max_iter=config.max_iter, seed=config.seed)


def described(model: Model) -> dict[str, Any]:
    """Return what a run says of its model beside the arrays; :func:`restored` reads it."""
    return {"model": next(name for name, kind in KINDS.items() if isinstance(model, kind))}


def restored(state: dict[str, Any], arrays: Arrays, features: int, labels: int) -> Model:
    """Restore the model of a run.

    Raises:
        ValueError, KeyError: no kind of this name, or arrays that do not fit.
    """
    return KINDS[state["model"]].restored(arrays, features, labels)


KINDS = {"linear": Linear, "mlp": Mlp}
