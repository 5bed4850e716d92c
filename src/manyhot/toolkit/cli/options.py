"""The options that commands share, each once: its name, its help and what is taken if it is left out."""

from dataclasses import fields
from typing import Annotated, Any

import typer

from manyhot.toolkit.errors import InputError

FORMATS_HELP = "CSV, TSV, JSONL, ARFF, svmlight (each also .gz, .bz2), Parquet, NAME.X.npz or NAME.npy"
Data = Annotated[str, typer.Argument(metavar="DATA", help=FORMATS_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


# What says how to read the data: the same for every command that trains.
OptionalData = Annotated[str | None, typer.Argument(metavar="DATA", help=FORMATS_HELP)]
Valid = Annotated[str | None, typer.Option(metavar="FILE", help="Choose by these rows in place of cross-fitting.")]
Text = Annotated[str | None, typer.Option(metavar="COLS", help="Text columns, commas between. Found if left out.")]
NumericColumns = Annotated[
    str | None, typer.Option("--features", metavar="COLS", help="Numeric columns, commas between. Found if left out.")
]
Labels = Annotated[
    str | None, typer.Option(metavar="COLS", help="One column of label sets, or 0/1 columns. Found if left out.")
]
NumLabels = Annotated[
    int | None, typer.Option(metavar="N", help="The first N columns are labels; the last, if N is negative.")
]
LabelSep = Annotated[str | None, typer.Option(metavar="S", help="What separates labels in a cell.")]
LabelNames = Annotated[
    str | None, typer.Option(metavar="FILE", help="Names of labels, one a line; cells may hold their numbers from 0.")
]
NoHeader = Annotated[bool | None, typer.Option("--no-header", help="CSV and TSV without names; columns are 1, 2, ...")]
Encoding = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What text is written in, if not UTF-8: windows-1252, gb18030."),
]
Join = Annotated[
    bool | None, typer.Option("--join", help="Join rows of one text, with a label each, to one row with all of them.")
]
SplitColumn = Annotated[
    str | None, typer.Option(metavar="COL", help="A column that says train, valid or test of each row.")
]
Group = Annotated[str | None, typer.Option(metavar="COL", help="Rows with the same value are held out together.")]
Uncertain = Annotated[
    str | None,
    typer.Option(metavar="S", help="What -1 says in a label column: negative or positive.  [default: unknown]"),
]
DropUnlabelled = Annotated[
    bool | None, typer.Option("--drop-unlabelled", help="Leave out rows without labels, here and in the test file.")
]
# What reading spans leaves open; of --task spans and --task relations alone.
Nested = Annotated[
    str | None, typer.Option(help="auto, yes or no: whether spans may overlap.  [default: auto, as in training]")
]
SpanTokens = Annotated[
    str | None,
    typer.Option("--tokens", help="auto, or characters, so that every character of a text is one.  [default: auto]"),
]
End = Annotated[
    str | None, typer.Option(help="exclusive, or inclusive where spans name their last token.  [default: exclusive]")
]
Format = Annotated[
    str | None, typer.Option(help="auto, or columns, so that a .tsv or .txt file has a token a line.  [default: auto]")
]
Tags = Annotated[
    str | None, typer.Option(metavar="COLS", help="Columns of tags, counted from 1, commas between. Found if left out.")
]
Design = Annotated[
    str | None,
    typer.Option(help="For relations: gplinker, or cascade, subjects and then their objects.  [default: gplinker]"),
]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda; the linear model is fitted on the CPU.  [default: auto]")
]
Long = Annotated[
    str | None,
    typer.Option(help="Texts longer than a frozen encoder takes: cut, or mean of their pieces.  [default: cut]"),
]
Seed = Annotated[int | None, typer.Option(help="Of the folds, and of networks.  [default: 0]")]
ConfigFile = Annotated[str | None, typer.Option(metavar="FILE", help="Options from a run's config.toml.")]
Pairs = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of config.toml, such as C=10.")
]
NoRows = Annotated[
    bool | None,
    typer.Option("--no-rows", help="Write nothing of single rows: no excerpts, no rows that vote, no hashes of rows."),
]
SafeCsv = Annotated[
    bool, typer.Option("--safe-csv", help="In a .csv, write ' before cells that a spreadsheet takes for formulas.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also say the model's size, every strength that was tried, and all numbers."),
]
Neighbours = Annotated[
    str | None,
    typer.Option(
        help="auto, where the training rows most like a row have a vote and stay in the run; or off, so that no row "
        "does.  [default: auto]"
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the same command was interrupted or killed.")]


def refuse_encoding(encoding: str | None) -> None:
    """Refuse --encoding where a run reads files of spans."""
    if encoding is not None:
        raise InputError("--encoding is of tables, and files of spans are UTF-8; leave it out.")


def options_of(context: typer.Context) -> dict[str, Any]:
    """Return the options of a command that are keys of config.toml, by their names."""
    from manyhot.toolkit.config import Config

    return {field.name: context.params[field.name] for field in fields(Config) if field.name in context.params}
