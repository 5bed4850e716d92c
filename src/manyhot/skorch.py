"""A skorch net that predicts label sets: networks of torch in scikit-learn's searches and pipelines."""

# pyright: reportMissingImports=false

from typing import Any

import numpy as np
import torch

try:
    from skorch import NeuralNet
except ModuleNotFoundError as error:
    if error.name != "skorch":
        raise
    raise ImportError('manyhot.skorch needs skorch: pip install "manyhot[skorch]"') from error

from manyhot.decisions import decide
from manyhot.losses.zlpr import ZLPRLoss


class MultiLabelNet(NeuralNet):
    """A network as a multi-label estimator: fits with ZLPR, predicts the labels whose logit is above 0.

    `NeuralNetClassifier` with the same loss predicts one class a row, the largest logit, without a word.

    Args:
        module: of torch, a class or an instance: rows to logits (rows, labels), no sigmoid at the end.
        criterion: of (logits, targets). Its options go through ``criterion__prior=manyhot.label_prior(Y)``.
        train_split: rows held out in training, as `skorch.dataset.ValidSplit(5)`; None for none. A stratified split is
            of classes and raises here.
        min_labels, max_labels: how many labels `predict` gives a row: :func:`manyhot.cardinality_range`.
        kwargs: of `skorch.NeuralNet`: `lr`, `max_epochs`, `optimizer`, `callbacks`.

    Targets are (rows, labels), 0/1 or shares in [0, 1]; -1, -100 and NaN are unknown. A module that is to be pickled is
    no class inside of a function.

    Example:
        >>> import numpy as np, torch
        >>> from manyhot.skorch import MultiLabelNet
        >>> X, Y = np.eye(3, dtype="float32"), np.array([[1, 0], [0, 1], [1, 1]], dtype="float32")
        >>> net = MultiLabelNet(torch.nn.Linear, module__in_features=3, module__out_features=2, lr=2.0, verbose=0)
        >>> net.fit(X, Y).predict(X)
        array([[1, 0],
               [0, 1],
               [1, 1]])
    """

    def __init__(
        self,
        module: Any,
        criterion: Any = ZLPRLoss,
        train_split: Any = None,
        *,
        min_labels: int = 0,
        max_labels: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, criterion, train_split=train_split, **kwargs)
        self.min_labels = min_labels
        self.max_labels = max_labels

    def decision_function(self, X: Any) -> np.ndarray:
        """Return logits, (rows, labels) float32."""
        parts = [part[0] if isinstance(part, tuple) else part for part in self.forward_iter(X)]
        return torch.cat(parts).float().cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return 0/1 integers (rows, labels): :func:`manyhot.decide` of the logits."""
        return decide(self.decision_function(X), min_labels=self.min_labels, max_labels=self.max_labels)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the sigmoid of the logits, (rows, labels): above 1/2 where a label is above 0, and not calibrated.

        :func:`manyhot.fit_calibration` on rows held out makes probabilities of logits.
        """
        return torch.from_numpy(self.decision_function(X)).sigmoid().numpy()
