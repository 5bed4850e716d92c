"""The kinds of models by the names of --model: how each is fitted, and how it is restored from a run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.fits import Arrays
from manyhot.toolkit.models.early_stopping import NetLearner
from manyhot.toolkit.models.encoder import FineTuned, plan_encoder
from manyhot.toolkit.models.hub import encoder_folder
from manyhot.toolkit.models.label_blocks import SparseLinear
from manyhot.toolkit.models.linear import Linear, LinearLearner
from manyhot.toolkit.models.listed import ListedLearner
from manyhot.toolkit.models.mlp import Mlp, plan_mlp
from manyhot.toolkit.models.model import Learner, Model, Score, device_of
from manyhot.toolkit.models.pooling import Pooling
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.objectives import COUPLED, LISTED_LOSSES, STARTS, Loss, route_of


def learner_for(
    config: Config, rows: int, features: int, labels: int, loss: Loss, score: Score, encoder: Encoder | None = None
) -> Learner:
    """Plan how a run fits its models; on the numbers of a frozen encoder, that is the linear one.

    Raises:
        InputError: a device that is not there, or more memory than is free.
    """
    options: Any = {"loss": loss, "seed": config.seed}
    if config.model == "linear" or (config.model != "mlp" and not config.fine_tune):
        options |= {"route": route_of(config.loss), "stand_in": config.loss == "zlpr"}
        return LinearLearner.planned(rows, features, labels, max_iter=config.max_iter, **options)
    options |= {"score": score, "device": device_of(config.device)}
    if encoder is not None:
        options |= {"start": STARTS.get(config.loss, 0.0), "coupled": config.loss in COUPLED}
        return _scheduled(plan_encoder(rows, labels, encoder=encoder, **options), config)
    return _scheduled(plan_mlp(rows, features, labels, **options), config)


def listed_learner_for(
    config: Config, rows: int, features: int, labels: int, score: Score, encoder: Encoder | None = None
) -> ListedLearner:
    """Plan how a run fits a network from lists of labels.

    Raises:
        InputError: a device that is not there, or more memory than is free.
    """
    device = device_of(config.device)
    options: Any = {"loss": LISTED_LOSSES[config.loss], "score": score, "seed": config.seed, "device": device}
    if encoder is None:
        learner = plan_mlp(rows, features, labels, listed=True, **options)
        return ListedLearner(_scheduled(learner, config), Mlp.restored)
    options["start"] = STARTS[config.loss]
    config_of, pooling = encoder.config, Pooling(encoder.pooling.modes)
    return ListedLearner(
        _scheduled(plan_encoder(rows, labels, encoder=encoder, listed=True, **options), config),
        lambda arrays, features, labels: FineTuned.restored(config_of, pooling, arrays, labels, device),
    )


def _scheduled(learner: NetLearner, config: Config) -> NetLearner:
    return replace(learner, schedule=learner.schedule.asked(config))


def read_encoder(config: Config, say: Callable[[str], None] = lambda text: None) -> Encoder | None:
    """Read the checkpoint of --model encoder:NAME_OR_DIR; None of other models.

    Raises:
        InputError: no such checkpoint, or no transformers.
    """
    kind, _, name = config.model.partition(":")
    if kind != "encoder":
        return None
    return Encoder.read(str(encoder_folder(name, say)), device_of(config.device), config.long, name=name)


def described(model: Model) -> dict[str, Any]:
    """Return what a run says of its model beside the arrays; :func:`restored` reads it."""
    if isinstance(model, FineTuned):
        return {"model": "encoder", "encoder": model.config, "pooling": model.pooling.modes}
    if isinstance(model, SparseLinear):
        return {"model": "sparse"}
    return {"model": "mlp" if isinstance(model, Mlp) else "linear"}


def restored(state: dict[str, Any], arrays: Arrays, features: int, labels: int) -> Model:
    """Restore the model of a run, an encoder on a card where there is one.

    Raises:
        ValueError, KeyError: no kind of this name, or arrays that do not fit.
    """
    if state["model"] == "encoder":
        pooling = Pooling(tuple(state["pooling"]))
        return FineTuned.restored(state["encoder"], pooling, arrays, labels, device_of("auto"))
    return {"linear": Linear, "sparse": SparseLinear, "mlp": Mlp}[state["model"]].restored(arrays, features, labels)
