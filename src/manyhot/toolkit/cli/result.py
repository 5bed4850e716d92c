"""What `manyhot train` ends with: the numbers that are asked for first, in plain words, and what to do next."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from manyhot.toolkit.cli.terminal import HASHED, neighbours_say, rows_inside, run_holds, say
from manyhot.toolkit.errors import on_one_line, typed
from manyhot.toolkit.report.metric_names import TITLES, percent, titles_of, written, written_penalty

if TYPE_CHECKING:
    from manyhot.toolkit.spans.train import TrainedSpans
    from manyhot.toolkit.train import Trained

# What the numbers are of.
ROWS = {
    "test": "On {rows} test rows",
    "valid": "On the {rows} rows of --valid, which it did not learn from, though penalty and prior were chosen by them",
    "cross_fitted": "On the {rows} training rows, each predicted by a model that was fitted without it",
    "held_out": "On {rows} training rows that were held out, by a model that was fitted without them",
}
# The first that are known, four at most.
WORDS = {
    "micro_precision": "of the predicted labels are right",
    "micro_recall": "of the labels that are true are predicted",
    "accuracy": "of the rows get their class",
    "micro_f1": "of all labels, predicted or true, agree; 100 is all right",
    "macro_f1": "the same, each label alone, then the mean: rare ones count",
    "rare_f1": "the mean over the {rare} with 1 to 8 training rows",
    "labels_per_row_predicted": "labels a row, where there are {labels_per_row_true:.2f}",
    "exact_match": "of the rows have all of their labels and no other",
    "accuracy_at_3": "of the rows have their class among the best three",
}
SPAN_WORDS = {
    "triple_micro_f1": "of all triples, predicted or true, agree",
    "micro_f1": "of all spans, predicted or true, agree in border and type",
    "micro_precision": "of the predicted spans are right",
    "micro_recall": "of the true spans are found",
    "macro_f1": "the mean over types: a rare one counts as a frequent one",
}
SHOWN = 4
# Labels without a promise.
NAMED = 10
TABLES = ("multilabel", "multiclass")


def print_result(trained: "Trained | TrainedSpans") -> None:
    """Print four numbers of the rows that matter most, what held-out rows said, where things are, what to do next."""
    part = "test" if "test" in trained.metrics else next(iter(trained.metrics), None)
    if part is not None:
        console = Console(soft_wrap=True, highlight=False)
        metrics = trained.metrics[part]
        console.print(f"{ROWS[part].format(rows=format(metrics['rows'], ','))}:", markup=False)
        console.print(numbers_in_words(metrics, trained.run.train_counts, trained.run.task))
    if trained.run.task in TABLES:
        say(held_out_said(trained.run, trained.metrics))
        if "neighbours" in trained.run.info:
            say(neighbours_say(trained.run.info["neighbours"]))
        if "promise" in trained.run.info:
            for sentence in promise_said(trained.run):
                say(sentence)
    place = on_one_line(str(trained.path))
    say(f"saved {place}, again: manyhot train --config {typed(f'{trained.path}/config.toml')}")
    say(f"report {place}/report.html, {rows_inside(trained.shown_rows)}")
    if trained.run.task in TABLES:
        held: Any = trained.run
        say(run_holds(held))
    elif trained.run.trained_rows is not None:
        say(HASHED)
    say(f"next: {next_line(trained)}")


def numbers_in_words(metrics: dict[str, Any], train_counts: Any, task: str) -> Table:
    """Lay out a number a line with what it says."""
    from manyhot.labels import label_groups

    number, multiclass = int(label_groups(train_counts)["rare"].sum()), task == "multiclass"
    noun = ("class" if multiclass else "label") if number == 1 else ("classes" if multiclass else "labels")
    rare = f"{number:,} {noun}"
    spans = "spans" in metrics
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    known = [(key, words) for key, words in (SPAN_WORDS if spans else WORDS).items() if metrics.get(key) is not None]
    for key, words in known[:SHOWN]:
        value = written(key, metrics[key])
        sign = "" if key.endswith("_predicted") else " %"
        title = "" if key.endswith("_predicted") else titles_of([metrics])[key].partition(" (")[0]
        table.add_row(f"{value}{sign}", title, Text(words.format(**metrics, rare=rare)))
    return table


def held_out_said(run: Any, metrics: dict[str, dict[str, Any]]) -> str:
    """Say what was chosen by rows that a model had not seen, in a sentence."""
    info = run.info
    held = next((metrics[part] for part in ("cross_fitted", "held_out", "valid") if part in metrics), None)
    words = []
    if info["C"] is not None:
        words.append(f"penalty C {written_penalty(info['C'])}")
    if run.task == "multiclass":
        words.append("rare classes lifted by their prior" if info["tau"] else "no lift for rare classes")
    else:
        words.append("rare labels lifted by their prior" if info["tau"] else "no lift for rare labels")
        low, high = run.cardinality
        words.append(f"{low} to {high} labels a row")
    said = f"chosen by held-out rows: {', '.join(words)}"
    if held is not None and "test" in metrics:
        key = "accuracy" if run.task == "multiclass" else "micro_f1"
        said += f"; there {TITLES[key]} is {percent(held[key])} %, macro-F1 {percent(held['macro_f1'])} %"
    return said


def promise_said(run: Any) -> list[str]:
    """Say for how many labels the precision is promised, and name the others."""
    promise = run.info["promise"]
    from manyhot.toolkit.read.cells import listed  # polars stands behind it

    without = len(promise["too_rare"]) + len(promise["never"])
    number = len(run.label_names)
    said = [
        f"a precision of {100 * promise['precision']:g} % is promised for {number - without:,} of {number:,} labels"
    ]
    for key, why in (
        ("too_rare", "too rare to promise anything, and never predicted"),
        ("never", "never sure enough, and never predicted"),
    ):
        if names := promise[key]:
            said.append(f"{why}: {listed(names, NAMED)}")
    return said


def next_line(trained: "Trained | TrainedSpans") -> str:
    """Name a command that a reader of the numbers may want."""
    from manyhot.toolkit.runs.predict import Run

    run = trained.run
    texts_alone = isinstance(run, Run) and run.features.reads_text and not run.features.reads_numbers
    given = '"a new text"' if run.task == "spans" or texts_alone else "FILE -o out.jsonl"
    return f"manyhot predict {typed(trained.path)} {given}"
