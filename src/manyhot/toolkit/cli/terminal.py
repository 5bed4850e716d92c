"""What the command prints: sentences and progress on stderr, tables or one JSON object on stdout."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from manyhot.toolkit.errors import on_one_line, visible
from manyhot.toolkit.report.metric_names import (
    percent,
    signed_interval,
    titles_of,
    written,
    written_penalty,
)

if TYPE_CHECKING:
    from manyhot.toolkit.listener import Listener
    from manyhot.toolkit.read.uses import Use
    from manyhot.toolkit.runs.predict import Run
    from manyhot.toolkit.runs.predictions import Progress
    from manyhot.toolkit.spans.train import TrainedSpans
    from manyhot.toolkit.train import Trained

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print a sentence on stderr as it is: a path or a label may look like markup."""
    stderr.print(visible(message), markup=False)


def warn(message: str) -> None:
    """Say what a reader should know, without stopping."""
    say(f"warning: {message}")


def print_json(value: dict[str, Any]) -> None:
    """Print the one object that `--json` promises."""
    plain = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(value, ensure_ascii=plain, allow_nan=False) + "\n")
    sys.stdout.flush()  # a full disk is said, and not met at the end


@contextmanager
def listening(*, verbose: bool = False) -> "Iterator[Listener]":
    """Print what training says on stderr: sentences, and on a terminal what is being fitted; verbose, a line a step."""
    from manyhot.toolkit.listener import Listener

    header = False

    def on_step(step: Any) -> None:
        nonlocal header
        m = step.metrics
        if "accuracy" in m:
            if not header:
                say(f"{'C':>8} {'tau':>5} {'loss':>8} {'accuracy':>9} {'macro-F1':>9} {'rare-F1':>8}")
                header = True
            say(
                f"{written_penalty(step.C):>8} {step.tau:>5.2f} {step.loss:>8.4f} {percent(m['accuracy']):>9} "
                f"{percent(m['macro_f1']):>9} {percent(m['rare_f1']):>8}{at_limit(step)}"
            )
            return
        if not header:
            true = f"labels a row (true {m['labels_per_row_true']:.2f})"
            say(f"{'C':>8} {'tau':>5} {'offset':>7} {'loss':>8} {'micro-F1':>9} {'macro-F1':>9} {'rare-F1':>8}  {true}")
            header = True
        say(
            f"{written_penalty(step.C):>8} {step.tau:>5.2f} {step.offset:>+7.2f} {step.loss:>8.4f} "
            f"{percent(m['micro_f1']):>9} {percent(m['macro_f1']):>9} {percent(m['rare_f1']):>8}  "
            f"{m['labels_per_row_predicted']:.2f}{at_limit(step)}"
        )

    with progress_bar() as progress:
        if verbose:
            yield Listener(say=say, warn=warn, detail=say, on_step=on_step, progress=progress)
        else:
            yield Listener(say=say, warn=warn, progress=progress)


def at_limit(step: Any) -> str:
    """Say how many folds of a step would have gained more."""
    return f"  ({step.at_limit} stopped at the limit)" if step.at_limit else ""


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float, float], None]]:
    """Show what is being fitted, the time it took and the time left: a bar on a terminal, elsewhere a line a minute."""
    if not stderr.is_terminal:
        yield PlainProgress()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    text = TextColumn("{task.description}", markup=False)
    left = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(text, BarColumn(None), *left, console=stderr, transient=True, expand=True) as bar:
        task = bar.add_task("reading", total=None)

        def update(what: str, share: float, value: float) -> None:
            bar.update(task, description=f"{what}: loss {value:.4f}" if value else what, completed=share, total=1.0)

        yield update


class PlainProgress:
    """Progress as lines for a log: after the first minute of a training, one a minute."""

    LINE_SECONDS = 60.0

    def __init__(self) -> None:
        self.began = self.said = time.monotonic()
        self.first: float | None = None  # more than 0 where a training goes on from a checkpoint

    def __call__(self, what: str, share: float, value: float) -> None:
        """Say how far the training is, if a minute is over."""
        now = time.monotonic()
        if self.first is None:
            self.began, self.first = now, share
        elif now - self.said >= self.LINE_SECONDS and share > self.first:
            self.said = now
            left = (now - self.began) * (1 - share) / (share - self.first)
            loss = f"loss {value:.4f}, " if value else ""
            say(f"{what}: {loss}{share:.0%} done, about {max(left / 60, 1):.0f} min left")


