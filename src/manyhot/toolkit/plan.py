"""What a training will do, before it does it: rows and features, how models are fitted, and what memory that takes.

What would not fit is refused by a sentence before anything of its size is made.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from manyhot.labels import CardinalityRange
from manyhot.toolkit.choose.cross_fit import score_by
from manyhot.toolkit.choose.ranked_rows import score_of_best
from manyhot.toolkit.config import Config, blocks_of, is_network, takes_lists
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.features import DesignMatrix, Features
from manyhot.toolkit.models.kinds import learner_for, listed_learner_for, read_encoder
from manyhot.toolkit.models.label_blocks import BlockLearner
from manyhot.toolkit.models.listed import ListedLearner
from manyhot.toolkit.models.model import free_memory, gigabytes
from manyhot.toolkit.models.pretrained import Encoder
from manyhot.toolkit.models.ranked import TOP
from manyhot.toolkit.objectives import FORMULAS, loss_of
from manyhot.toolkit.read.inputs import Kept, Training, read
from manyhot.toolkit.runs.continued import said_of_rows
from manyhot.toolkit.runs.predict import Run

# Rows whose numbers an encoder is planned by.
SAMPLE = 16
# Bytes a cell, row by label, at the peak of choosing C and tau: targets, those of the folds, held-out logits with prior
# and shifted, label sets, and what is made of all of them to measure.
CELL = 90
# Bytes of a feature: its mean, its scale, and what these are made from.
FEATURE = 100
# Rows x labels from which on targets stay lists.
MOST_CELLS = 10**8
# What only dense logits have.
LACKING = "no labels to check and no LRAP"


def planned(
    config: Config, listener: Listener, before: Run | None = None, *, sample: bool = False
) -> tuple[Training, Features, DesignMatrix, Any, Any]:
    """Read the rows, make their features, and plan how models are fitted on them.

    Args:
        config: what was asked for.
        listener: hears what was found.
        before: the run that training goes on from.
        sample: of an encoder, the numbers of a few rows, which are enough to plan.

    Returns:
        The rows, their features, the matrix of these, targets (rows, labels), and the learner. Targets are an array, or
        CSR where labels are fitted in blocks.

    Raises:
        InputError: bad input, or more memory than is free.
    """
    kept = None if before is None else Kept(str(config.from_run), before.columns, before.label_names)
    training, encoder = read(config, kept), read_encoder(config, listener.say)
    listener.on_columns(training.uses)
    for sentence in training.said:
        listener.say(sentence)
    for sentence in training.warned:
        listener.warn(sentence)
    rows = training.train
    if before is not None:
        for warns, sentence in said_of_rows(before, rows):
            (listener.warn if warns else listener.say)(sentence)
    lists = stay_lists(config, training)
    if not lists and config.propensity != Config.propensity:
        raise InputError(
            "propensity is of PSP@k, which is measured where labels are very many; leave it out, or use --set "
            "weights=sparse with a linear model."
        )
    if lists:
        size = f"{rows.rows:,} rows x {len(rows.label_names):,} labels"
        if is_network(config):
            listener.say(
                f"labels listed: {size} are too many for all logits; the last layer takes them in chunks, and a row "
                f"keeps its {TOP} best labels; there are {LACKING}"
            )
        else:
            listener.say(
                f"weights sparse: {size} are fitted by blocks of labels, small weights are dropped, and a row keeps "
                f"its {TOP} best labels; it has no votes of training rows, no columns of a kernel, {LACKING}"
            )
    else:
        check_cells(training, _advice(config))
    check_features(training)
    if encoder is None:
        options = blocks_of(config)
        options["kernel"] = options["kernel"] and not lists
        features, X = Features.fit_transform(rows, **options)
    elif config.fine_tune:
        features, X = Features.fit_transform(rows, encoder.tokens)
    else:
        if sample:  # a plan needs no more, and numbers of all texts may take hours
            rows = rows.taken(np.arange(min(rows.rows, SAMPLE)))
        elif rows.texts is not None:
            embed(encoder, rows.texts, listener)
        features, X = Features.fit_transform(rows, encoder, words=config.words)
    if lists:
        learner = plan_lists(config, training, features, X, encoder)
        targets: Any = training.train.targets
    else:
        learner = plan(config, training, features, None, encoder)
        check_cells(training, _advice(config), beside=learner.memory.bytes)
        targets = training.train.dense_targets()
        learner = replace(learner, loss=loss_of(config.loss, targets))
    listener.detail(f"model: {config.model} on {features.describe()}; {learner.memory.describe()}")
    return training, features, X, targets, learner


def stay_lists(config: Config, training: Training, free: int | None = None) -> bool:
    """Say whether targets stay lists, so that nothing has rows x labels numbers: as asked, or where they are very many.

    Raises:
        InputError: it is asked for, and label cells are unknown.
    """
    if config.weights == "dense" or not takes_lists(config):
        return False
    unknown = [
        part.source for part in (training.train, training.valid) if part is not None and part.unknown is not None
    ]
    if config.weights == "sparse" and unknown:
        raise InputError(
            f"{unknown[0]}: expected label cells that are all known with weights sparse, got some that nobody knows; "
            "leave weights out"
        )
    count, labels = training.train.targets.shape
    free = free_memory() if free is None else free
    many = count * labels > MOST_CELLS or CELL * count * labels > free
    return not unknown and (config.weights == "sparse" or many)


def check_cells(training: Training, advice: str, *, each: int = CELL, beside: int = 0, free: int | None = None) -> None:
    """Refuse what does not fit in memory as rows x labels numbers, before any such is made.

    Args:
        training: the rows; those of --test are measured after training, with as much of each.
        advice: what else to do.
        each: bytes a cell.
        beside: bytes that are needed with them.
        free: bytes.

    Raises:
        InputError: targets, their folds and held-out logits that take more than is free.
    """
    free = free_memory() if free is None else free
    parts = [part for part in (training.train, training.valid, training.test) if part is not None]
    most, labels = max(part.rows for part in parts), len(training.train.label_names)
    needed = each * most * labels + beside
    if needed <= free:
        return
    fit = max((free - beside) // (each * most), 0)
    keep = f"keep the {fit:,} most frequent labels or fewer rows" if fit > 1 else "take fewer rows"
    raise InputError(
        f"{training.train.source}: {most:,} rows x {labels:,} labels take about {gigabytes(needed)} while C and tau "
        f"are chosen, and {gigabytes(free)} are free; {keep}, or a larger machine. {advice}"
    )


def check_features(training: Training) -> None:
    """Refuse more numbers a row than their means and scales fit in memory, before any such is made.

    Raises:
        InputError: a file that says that it has so many.
    """
    numbers, free = training.train.numbers, free_memory()
    features = 0 if numbers is None else numbers.shape[1]
    if FEATURE * features > free:
        raise InputError(
            f"{training.train.source}: {features:,} features take about {gigabytes(FEATURE * features)} as means and "
            f"scales alone, and {gigabytes(free)} are free; number those that are used from 0 on"
        )


def _advice(config: Config) -> str:
    """Say which options would have labels fitted in blocks."""
    if takes_lists(config) and config.weights == "auto":
        return "Where all label cells are known, labels stay lists, which takes less"
    if config.task == "multilabel" and not is_network(config):
        return "With --loss bce, without weights=dense and --decision precision=..., labels are fitted in blocks"
    if config.task == "multilabel":
        return "With --loss zlpr or bce, without --decision precision=..., labels stay lists, which takes less"
    return "A loss that holds no such numbers is manyhot.LinearZLPRLoss"


def embed(encoder: Encoder, texts: list[str], listener: Listener) -> None:
    """Make the numbers of texts that are not known yet, and say where they are kept."""
    what = f"numbers of {encoder.name}"
    encoder.transform(texts, lambda share: listener.progress(what, share, 0.0))
    if encoder.known is not None:
        listener.say(f"{what}: {encoder.known.describe()}")


def plan(
    config: Config,
    training: Training,
    features: Features,
    targets: np.ndarray | None,
    encoder: Encoder | None = None,
) -> Any:
    """Say how the models of a run are fitted, and what that takes.

    Without targets, which a few losses are made from, it is a plan alone: its loss is another's.

    Raises:
        InputError: a device that is not there, or more memory than is free.
    """
    loss = FORMULAS[config.loss] if targets is None else loss_of(config.loss, targets)
    size = 0 if config.fine_tune else features.size
    score, labels = score_by(training.train.cardinality()), len(training.train.label_names)
    return learner_for(config, training.train.rows, size, labels, loss, score, encoder)


def plan_lists(
    config: Config, training: Training, features: Features, X: DesignMatrix, encoder: Encoder | None = None
) -> BlockLearner | ListedLearner:
    """Say how lists of labels are fitted, and what that takes.

    Raises:
        InputError: more memory than is free.
    """
    rows, labels = training.train.targets.shape
    if is_network(config):
        score = score_of_best(cardinality_kept(training))
        return listed_learner_for(config, rows, 0 if config.fine_tune else features.size, labels, score, encoder)
    cells = X.nnz if sp.issparse(X) else X.size
    positives = int(training.train.targets.nnz)
    return BlockLearner.planned(rows, features.size, labels, cells=cells, positives=positives, max_iter=config.max_iter)


def cardinality_kept(training: Training) -> CardinalityRange:
    """Return how many labels a row may be given, of those that it keeps."""
    low, high = training.train.cardinality()
    return CardinalityRange(min(low, TOP), min(high, TOP))
