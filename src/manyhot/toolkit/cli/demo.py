"""`manyhot demo`."""

from typing import Annotated

import typer
from rich.console import Console

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import Json
from manyhot.toolkit.cli.terminal import listening, metrics_table, print_json, say


def demo(
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run folder.  [default: runs/demo-N]")] = None,
    as_json: Json = False,
) -> None:
    """Train on real images of digits, one to four in a scene, beside torch's own binary cross-entropy. No network."""
    with failing_clearly():
        from manyhot.toolkit.demo import run_demo

        with listening() as listener:
            shown = run_demo(out, listener)
        if as_json:
            print_json({"run": str(shown.path), "test": shown.metrics})
            return
        console = Console(soft_wrap=True)
        for line in shown.examples:
            console.print(line, markup=False)
        console.print(metrics_table(shown.metrics))
        say(f"saved {shown.path}, use it: manyhot.load_run({str(shown.path)!r}).predict(images)")
