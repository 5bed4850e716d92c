"""`manyhot compare`."""

import sys
from typing import Annotated

import typer

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import (
    ConfigFile,
    Device,
    DropUnlabelled,
    Encoding,
    End,
    Format,
    Group,
    Join,
    Json,
    LabelNames,
    Labels,
    LabelSep,
    Long,
    Nested,
    NoHeader,
    NoRows,
    NumericColumns,
    NumLabels,
    OptionalData,
    Pairs,
    Resume,
    Seed,
    SpanTokens,
    SplitColumn,
    Tags,
    Text,
    Uncertain,
    Valid,
    options_of,
)
from manyhot.toolkit.cli.terminal import listening, print_comparison, print_json, rows_inside, say
from manyhot.toolkit.errors import InputError, on_one_line


def compare(
    context: typer.Context,
    data: OptionalData = None,
    test: Annotated[
        str | None, typer.Option(metavar="FILE", help="Measure on these rows.  [default: folds of DATA]")
    ] = None,
    valid: Valid = None,
    losses: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Some of zlpr, zlpr+prior, zlpr+prior+neighbours, subset, subset+prior, bce, bce+prior, "
            "bce+prior+neighbours, bce+threshold, bce+label-thresholds, bce+pos_weight, focal, asymmetric, two-way; "
            "for spans zlpr, bce, bce+bias, bce+threshold, focal; for relations gplinker-zlpr, cascade-bce+bias and "
            "the like; commas between.  [default: all]",
        ),
    ] = None,
    folds: Annotated[int, typer.Option(help="How many folds measure, where there are no test rows.")] = 3,
    seeds: Annotated[
        int | None,
        typer.Option(help="How often an mlp, or a network of spans, is trained.  [default: 1, spans 2]"),
    ] = None,
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
    nested: Nested = None,
    tokens: SpanTokens = None,
    end: End = None,
    format: Format = None,
    tags: Tags = None,
    task: Annotated[str | None, typer.Option(help="multilabel, spans, or relations.  [default: multilabel]")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="linear; mlp, one hidden layer; or encoder:NAME_OR_DIR, frozen; of spans cnn or "
            "encoder:NAME_OR_DIR.  [default: linear, cnn]"
        ),
    ] = None,
    device: Device = None,
    long: Long = None,
    seed: Seed = None,
    no_rows: NoRows = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="The comparison's folder.  [default: runs/NAME-compare-N]")
    ] = None,
    config: ConfigFile = None,
    set_: Pairs = None,
    resume: Resume = False,
    jobs: Annotated[int, typer.Option(metavar="N", help="Losses that are fitted at once, each in a process.")] = 1,
    as_json: Json = False,
) -> None:
    """Train with each loss on the same rows and say honestly which is best: BCE with tuned thresholds among them.

    \b
    Examples:
      manyhot compare reviews.csv
      manyhot compare reviews.csv --losses zlpr+prior,bce,bce+threshold
      manyhot compare train.jsonl --test test.jsonl
    """
    with failing_clearly():
        from manyhot.toolkit.compare.compare import compare as run_comparison
        from manyhot.toolkit.compare.methods import make_comparison
        from manyhot.toolkit.config import MARKED_TEXTS, make_config
        from manyhot.toolkit.spans.compare import compare_spans
        from manyhot.toolkit.spans.methods import make_span_comparison

        if jobs < 1:
            raise InputError(f"--jobs: expected 1 process or more; got {jobs}")
        asked = make_config(config, set_ or [], options_of(context))
        command = ["manyhot", *sys.argv[1:]]
        with listening() as listener:
            if asked.task in MARKED_TEXTS:
                if jobs > 1:
                    raise InputError(
                        f"--jobs: expected another task than {asked.task}, whose losses are fitted one by one"
                    )
                spans = make_span_comparison(asked, losses, folds, seeds)
                compared = compare_spans(spans, listener, command=command, resume=resume)
            else:
                settings = make_comparison(asked, losses, folds, 1 if seeds is None else seeds)
                compared = run_comparison(settings, listener, command=command, resume=resume, jobs=jobs)
        if as_json:
            print_json(compared.result)
        else:
            print_comparison(compared.result)
            rows = len(compared.result["hard"] or ())
            place = on_one_line(str(compared.path))
            say(f"saved {place}, look at {place}/report.html, {rows_inside(rows)}")
