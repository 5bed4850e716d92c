"""`manyhot demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import Json
from manyhot.toolkit.cli.terminal import listening, print_json, say
from manyhot.toolkit.errors import InputError, typed, visible
from manyhot.toolkit.report.metric_names import titles_of, written

if TYPE_CHECKING:
    from manyhot.toolkit.demo.run import Example, Shown


def demo(
    task: Annotated[str, typer.Option(help="multilabel; or spans, names in German sentences.")] = "multilabel",
    data: Annotated[
        str, typer.Option(help="packages, titles and tags of Debian packages; or digits, scenes of handwritten digits.")
    ] = "packages",
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the packages as a .csv table to train on, and stop.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run folder.  [default: runs/demo-N]")] = None,
    as_json: Json = False,
) -> None:
    """Train on a small table, beside what people do today. Needs no network and no file of yours.

    \b
    Examples:
      manyhot demo
      manyhot demo --save packages.csv
      manyhot demo --task spans
    """
    with failing_clearly():
        if task not in ("multilabel", "spans"):
            raise InputError(f"--task expects one of multilabel, spans; got {task!r}.")
        if save is not None:
            from manyhot.toolkit.demo.packages import save_packages

            rows = save_packages(save)
            if as_json:
                print_json({"out": str(save), "rows": rows})
            else:
                say(f"wrote {save}: {rows:,} titles of packages with their tags. Next: manyhot train {typed(save)}")
            return
        with listening() as listener:
            if task == "spans":
                from manyhot.toolkit.demo.spans import METRICS, run_span_demo

                shown = run_span_demo(out, listener)
            else:
                from manyhot.toolkit.demo.run import METRICS, run_demo

                shown = run_demo(data, out, listener)
        if as_json:
            print_json({"run": str(shown.path), "test": shown.metrics})
        else:
            _print(shown, METRICS)


def _print(shown: "Shown", metrics_shown: tuple[str, ...]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("on test rows", no_wrap=True)
    for name in shown.metrics:
        table.add_column(Text(name), justify="right", no_wrap=True)
    titles = titles_of(shown.metrics.values())
    for key in metrics_shown:
        count = key.endswith("_per_row_predicted")
        title = titles[key]
        if count:
            true = next(iter(shown.metrics.values()))[key.replace("predicted", "true")]
            title = f"{title.removesuffix(', predicted')} (true {true:.2f})"
        cells = [written(key, metrics[key]) for metrics in shown.metrics.values()]
        percent = "" if count else " %"
        table.add_row(title, *(f"{cell}{percent if cell != '-' else ''}" for cell in cells))
    console.print()
    console.print(table)
    console.print()
    console.print(shown.meaning, markup=False)
    console.print(
        "In brackets: where the difference lies for other test rows of the same kind, 95 times of 100. Where that "
        "holds 0, it may be chance.",
        markup=False,
    )
    for example in shown.examples:
        console.print()
        _print_example(console, example)
    console.print()
    say(f"run     {shown.path}")
    say(f"report  {shown.path / 'report.html'}")
    say(f"try     {shown.use}")


def _print_example(console: Console, example: "Example") -> None:
    for line in example.lines:
        console.print(visible(line), markup=False)
    for sign, what, labels in (
        ("✓", "right", example.right),
        ("−", "missed", example.missed),
        ("+", "added", example.added),
    ):
        if labels:
            console.print(f"  {sign} {what:6}  {', '.join(labels)}", markup=False)
