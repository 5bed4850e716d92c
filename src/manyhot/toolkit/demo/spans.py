"""Names in German sentences, some inside others, beside binary cross-entropy: a sample of GermEval 2014, no network."""

import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

from manyhot.toolkit.config import Config
from manyhot.toolkit.demo.run import OURS, SHOWN, Example, Shown, meaning, part
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.disk.run_folder import SPAN_RUN, check_free, free_path, provenance, write_folder
from manyhot.toolkit.errors import typed
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.models.model import device_of
from manyhot.toolkit.report.render import render_run
from manyhot.toolkit.spans.fit import Fitted, Held, SpanLearner, fit, plan
from manyhot.toolkit.spans.inputs import SpanTraining, read_spans
from manyhot.toolkit.spans.predict import MeasuredSpans
from manyhot.toolkit.spans.saved_run import run_files
from manyhot.toolkit.spans.sentences import Sentences, Triple
from manyhot.toolkit.spans.standings import Predicted, Truth, stand
from manyhot.toolkit.spans.train import findings_of, held_metrics, run_of

SAMPLE = "germeval2014"
CREDIT = "sentences of GermEval 2014 (Benikova, Biemann, Reznicek), CC BY 4.0: names of 12 types, some inside others"
# Fewer than `manyhot train` takes at most: the rate falls to 0 within them.
EPOCHS = 8
# The same rows, network and epochs. Of BCE the biases start at 0, as people write it, or at the prior; its scores are
# as learned, or have an offset, found by the same rows as ours.
METHODS = {
    OURS: ("zlpr", True),
    "BCE": ("bce", False),
    "BCE, prior": ("bce+bias", False),
    "BCE, prior, threshold": ("bce+bias", True),
}
METRICS = ("micro_f1", "micro_precision", "micro_recall", "macro_f1", "nested_recall", "spans_per_row_predicted")
# Those that have an interval, as a sentence names them.
JUDGED = {"micro_f1": "micro-F1", "macro_f1": "macro-F1"}
# Whose spans are drawn below the true ones.
DRAWN = (OURS, "BCE", "BCE, prior, threshold")
# Tokens of a sentence that is drawn, at most.
SHORT = 20


def run_span_demo(out: str | None, listener: Listener) -> Shown:
    """Train on the sample with each loss, write the run of the default.

    Raises:
        InputError: the place is taken.
        OSError: the disk is full or refuses.
    """
    started = time.monotonic()
    path = Path(out) if out else free_path("demo")
    check_free(path)
    with as_file(files("manyhot.toolkit.demo") / SAMPLE / "sentences.jsonl.gz") as sample:
        config = Config(data=str(sample), task="spans", loss="zlpr", model="cnn", split_column="part", epochs=EPOCHS)
        training = read_spans(config)
    config = replace(config, data=SAMPLE)
    test = training.test
    assert test is not None
    listener.say(CREDIT)
    listener.say(
        f"learning from {training.train.rows:,} sentences with {int(training.counts.sum()):,} names; measuring on "
        f"{test.rows:,} others"
    )
    measured: dict[str, MeasuredSpans] = {}
    losses = list(dict.fromkeys(loss for loss, _ in METHODS.values()))
    fitted: dict[str, tuple[SpanLearner, Fitted]] = {}
    for name, (loss, with_offset) in METHODS.items():
        of_loss = replace(config, loss=loss)
        if loss not in fitted:
            heard = Listener(progress=part(listener, len(fitted), len(losses)))
            fitted[loss] = _fitted(of_loss, training, heard)
        learner, found = fitted[loss]
        run = run_of(of_loss, training, found, learner)
        # The offset is in the scores of the network; without it they are as they were learned.
        by = 0.0 if with_offset else -found.offset
        run.network.shift(by)
        measured[name] = run.evaluate_sentences(test)
        run.network.shift(-by)
        if name == OURS:
            parts = held_metrics(training, found) | {"test": measured[name].metrics}
            origin = provenance([], sums={}, seed=config.seed, seconds=time.monotonic() - started)
            findings = findings_of(of_loss, training, found, run, measured[name], parts, origin)
            contents = run_files(run, of_loss, parts, found, origin, findings, render_run(findings))
            write_folder(path, contents, SPAN_RUN)
    predicted = {name: [Predicted(one.predicted, [[] for _ in range(test.rows)])] for name, one in measured.items()}
    standings = stand(predicted, Truth.of(test, training), {OURS}, OURS, seed=config.seed)
    return Shown(
        {name: rows["metrics"] for name, rows in standings.methods.items()},
        meaning(standings, tuple(METHODS)[1:], JUDGED),
        drawn(test, training.types, {name: measured[name] for name in DRAWN}),
        path,
        f'manyhot predict {typed(path)} "Angela Merkel besuchte die Universität Rostock."',
    )


def _fitted(config: Config, training: SpanTraining, listener: Listener) -> tuple[SpanLearner, Fitted]:
    def on_epoch(what: str, epoch: int, of: int, loss: float, held: Held | None) -> None:
        listener.progress(f"{config.loss}, {what}, epoch {epoch}", min(epoch / of, 1), loss)

    learner = plan(config, training, None, device_of(config.device))
    return learner, fit(learner, training, NO_CHECKPOINT, on_epoch)


def drawn(test: Sentences, types: list[str], runs: Mapping[str, MeasuredSpans]) -> list[Example]:
    """Write the first short test sentences with two names or three, and what each run finds below the true ones.

    They are chosen by their truth alone, so that what is predicted has no part in it.
    """
    rows = [i for i, spans in enumerate(test.spans) if 2 <= len(spans) <= 3 and len(test.tokens[i]) < SHORT][:SHOWN]
    examples = []
    for row in rows:
        said = {"true": test.spans[row]}
        for name, measured in runs.items():
            said[name] = sorted((a, b, types[kind]) for a, b, kind, _ in measured.predicted[row])
        width = max(map(len, said))
        lines = [f"{name:>{width}}  {bracketed(test.tokens[row], spans)}" for name, spans in said.items()]
        examples.append(Example(lines, [], [], []))
    return examples


def bracketed(tokens: list[str], spans: list[Triple]) -> str:
    """Write tokens with a bracket around each span, its type behind.

    Example:
        >>> bracketed(["In", "New", "York"], [(1, 3, "LOC")])
        'In [New York]LOC'
    """
    words = list(tokens)
    for start, end, kind in sorted(spans, key=lambda span: (span[1] - span[0], span[2])):
        words[start] = "[" + words[start]
        words[end - 1] += f"]{kind}"
    return " ".join(words)
