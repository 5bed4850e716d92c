"""`manyhot export`."""

from pathlib import Path
from typing import Annotated

import typer

from manyhot.toolkit.cli.failing import fail, failing_clearly
from manyhot.toolkit.cli.options import Json
from manyhot.toolkit.cli.terminal import print_json, say


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, on numbers or an encoder.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Where to write, such as model.onnx.")],
    check: Annotated[
        str | None, typer.Option(metavar="DATA", help="Compare the file with the run on these rows, by ONNX Runtime.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run as ONNX: logits, label sets and probabilities from numbers or token ids, in one graph.

    \b
    Examples:
      manyhot export runs/yeast-1 -o model.onnx
      manyhot export runs/yeast-1 -o model.onnx --check test.csv
    """
    with failing_clearly():
        from manyhot.toolkit.disk.run_folder import check_output
        from manyhot.toolkit.errors import InputError
        from manyhot.toolkit.runs.network import network_of_run
        from manyhot.toolkit.runs.predict import read_for
        from manyhot.toolkit.runs.saved_run import load_run

        check_output(out, (".onnx",), check)
        try:
            from manyhot import onnx
        except ImportError as error:
            raise InputError(str(error)) from None
        loaded = load_run(run)
        # Whatever is wrong is said before anything is written.
        network_of_run(loaded)
        rows = None if check is None else read_for(loaded, check, with_labels=False)
        onnx.export(loaded, out)
        found = {} if rows is None else onnx.check_export(loaded, out, rows)
        if as_json:
            print_json({"out": str(out), **found})
        else:
            say(f"wrote {out}: {len(loaded.label_names):,} labels")
            if found:
                say(
                    f"{found['rows']:,} rows of {check}: logits differ by at most {found['largest']:.1e}, "
                    f"label sets of {found['differing']:,} rows"
                )
        if found and found["differing"]:
            fail(f"label sets of {found['differing']:,} of {found['rows']:,} rows differ from those of the run", 1)
