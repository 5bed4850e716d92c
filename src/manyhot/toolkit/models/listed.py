"""Networks of very many labels: targets are lists, and the last layer never makes all logits of a mini-batch.

The loss is :func:`manyhot.linear_zlpr_loss`, or that of binary cross-entropy. The rows held out to say when to stop,
and those that the prior is chosen by, keep their best labels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manyhot.toolkit.disk.fits import UNSAVED, Arrays, Bookmark
from manyhot.toolkit.models.early_stopping import NetLearner
from manyhot.toolkit.models.features import DesignMatrix
from manyhot.toolkit.models.label_blocks import Blocked, HeldRows
from manyhot.toolkit.models.model import Memory, Model, Progress, unheard
from manyhot.toolkit.models.processes import Group
from manyhot.toolkit.models.ranked import TOP, Ranked

# What a run says of its targets.
LISTED = "listed"


@dataclass(frozen=True)
class ListedLearner:
    """How networks are fitted from lists of labels; :class:`BlockLearner` is the same for linear models.

    Attributes:
        net: the network, its schedule and its loss, one of :data:`manyhot.toolkit.objectives.LISTED_LOSSES`.
        restore: (arrays, features, labels) to the model that they are of.
    """

    net: NetLearner
    restore: Callable[[Arrays, int, int], Model]
    penalised = False

    @property
    def memory(self) -> Memory:
        """What fitting takes."""
        return self.net.memory

    @property
    def info(self) -> dict[str, str]:
        """The device, and that targets are lists."""
        return self.net.info | {"targets": LISTED}

    def together(self, group: Group) -> "ListedLearner":
        """Return the same for processes that fit together."""
        return replace(self, net=self.net.together(group))

    def fit(
        self,
        X: DesignMatrix,
        targets: Any,
        *,
        C: float | None = None,
        drop: float = 0.0,
        held: HeldRows | None = None,
        drops: tuple[float, ...] = (),
        groups: np.ndarray | None = None,
        bookmark: Bookmark = UNSAVED,
        done: Progress = unheard,
    ) -> Blocked:
        """Fit on rows X and targets, scipy CSR of bool, as :meth:`BlockLearner.fit` does; no weight is dropped.

        Args:
            X, targets: rows.
            C, drop: of no use to a network.
            held: rows whose best logits are asked for, once for all weights and once for each of `drops`.
            drops: how often.
            groups: (rows,), the same for rows that are held out together to say when to stop.
            bookmark: where the state is left after each epoch.
            done: called after each epoch, with the mean loss and the score of the rows held out.
        """
        net = self.net.stopped_early(
            X,
            targets,
            judged=lambda net, X: Ranked.of_blocks(net.logits, X, TOP),
            groups=groups,
            bookmark=bookmark,
            progress=done,
        )
        best = [] if held is None else [Ranked.of_blocks(net.logits, held.X, TOP, held.prior, held.most)]
        return Blocked(net, 0, 1.0, best * (1 + len(drops)))