@contextmanager
def predicting() -> "Iterator[Progress]":
    """Show on a terminal what is done of a file: rows, rows a second, the share of its bytes, the time left."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("predicting", total=1.0)
        begun, surveyed = time.monotonic(), False

        def progress(rows: int | None, share: float) -> None:
            nonlocal begun, surveyed
            if rows is None:
                begun, surveyed = time.monotonic(), True
                bar.update(task, completed=share, description="checking")
                return
            if surveyed:
                bar.reset(task)
                surveyed = False
            speed = rows / max(time.monotonic() - begun, 1e-9)
            bar.update(task, completed=share, description=f"{rows:,} rows, {speed:,.0f} a second")

        yield progress


def metrics_table(columns: dict[str, dict[str, Any]]) -> Table:
    """Lay out metrics, a column each; fractions as per cent."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(Text(on_one_line(name)), justify="right", no_wrap=True)
    # Metrics of spans have other names for the same things.
    for key, title in titles_of(columns.values()).items():
        if not all(key in metrics for metrics in columns.values()):
            continue
        cells = []
        for metrics in columns.values():
            cells.append(written(key, metrics[key]))
        table.add_row(title, *cells)
    return table


def print_columns(uses: "list[Use]") -> None:
    """Print what each column is used as, or why it is not, a row a column."""
    table = Table(box=None, pad_edge=False)
    for title in ("column", "used as", ""):
        table.add_column(title, overflow="fold")
    for use in uses:
        table.add_row(*(Text(on_one_line(cell)) for cell in (use.column, use.role, use.why)))
    Console(soft_wrap=True).print(table)


def rows_inside(rows: int) -> str:
    """Say whether a report can be passed on as freely as its numbers."""
    return (
        f"with excerpts of {rows} row{'s' if rows > 1 else ''} of the data" if rows else "without any row of the data"
    )


def neighbours_say(heard: dict[str, float] | None) -> str:
    """Say what the training rows most like a row add."""
    if heard is None:
        return "training rows that are like a row made no difference on held-out rows, and have no vote"
    return (
        f"training rows that are like a row have a vote: {heard['share']:.2f} of all weight; on held-out rows the mean "
        f"of micro- and macro-F1 goes from {percent(heard['score_without'])} to {percent(heard['score'])}"
    )


def run_holds(run: "Run") -> str:
    """Say whether the model of a run can be passed on without passing on rows."""
    said = "its model holds no row of the training table"
    if run.rows_held:
        said = f"its model holds the features of {run.rows_held:,} training rows; --neighbours off leaves them out"
    return said if run.trained_rows is None else f"{said}; {HASHED}"


# A run on spans says this alone.
HASHED = "a hash of each row stays in the run, so that evaluate knows it again; --no-rows leaves these out"


