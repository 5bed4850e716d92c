"""`train NEW --from RUN`: what a training keeps of a run: columns, labels, loss and penalty, and what does not fit.

The folds are fitted anew, at the one penalty that is kept: weights that have seen a row that is held out would make its
logit too sure, and the calibration with it. The fit on all rows starts from the mean of the folds, as ever.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from manyhot.toolkit.config import MODELS, Config
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.read.cells import counted, listed
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.runs.predict import Run
from manyhot.toolkit.runs.saved_run import load_run
from manyhot.toolkit.runs.trained_rows import row_hashes

# With a smaller share of the run's rows in the file, a reader is told what becomes of the others.
MOST_OF_THEM = 0.9


def continued(config: Config) -> tuple[Config, Run | None]:
    """Load the run that a config goes on from: the config with its penalty, and the run; None where it names none.

    Raises:
        InputError: no run, or one that this training cannot go on from.
    """
    if config.from_run is None:
        return config, None
    run = load_run(config.from_run)
    if run.task not in MODELS or run.task != config.task:
        raise InputError(f"--from: expected a run of task {config.task}, got one of {run.task}; leave --task out.")
    if run.info["C"] is None or config.model.partition(":")[0] == "mlp":
        raise InputError(
            f"--from: expected a linear run, whose penalty is kept, got {config.from_run}, which has none: training "
            "anew takes no longer, manyhot train DATA"
        )
    if (loss := run.info["loss"]) != config.loss:
        raise InputError(f"--from: the loss of the run is kept, {loss}; got {config.loss}; leave --loss out.")
    return replace(config, C=run.info["C"] if config.C == "auto" else config.C), run


def said_of_rows(run: Run, train: Examples) -> Iterator[tuple[bool, str]]:
    """Say which labels and rows are new, and which are gone; each with whether it is a warning."""
    known, counts = set(run.label_names), np.asarray(train.targets.sum(axis=0)).ravel()
    by_name = dict(zip(train.label_names, counts.astype(int).tolist(), strict=True))
    new = [f"{name} ({counted(rows, 'row')})" for name, rows in by_name.items() if name not in known]
    if new:
        yield False, f"{counted(len(new), 'new label')}: {listed(new)}"
    if gone := [name for name in run.label_names if not by_name.get(name)]:
        yield True, f"{counted(len(gone), 'label')} of the run that no row has any more, and kept: {listed(gone)}"
    if run.trained_rows is None:
        return
    here = np.unique(row_hashes(train))
    old = int(np.isin(run.trained_rows, here).sum())
    yield False, f"{len(here) - int(np.isin(here, run.trained_rows).sum()):,} rows are new to the run"
    if old < MOST_OF_THEM * len(run.trained_rows):
        said = f"{old:,} of the {len(run.trained_rows):,} rows that the run was trained on are in {train.source}"
        yield True, f"{said}: only rows that are there are learned from, so give old rows and new in one file"
