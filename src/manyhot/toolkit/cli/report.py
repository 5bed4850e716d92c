"""`manyhot report`."""

from pathlib import Path
from typing import Annotated

import typer

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import Json
from manyhot.toolkit.cli.terminal import print_json, rows_inside, say


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN|COMPARISON", help="A run folder, or that of a comparison.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where to write.  [default: NAME-report.html]")
    ] = None,
    model_card: Annotated[
        Path | None,
        typer.Option("--card", metavar="FILE", help="Write a model card for the Hub, .md, in place of the page."),
    ] = None,
    no_rows: Annotated[
        bool, typer.Option("--no-rows", help="Leave out the excerpts and words of rows, on this page.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a report as one HTML file, from what the folder holds: needs neither the data nor the model.

    \b
    Examples:
      manyhot report runs/reviews-1
      manyhot report runs/reviews-1 --no-rows -o for-everybody.html
    """
    with failing_clearly():
        from manyhot.toolkit.report.write import write_card, write_report

        if model_card is not None:
            write_card(folder, model_card)
            if as_json:
                print_json({"out": str(model_card), "kind": "run", "rows": 0})
            else:
                say(f"wrote {model_card}: the model card of a run, {rows_inside(0)}")
            return
        written = write_report(folder, out, with_rows=not no_rows)
        if as_json:
            print_json({"out": str(written.out), "kind": written.kind, "rows": written.rows})
        else:
            say(f"wrote {written.out}: the report of a {written.kind}, {rows_inside(written.rows)}")
