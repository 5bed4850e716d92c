"""Names in German sentences, some inside others, beside binary cross-entropy: a sample of GermEval 2014, no network."""

import time
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from manyhot.toolkit.config import Config
from manyhot.toolkit.disk.checkpoint import NO_CHECKPOINT
from manyhot.toolkit.disk.run_folder import SPAN_RUN, check_free, free_path, provenance, write_folder
from manyhot.toolkit.models.model import device_of
from manyhot.toolkit.report.render import render_run
from manyhot.toolkit.spans.fit import Fitted, Held, SpanLearner, fit, plan
from manyhot.toolkit.spans.inputs import SpanTraining, read_spans
from manyhot.toolkit.spans.predict import MeasuredSpans
from manyhot.toolkit.spans.saved_run import run_files
from manyhot.toolkit.spans.sentences import Sentences, Triple
from manyhot.toolkit.spans.train import findings_of, held_metrics, run_of
from manyhot.toolkit.train import Listener

SAMPLE = "germeval2014.jsonl.gz"
CREDIT = (
    "sentences of GermEval 2014 (Benikova, Biemann, Reznicek), CC BY 4.0, with names of 12 types, some inside others"
)
# Fewer than `manyhot train` takes at most: the rate falls to 0 within them.
EPOCHS = 8
# Same rows, network, epochs. Of BCE the biases start at 0, as people write it, or at the prior; without an offset in
# the scores, or with one, found by the same rows as that of ZLPR.
RIVALS = {
    "ZLPR": ("zlpr", True),
    "BCE": ("bce", False),
    "BCE, prior": ("bce+bias", False),
    "BCE, prior, threshold": ("bce+bias", True),
}


@dataclass(frozen=True)
class Shown:
    """What the demo prints: sentences with their spans, the table, the run's place."""

    examples: list[str]
    metrics: dict[str, dict[str, Any]]
    path: Path


def run_span_demo(out: str | None, listener: Listener) -> Shown:
    """Train on the sample with each loss, write the run of the default.

    Raises:
        InputError: the place is taken.
        OSError: the disk is full or refuses.
    """
    started = time.monotonic()
    path = Path(out) if out else free_path("demo")
    check_free(path)
    with as_file(files("manyhot.toolkit.spans") / "sample" / SAMPLE) as sample:
        config = Config(data=str(sample), task="spans", model="cnn", split_column="part", epochs=EPOCHS)
        training = read_spans(config)
    config = replace(config, data=SAMPLE)
    listener.say(CREDIT)
    for sentence in training.said:
        listener.say(sentence)
    test = training.test
    assert test is not None
    metrics: dict[str, dict[str, Any]] = {}
    measured: dict[str, MeasuredSpans] = {}
    fitted = None
    for name, (loss, with_offset) in RIVALS.items():
        of_loss = replace(config, loss=loss)
        if fitted is None or fitted[0] != loss:
            fitted = loss, _fitted(of_loss, training, listener)
        learner, found = fitted[1]
        run = run_of(of_loss, training, found, learner)
        # The offset is in the scores of the network; without it they are as they were learned.
        by = 0.0 if with_offset else -found.offset
        run.network.shift(by)
        measured[name] = run.evaluate_sentences(test)
        run.network.shift(-by)
        metrics[name] = measured[name].metrics
        listener.say(f"{name}: micro-F1 {100 * (metrics[name]['micro_f1'] or 0):.1f}")
        if loss == config.loss:
            parts = held_metrics(training, found) | {"test": metrics[name]}
            origin = provenance([], sums={}, seed=config.seed, seconds=time.monotonic() - started)
            findings = findings_of(of_loss, training, found, run, measured[name], parts, origin)
            contents = run_files(run, of_loss, parts, found, origin, findings, render_run(findings))
            write_folder(path, contents, SPAN_RUN)
    shown = {name: measured[name] for name in ("ZLPR", "BCE, prior, threshold")}
    return Shown(draw(test, training.types, shown), metrics, path)


def _fitted(config: Config, training: SpanTraining, listener: Listener) -> tuple[SpanLearner, Fitted]:
    def on_epoch(what: str, epoch: int, of: int, loss: float, held: Held | None) -> None:
        listener.progress(f"{config.loss}, {what}, epoch {epoch}", min(epoch / of, 1), loss)

    learner = plan(config, training, None, device_of(config.device))
    return learner, fit(learner, training, NO_CHECKPOINT, on_epoch)


def draw(test: Sentences, types: list[str], runs: dict[str, MeasuredSpans], number: int = 3) -> list[str]:
    """Write test sentences with a span inside of another, as text, with the truth and what each run finds."""
    rows = [i for i, spans in enumerate(test.spans) if len(spans) > 2 and len(test.tokens[i]) < 25][:number]
    lines = []
    for row in rows:
        said = {"true": test.spans[row]}
        for name, measured in runs.items():
            said[name] = sorted((a, b, types[kind]) for a, b, kind, _ in measured.predicted[row])
        width = max(map(len, said))
        lines += [f"{name:>{width}}  {bracketed(test.tokens[row], spans)}" for name, spans in said.items()]
        lines.append("")
    return lines


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