def print_details(trained: "Trained | TrainedSpans") -> None:
    """Print what was chosen and the table of what was measured."""
    from manyhot.toolkit.runs.predict import Run

    titles = {"cross_fitted": "training, cross-fitted", "held_out": "training, held out", "valid": "valid"}
    titles["test"] = "test"
    run, info = trained.run, trained.run.info
    if not isinstance(run, Run):
        rule = "spans may overlap" if run.nested else "spans do not overlap"
        of_triples = f", of triples {info['triple_offset']:+.2f}" if "triple_offset" in info else ""
        say(f"chosen: {info['epochs']} epochs, offset {info['offset']:+.2f}{of_triples}, {rule}")
    else:
        low, high = run.cardinality
        decision = f"offset {info['offset']:+.2f}, {low} to {high} labels a row"
        if run.task == "multiclass":
            decision = "the class with the largest logit"
        say(f"chosen: C {written_penalty(info['C'])}, tau {info['tau']:.2f}, {decision}")
        if "neighbours" in info:
            say(neighbours_say(info["neighbours"]))
        if info.get("at_limit"):
            say(
                f"{info['at_limit']} of {info['fits']} fits stopped at their limit of iterations, with more to gain; "
                "--set max_iter=N gives them N"
            )
    if trained.metrics:
        columns = {titles[part]: metrics for part, metrics in trained.metrics.items()}
        Console(soft_wrap=True).print(metrics_table(columns))


ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def mention_encoder(run: "Run") -> None:
    """Say after a training on words what a pretrained encoder may add: once for a user, and where one can be had."""
    from manyhot.toolkit.disk.text_numbers import cache_folder

    folder, reads_words = cache_folder(), bool(run.features.blocks) and run.features.reader is None
    if (
        folder is None
        or not reads_words
        or any(find_spec(name) is None for name in ("transformers", "huggingface_hub"))
    ):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "encoder-mentioned").touch(exist_ok=False)
    except OSError:  # it was said, or there is no way to know
        return
    say(f"on English texts a pretrained encoder often adds 5 to 10 points: --model encoder:{ENCODER}, 90 MB")


# Metrics of a comparison that are shown for each method, with their intervals.
COMPARED = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "rare_f1": "rare-F1"}


def print_comparison(result: dict[str, Any]) -> None:
    """Print which method to use, a row a method, best macro-F1 first, and where the default stands in each metric."""
    from manyhot.toolkit.report.answer import answer, verdicts

    titles = titles_of(method["metrics"] for method in result["methods"] if method["error"] is None)
    console = Console(soft_wrap=True, highlight=False)
    if (found := answer(result)) is not None:
        console.print(str(found), markup=False)
    for verdict in verdicts(result):
        if verdict["interval"]:
            console.print(verdict_said(verdict, titles), markup=False)
    console.print()
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    linked = result.get("task") == "relations"
    things = "triples" if linked else "spans" if result.get("task") == "spans" else "labels"
    a_row = f"triple_{things}" if linked else things
    shown = {key: titles[key] for key in result["best"]} if linked else COMPARED
    shown = {key: title for key, title in shown.items() if key in result["best"]}
    first = next(iter(shown)) if linked else "macro_f1"
    for title in (*shown.values(), things, "time", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    fine = [row for row in result["methods"] if row["error"] is None]
    for row in sorted(fine, key=lambda row: -row["metrics"][first]):
        table.add_row(
            Text(visible(row["name"])),
            *(f"{percent(row['metrics'][key])} {plus_minus(row['intervals'][key])}" for key in shown),
            f"{row['metrics'][f'{a_row}_per_row_predicted']:.2f}",
            f"{row['seconds']['search'] + row['seconds']['fit']:,.0f} s",
            f"{row['peak_mb'] / 1000:.1f} GB",
        )
    Console(soft_wrap=True).print(table)
    rows, true = result["design"]["rows"], sum(result["test_counts"])
    say(f"on {rows:,} rows with {true / rows:.2f} {things} each; ± is half of a {result['level']:.0%} interval")
    if any(row["seconds"].get("shared") for row in fine):
        say("time is what a method takes alone; parts of fits that losses share were made once and count in each")
    if stopped := sum(row.get("at_limit", 0) for row in fine):
        say(f"{stopped} fits stopped at their limit of iterations, with more to gain; --set max_iter=N gives them N")
    for row in result["methods"]:
        if row["error"] is not None:
            say(f"{row['name']} failed: {row['error']}")


def verdict_said(verdict: dict[str, Any], titles: dict[str, str]) -> str:
    """Say where the default stands beside the best rival in one metric."""
    difference = signed_interval(verdict["difference"], verdict["interval"])
    names = f"{verdict['ours']['name']} beside {verdict['rival']['name']}, the best rival"
    return f"{titles[verdict['key']]}: {verdict['result']}, {difference}, {names}"


def plus_minus(interval: list[float] | None) -> str:
    """Write half the width of an interval."""
    return "" if interval is None else f"±{50 * (interval[1] - interval[0]):.1f}"
