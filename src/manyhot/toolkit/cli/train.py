"""`manyhot train`."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from manyhot.toolkit.cli.failing import failing_clearly
from manyhot.toolkit.cli.options import (
    ConfigFile,
    Design,
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
    Neighbours,
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
    Verbose,
    options_of,
)
from manyhot.toolkit.cli.result import print_result
from manyhot.toolkit.cli.terminal import (
    listening,
    mention_encoder,
    print_columns,
    print_details,
    print_json,
    say,
)
from manyhot.toolkit.config import LABEL_LOSSES, SPAN_LOSSES, TASKS
from manyhot.toolkit.errors import InputError

# The first three of LABEL_LOSSES are meant to be used.
LOSS_HELP = (
    "zlpr, bce, or subset, which learns how many labels rows have; to compare, "
    f"{', '.join(LABEL_LOSSES[3:])}; for multiclass, {', '.join(TASKS['multiclass'])}; for spans and relations, "
    f"{', '.join(SPAN_LOSSES)}.  [default: bce for linear models, zlpr for networks, ce+prior for multiclass]"
)


def train(
    context: typer.Context,
    data: OptionalData = None,
    from_run: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Keep the columns, labels, options and penalty of this run, for a file with its rows and new ones.",
        ),
    ] = None,
    test: Annotated[str | None, typer.Option(metavar="FILE", help="Measure the run on these rows.")] = None,
    valid: Valid = None,
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
    task: Annotated[
        str | None,
        typer.Option(
            help="multilabel; multiclass, where each row has one class; spans, such as names in texts; or relations, "
            "spans and what holds between them.  [default: multilabel]"
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help=LOSS_HELP),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="linear; mlp, one hidden layer; or encoder:NAME_OR_DIR, a model on the Hub or a folder of "
            "transformers, frozen beside the words, or trained with --set fine_tune=true. For spans and relations: "
            "cnn, convolutions; or encoder:NAME_OR_DIR, trained.  [default: linear, cnn]"
        ),
    ] = None,
    design: Design = None,
    device: Device = None,
    long: Long = None,
    tau: Annotated[
        str | None, typer.Option(metavar="X|auto", help="Strength of the prior; auto finds it.  [default: auto]")
    ] = None,
    neighbours: Neighbours = None,
    decision: Annotated[
        str | None,
        typer.Option(
            help="f1, as many labels as give the best F1; cardinality, as many as there are; or precision=0.9, a label "
            "only where held-out rows promise that precision.  [default: f1]"
        ),
    ] = None,
    seed: Seed = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run folder.  [default: runs/NAME-N]")] = None,
    config: ConfigFile = None,
    set_: Pairs = None,
    no_rows: NoRows = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, plan, say, and write nothing.")] = False,
    resume: Resume = False,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Train on a table and write a run folder. Columns, penalty and prior are found; there is no threshold to set.

    \b
    Examples:
      manyhot train reviews.csv
      manyhot train tickets.jsonl --text title,body --labels tags --test new.jsonl
      manyhot train sentences.jsonl --task spans
      manyhot train --config runs/reviews-1/config.toml
      manyhot train more-reviews.csv --from runs/reviews-1
    """
    with failing_clearly():
        from manyhot.toolkit.config import MARKED_TEXTS, make_config
        from manyhot.toolkit.listener import Listener
        from manyhot.toolkit.models.processes import joined
        from manyhot.toolkit.train import Trained
        from manyhot.toolkit.train import train as run_together

        settings = make_config(config, set_ or [], options_of(context))
        if settings.task in MARKED_TEXTS:
            from manyhot.toolkit.spans.train import train_spans as run_training
        else:
            run_training = run_together
        uses: list[Any] = []
        with joined() as processes, listening(verbose=verbose or dry_run) as listener:
            listener = replace(listener, on_columns=uses.extend)
            if processes.size == 1:
                trained = run_training(settings, listener, dry_run=dry_run, resume=resume)
            elif settings.task in MARKED_TEXTS:
                raise InputError(
                    f"{processes.size} processes: expected another task than {settings.task}, which one process trains"
                )
            else:
                heard = listener if processes.first else Listener()
                trained = run_together(settings, heard, dry_run=dry_run, resume=resume, group=processes)
                if not processes.first:
                    return
        if trained is None:
            if as_json:
                print_json({"dry_run": True, "columns": [use._asdict() for use in uses]})
            elif uses:
                print_columns(uses)
            say("dry run: nothing written")
            return
        if as_json:
            print_json({"run": str(trained.path), **trained.run.info, **trained.metrics})
        else:
            if verbose:
                print_details(trained)
            print_result(trained)
            if isinstance(trained, Trained):
                mention_encoder(trained.run)
