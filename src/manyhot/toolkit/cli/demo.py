"""`manyhot demo`."""

from typing import Annotated

import typer
from rich.console import Console

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import Json
from manyhot.toolkit.cli.terminal import listening, metrics_table, print_json, say
from manyhot.toolkit.errors import InputError, visible


def demo(
    task: Annotated[
        str, typer.Option(help="multilabel, scenes of digits; or spans, names in German sentences.")
    ] = "multilabel",
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run folder.  [default: runs/demo-N]")] = None,
    as_json: Json = False,
) -> None:
    """Train on digits, one to four in a scene, or on names in sentences, beside binary cross-entropy. No network."""
    with failing_clearly():
        from manyhot.toolkit.demo import run_demo
        from manyhot.toolkit.spans.demo import run_span_demo

        demos = {"multilabel": run_demo, "spans": run_span_demo}
        if task not in demos:
            raise InputError(f"--task expects one of {', '.join(demos)}; got {task!r}.")
        with listening() as listener:
            shown = demos[task](out, listener)
        if as_json:
            print_json({"run": str(shown.path), "test": shown.metrics})
            return
        console = Console(soft_wrap=True)
        for line in shown.examples:
            console.print(visible(line), markup=False)
        console.print(metrics_table(shown.metrics))
        rows = "images" if task == "multilabel" else '["Angela Merkel besuchte Rom."]'
        say(f"saved {shown.path}, use it: manyhot.load_run({str(shown.path)!r}).predict({rows})")
