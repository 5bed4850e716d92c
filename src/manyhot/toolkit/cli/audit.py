"""`manyhot audit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text as Plain

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import (
    ConfigFile,
    Device,
    DropUnlabelled,
    Encoding,
    Group,
    Join,
    Json,
    LabelNames,
    Labels,
    LabelSep,
    Long,
    NoHeader,
    NumericColumns,
    NumLabels,
    OptionalData,
    Pairs,
    SafeCsv,
    Seed,
    SplitColumn,
    Text,
    Uncertain,
    options_of,
)
from manyhot.toolkit.cli.terminal import listening, print_json, say
from manyhot.toolkit.errors import InputError, on_one_line

if TYPE_CHECKING:
    from manyhot.toolkit.audit import Audited

# Rows, labels and pairs that the terminal shows; the file has all.
SHOWN = 10
EXCERPT = 60
# Columns of a terminal from which words have one of their own; they are bold in the text anyway.
WIDE = 120


def audit(
    context: typer.Context,
    data: OptionalData = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="All suspects: .csv, a cell a line; .jsonl, a row a line."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN", help="Ask this run, which should not have seen the rows.  [default: folds]"
        ),
    ] = None,
    safe_csv: SafeCsv = False,
    text: Text = None,
    features: NumericColumns = None,
    labels: Labels = None,
    num_labels: NumLabels = None,
    label_sep: LabelSep = None,
    label_names: LabelNames = None,
    no_header: NoHeader = None,
    encoding: Encoding = None,
    join: Join = None,
    split_column: SplitColumn = None,
    group: Group = None,
    uncertain: Uncertain = None,
    drop_unlabelled: DropUnlabelled = None,
    model: Annotated[
        str | None, typer.Option(help="linear, mlp or encoder:NAME_OR_DIR, as in train.  [default: linear]")
    ] = None,
    device: Device = None,
    long: Long = None,
    seed: Seed = None,
    config: ConfigFile = None,
    set_: Pairs = None,
    as_json: Json = False,
) -> None:
    """Find labels that look wrong or missing: where models that had not seen a row contradict what the file says.

    \b
    Examples:
      manyhot audit reviews.csv
      manyhot audit reviews.csv -o suspects.csv
    """
    with failing_clearly():
        from dataclasses import replace

        from manyhot.toolkit.audit import audit as run_audit
        from manyhot.toolkit.audit import write_audit
        from manyhot.toolkit.config import KEPT, make_config
        from manyhot.toolkit.disk.run_folder import check_output
        from manyhot.toolkit.runs.saved_run import load_run

        asked = {key: value for key, value in options_of(context).items() if key not in ("out", "safe_csv")}
        if run is not None:
            if config is not None or set_:
                raise InputError(f"--config and --set are of a training; --run {run} is one: leave them out.")
            for key in (*KEPT, "join", "group", "split_column", "drop_unlabelled", "device", "long", "seed"):
                if asked.get(key) is not None:
                    raise InputError(
                        f"{key} is that of --run {run}, by which the file is read; leave --{key.replace('_', '-')} out."
                    )
        settings = make_config(config, set_ or [], asked)
        if out is not None:
            check_output(out, (".csv", ".jsonl"), settings.data)
        loaded = None if run is None else load_run(run)
        with listening() as listener:
            audited = run_audit(replace(settings, out=""), replace(listener, on_step=lambda step: None), loaded)
        written = None if out is None else write_audit(out, audited, safe_csv=safe_csv)
        if as_json:
            print_json(summary(audited) | ({} if out is None else {"out": str(out)}))
            return
        print_audit(audited)
        if out is not None:
            say(f"wrote {out}: {written:,} lines, with text of the rows")
        elif len(audited.cells.rows):
            say("all of them in a file: -o suspects.csv, or suspects.jsonl for a labelling tool")


def summary(audited: "Audited") -> dict[str, Any]:
    """Return the numbers of an audit, and the rows that repeat and labels alike; no text of any row."""
    missing, wrong = (len(audited.cells.of(given).rows) for given in (False, True))
    return {
        "rows": audited.examples.rows,
        "cross_fitted": audited.cross_fitted,
        "missing": missing,
        "wrong": wrong,
        "labels": audited.by_label(),
        "repeated": [[audited.place(row) for row in of.rows] for of in audited.repeated],
        "alike": [
            {"labels": list(pair.labels), "rows": list(pair.rows), "share": round(pair.share, 4)}
            for pair in audited.alike
        ],
    }


def print_audit(audited: "Audited") -> None:
    """Print the worst suspects, the labels that have most of them, rows that repeat and labels that look like one."""
    missing, wrong = audited.cells.of(False), audited.cells.of(True)
    console, rows = Console(soft_wrap=True, highlight=False), audited.examples.rows
    how = "models that had not seen the row" if audited.cross_fitted else "the run"
    console.print(
        Plain(
            f"{rows:,} rows: {len(missing.rows):,} labels look missing and {len(wrong.rows):,} look wrong, where {how} "
            "contradict" + ("" if audited.cross_fitted else "s") + " what the file says."
        )
    )
    for title, given in (("looks missing", False), ("looks wrong", True)):
        places = [i for i in range(len(audited.cells.rows)) if bool(audited.cells.given[i]) is given][:SHOWN]
        if not places:
            continue
        table = Table(box=None, pad_edge=False)
        cells = audited.described(places)
        widest = max(len(title), *(min(len(cell["label"]), EXCERPT // 2) for cell in cells))
        table.add_column("row", justify="right", no_wrap=True, min_width=len(f"{rows:,}"))
        table.add_column(title, no_wrap=True, min_width=widest)
        table.add_column("prob", justify="right", no_wrap=True, min_width=4)
        table.add_column("", no_wrap=True)
        if wide := console.width >= WIDE:
            table.add_column("words against it" if given else "words for it", no_wrap=True)
        for cell in cells:
            text = cell["text"] if len(cell["text"]) <= EXCERPT else cell["text"][: EXCERPT - 1] + "…"
            said = _plain(text)
            said.highlight_words(cell["words"], "bold", case_sensitive=False)
            words = [_plain(", ".join(cell["words"]))] if wide else []
            table.add_row(f"{cell['row']:,}", _plain(cell["label"]), f"{cell['prob']:.0%}", said, *words)
        console.print()
        console.print(table)
    worst = audited.by_label()[:SHOWN]
    if worst:
        console.print()
        table = Table(box=None, pad_edge=False)
        for name in ("label", "rows", "look missing", "look wrong"):
            table.add_column(name, justify="left" if name == "label" else "right", no_wrap=True)
        for label in worst:
            table.add_row(_plain(label["label"]), *(f"{label[key]:,}" for key in ("rows", "missing", "wrong")))
        console.print(table)
    if audited.repeated:
        first = audited.repeated[0]
        where = ", ".join(
            f"row {audited.place(row)} ({', '.join(of) or 'none'})"
            for row, of in zip(first.rows, first.labels, strict=True)
        )
        number = len(audited.repeated)
        texts = "1 text stands" if number == 1 else f"{number:,} texts stand"
        console.print()
        console.print(_plain(f"{texts} more than once with other labels: {where}"))
    for pair in audited.alike[:SHOWN]:
        why = f"{pair.share:.0%} of their rows have both" + (", and the names are alike" if pair.names_alike else "")
        console.print(
            _plain(f"{pair.labels[0]} ({pair.rows[0]:,}) and {pair.labels[1]} ({pair.rows[1]:,}) may be one: {why}")
        )


def _plain(text: str) -> Plain:
    """Take names and cells of a file for what they are: no markup, and nothing that a terminal obeys."""
    return Plain(on_one_line(text))
