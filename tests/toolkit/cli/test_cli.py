"""The command: what it prints where, its exit codes, and bad options as one sentence."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from sklearn.datasets import dump_svmlight_file
from typer.testing import CliRunner

import manyhot
from command import as_json, bad, call, files
from manyhot.toolkit.cli import terminal
from manyhot.toolkit.cli.main import app
from manyhot.toolkit.compare.methods import NAMES
from manyhot.toolkit.config import LABEL_LOSSES
from manyhot.toolkit.report.suspects import rows_shown
from manyhot.toolkit.spans.methods import methods_of

KEYS = [
    "micro_f1", "macro_f1", "samples_f1", "rare_f1", "medium_f1", "head_f1", "exact_match", "hamming_loss", "lrap",
    "precision_at_1", "precision_at_3", "precision_at_5", "ndcg_at_5", "labels_per_row_predicted",
    "labels_per_row_true", "empty_rows", "rows", "labels", "ece", "brier", "log_loss", "ece_uncalibrated",
    "brier_uncalibrated", "log_loss_uncalibrated",
]  # fmt: skip
KINDS = {"animal": "fox bird cat", "plant": "tree rose moss", "stone": "flint slate chalk"}
COMMAND = [sys.executable, "-c", "from manyhot.toolkit.cli.main import main; main()"]
FAST = "--set C=2 --tau 0"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(name="d.csv", rows=30, seed=0, labels=tuple(KINDS)):
    rng = np.random.default_rng(seed)
    sets = [sorted(rng.choice(3, rng.integers(1, 3), replace=False)) for _ in range(rows)]
    words = [words.split() for words in KINDS.values()]
    texts = [" and ".join(str(w) for i in chosen for w in rng.choice(words[i], 2)) for chosen in sets]
    cells = [[labels[i] for i in chosen] for chosen in sets]
    frame = pl.DataFrame({"text": texts, "labels": cells})
    if name.endswith(".csv"):
        frame.with_columns(pl.col("labels").list.join("|")).write_csv(name)
    elif name.endswith(".parquet"):
        frame.write_parquet(name)
    else:
        frame.write_ndjson(name)
    return frame


def matrix(name="set", rows=30, features=4, **changed):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, features))
    parts = {"X": sp.csr_matrix(X), "Y": sp.csr_matrix(X[:, :3] > 0.3)} | changed
    for part, value in parts.items():
        sp.save_npz(f"{name}.{part}.npz", value)
    Path("labels.txt").write_text("a\nb\nc\n")


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    """Train one run by the command; tests get a copy."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        table()
        call(f"train d.csv {FAST} --out run")
    return folder / "run"


@pytest.fixture
def run(text_run, here):
    return Path(shutil.copytree(text_run, here / "run"))


# --json


def test_train_prints_one_object(here):
    table()
    table("t.jsonl", 12, seed=1)
    value = as_json("train d.csv --test t.jsonl --out run")
    assert list(value["test"]) == KEYS
    assert list(value["cross_fitted"]) == KEYS
    assert value["run"] == "run"
    assert value["loss"] == "bce"
    evaluated = as_json("evaluate run t.jsonl")
    assert evaluated.pop("drift")["said"] is None
    assert value["test"] == evaluated
    assert value["test"] == json.loads((here / "run" / "metrics.json").read_bytes())["test"]
    assert value["test"]["head_f1"] is None
    frame = pl.read_ndjson("t.jsonl")
    with pytest.warns(UserWarning, match="4 of 12 rows stand in the training data"):
        assert value["test"] == manyhot.load_run("run").evaluate(frame)
    assert set(as_json(f"train d.csv --valid t.jsonl {FAST} --out run2")) >= {"valid", "run", "C", "tau"}


def test_evaluate_prints_exactly_the_keys(run):
    table("t.csv", 12, seed=1)
    metrics = as_json("evaluate run t.csv")
    assert list(metrics) == [*KEYS, "drift"]
    assert (metrics["rows"], metrics["labels"]) == (12, 3)
    assert all(0 <= metrics[key] <= 1 for key in KEYS[:13] if metrics[key] is not None)


def test_predict_prints_one_object(run):
    frame = table("t.csv", 12, seed=1)
    said = as_json("predict run t.csv -o out.jsonl")
    assert said.pop("drift")["said"] is None
    assert said == {"out": "out.jsonl", "rows": 12}
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["labels"] for row in rows] == manyhot.load_run("run").predict(frame["text"].to_list())


def test_a_dry_run_prints_one_object():
    table()
    before = files()
    value = as_json("train d.csv --dry-run")
    assert value["dry_run"] is True
    assert {use["column"]: use["role"] for use in value["columns"]}["labels"] == "label"
    assert files() == before


def test_a_dry_run_prints_a_row_a_column():
    frame = table()
    stdout, _ = call("train d.csv --dry-run")
    rows = [line.split() for line in stdout.splitlines()]
    assert rows[0] == ["column", "used", "as"]
    assert [row[0] for row in rows[1:]] == frame.columns
    assert ["labels", "label", "separated"] in [row[:3] for row in rows]


def test_an_encoding_is_of_every_file_and_has_to_be_one():
    frame = table("e.parquet").with_columns(pl.col("labels").list.join("|"), pl.lit("é").alias("sign"))
    text = frame.write_csv()
    Path("e.csv").write_bytes(text.encode("windows-1252"))
    assert "--encoding windows-1252" in bad("train e.csv")
    _, stderr = call(f"train e.csv --encoding windows-1252 --test e.csv {FAST} --out run")
    assert "saved run" in stderr
    assert "--encoding windows-1252" in bad("evaluate run e.csv")
    call("evaluate run e.csv --encoding windows-1252")
    call("predict run e.csv -o out.csv --encoding windows-1252 --keep sign")
    assert pl.read_csv("out.csv")["sign"].unique().to_list() == ["é"]
    assert "expected an encoding such as windows-1252" in bad("train e.csv --encoding nonsense")
    assert "expected an encoding such as windows-1252" in bad("evaluate run e.csv --encoding base64")
    assert "expected a text file with --encoding" in bad("train e.parquet --encoding gb18030")


def test_rows_of_one_text_are_joined():
    frame = table()
    frame.explode("labels").write_csv("rows.csv")
    _, stderr = call(f"train rows.csv {FAST} --out one")
    assert "warning: " in stderr
    assert "--join joins them" in stderr
    _, stderr = call(f"train rows.csv --join {FAST} --out run")
    assert "joined: " in stderr
    assert manyhot.load_run("run").columns.join


def test_json_has_nothing_in_it_that_markup_or_encoding_changes(run):
    table("[red] 数据.jsonl", 12, seed=1)
    assert as_json("predict run '[red] 数据.jsonl' -o '[b]标.csv'")["out"] == "[b]标.csv"
    stdout, _ = call("predict run '[red] 数据.jsonl' -o '标.csv' --json")
    assert "标" in stdout


# For people


def test_tables_go_to_stdout_and_sentences_to_stderr(run):
    table()
    table("t.csv", 12, seed=1)
    stdout, stderr = call("train d.csv --test t.csv --out new")
    assert stdout.startswith("On 12 test rows:\n")
    measured = json.loads(Path("new/metrics.json").read_bytes())["test"]
    assert [line.split()[:3] for line in stdout.splitlines()[1:3]] == [
        [f"{100 * measured['micro_f1']:.1f}", "%", "micro-F1"],
        [f"{100 * measured['macro_f1']:.1f}", "%", "macro-F1"],
    ]
    assert f"labels a row, where there are {measured['labels_per_row_true']:.2f}" in stdout
    assert "offset" not in stdout + stderr
    assert "text: text\nlabels: labels (separated by '|', 3 labels)\n30 rows, 3 labels, " in stderr
    rows = rows_shown(json.loads(Path("new/findings.json").read_bytes()))
    inside = f"with excerpts of {rows} rows of the data" if rows else "without any row of the data"
    held = json.loads(Path("new/findings.json").read_bytes())["rows_held"]
    assert held in (0, 30)
    assert stderr.strip().splitlines()[-4:] == [
        "saved new, again: manyhot train --config new/config.toml",
        f"report new/report.html, {inside}",
        (
            "its model holds the features of 30 training rows; --neighbours off leaves them out"
            if held
            else "its model holds no row of the training table"
        )
        + "; a hash of each row stays in the run, so that evaluate knows it again; --no-rows leaves these out",
        'next: manyhot predict new "a new text"',
    ]
    assert "chosen by held-out rows: penalty C " in stderr
    stdout, stderr = call("evaluate run t.csv")
    metrics = as_json("evaluate run t.csv")
    lines = {line[:24].strip(): line[24:].split() for line in stdout.splitlines()}
    assert lines["micro-F1"] == [f"{100 * metrics['micro_f1']:.1f}"]
    assert lines["labels a row, predicted"] == [f"{metrics['labels_per_row_predicted']:.2f}"]
    assert lines["head-F1 (35+)"] == ["-"]
    assert lines["rows"] == ["12"]
    assert stderr.splitlines()[-1] == "measured run on t.csv"
    assert call("predict run t.csv -o out.csv") == ("", "wrote out.csv: 12 rows\n")


def test_verbose_adds_what_was_tried_and_all_numbers():
    table()
    table("t.csv", 12, seed=1)
    stdout, stderr = call(f"train d.csv --test t.csv --out new {FAST} --verbose")
    assert "rows left empty" in stdout
    assert "On 12 test rows" in stdout
    assert "       C   tau  offset     loss  micro-F1" in stderr
    assert "chosen: C 2, tau 0.00, offset " in stderr
    assert "model: linear on " in stderr


def test_labels_with_few_rows_are_named():
    table()
    Path("d.csv").write_text(Path("d.csv").read_text() + "".join(f"text {i},animal|rare {i % 2}\n" for i in range(7)))
    _, stderr = call(f"train d.csv {FAST}")
    assert "2 labels seen fewer than 9 times (rare 1, rare 0)" in stderr


def test_a_text_is_predicted_and_printed(run):
    table()
    stdout, stderr = call("predict run 'fox and bird'")
    own = manyhot.load_run("run")
    sets = own.label_sets(own.predict_logits(["fox and bird"]))[0]
    labels = [label.name for label in sets]
    assert "error" not in stderr
    assert [line.split() for line in stdout.splitlines()] == [
        [label.name, f"{100 * label.prob:.0f}", "%"] for label in sets
    ]
    assert "more words that training did not know" in call("predict run 'qqq zzz'")[1]
    assert as_json("predict run 'fox and bird'")["labels"] == labels
    assert bad("predict run ''") == "expected a text, got an empty one."
    assert bad("predict run new.csv").startswith("new.csv: there is no such file")
    assert bad("predict run d.csv") == "d.csv: expected a file to write to; add -o d-out.jsonl."
    assert bad("predict run - --keep id") == "--keep is of a file; leave it out, or name a file and -o OUT."
    assert bad("predict run 'a text' --encoding gb18030").startswith("--encoding is of a file")


def test_lines_of_stdin_are_predicted_as_a_file_of_them_is(run):
    texts = ["fox and bird", "", 'a "rose", a tree', "flint"] * 100
    pl.DataFrame({"text": texts}).write_csv("new.csv")
    call("predict run new.csv -o out.jsonl")
    result = CliRunner().invoke(app, ["predict", "run", "-"], input="".join(f"{text}\n" for text in texts))
    assert result.exit_code == 0
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        json.loads(line) for line in Path("out.jsonl").read_text().splitlines()
    ]
    assert CliRunner().invoke(app, ["predict", "run", "-"], input="").stdout == ""


def test_a_bare_command_says_how_to_begin():
    stdout, _ = call("")
    assert [line.split()[:2] for line in stdout.splitlines() if line.startswith("  ")] == [
        ["manyhot", "demo"],
        ["manyhot", "train"],
        ["manyhot", "predict"],
    ]
    assert call("--version") == (f"manyhot {metadata.version('manyhot')}\n", "")
    assert "--install-completion" in call("--help")[0]


def test_the_sentence_at_the_end_repeats_the_run():
    table()
    call(f"train d.csv {FAST} --out a")
    _, stderr = call("train --config a/config.toml --out b")
    for name in ("model.safetensors", "run.json", "config.toml"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
    assert "saved b" in stderr


@pytest.mark.slow
def test_an_encoder_is_mentioned_once_after_texts_and_never_to_a_script(monkeypatch, tmp_path):
    monkeypatch.setattr(terminal, "find_spec", lambda name: name)
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "cache"))
    table()
    matrix()
    mentioned = "on English texts a pretrained encoder often adds"
    assert mentioned not in "".join(call(f"train d.csv {FAST} --json"))
    assert mentioned not in "".join(call(f"train set.X.npz {FAST}"))
    with monkeypatch.context() as patch:
        patch.setattr(terminal, "find_spec", lambda name: None)  # without the extra it would not work
        assert mentioned not in "".join(call(f"train d.csv {FAST}"))
    _, stderr = call(f"train d.csv {FAST}")
    *_, last = stderr.strip().splitlines()
    assert last.startswith(mentioned)
    assert last.endswith("--model encoder:sentence-transformers/all-MiniLM-L6-v2, 90 MB")
    assert mentioned not in "".join(call(f"train d.csv {FAST}"))


def test_runs_get_the_next_number():
    table()
    for number in (1, 2):
        _, stderr = call(f"train d.csv {FAST}")
        assert f"saved runs/d-{number}, again: manyhot train --config runs/d-{number}/config.toml" in stderr


def test_config_and_set():
    table()
    Path("c.toml").write_text('data = "d.csv"\nC = 3.0\ntau = 0.5\nseed = 4\n')
    value = as_json("train --config c.toml --set C=4 --set max_iter=5 --seed 6 --out run")
    assert (value["C"], value["tau"]) == (4.0, 0.5)
    saved = Path("run/config.toml").read_text()
    assert "seed = 6\n" in saved
    assert "max_iter = 5\n" in saved
    assert json.loads(Path("run/provenance.json").read_bytes())["seed"] == 6


def test_unknown_labels_are_warned_of_and_counted(run):
    pl.DataFrame({"text": ["fox", "moss and tree"], "labels": [["animal", "[ghost]"], ["plant"]]}).write_ndjson(
        "t.jsonl"
    )
    stdout, stderr = call("evaluate run t.jsonl --json")
    assert "warning: 1 label of this file is unknown to the run, 1 time: [ghost] (1)." in stderr
    assert json.loads(stdout)["labels_per_row_true"] == 1.5


def test_dropped_rows_are_said():
    frame = table("d.jsonl")
    more = pl.DataFrame({"text": ["nothing"] * 3, "labels": [[]] * 3}, schema=frame.schema)
    pl.concat([frame, more]).write_ndjson("t.jsonl")
    _, stderr = call(f"train t.jsonl --drop-unlabelled {FAST} --out run")
    assert "3 rows without labels dropped" in stderr
    stdout, stderr = call("evaluate run t.jsonl --json")
    assert stderr.startswith("warning: 3 rows without labels left out, as in training (--drop-unlabelled)\n")
    assert json.loads(stdout)["rows"] == 30


MARKUP = ("[red]", "[/red]", "[bold]a[/]")


def test_labels_and_columns_with_markup_survive():
    table("d.jsonl", labels=MARKUP)
    pl.read_ndjson("d.jsonl").rename({"text": "[red]t[/b]"}).write_ndjson("m.jsonl")
    _, stderr = call(f"train m.jsonl --text '[red]t[/b]' --labels labels {FAST} --out run")
    assert "text: [red]t[/b]\n" in stderr
    call("predict run m.jsonl -o out.jsonl")
    found = {name for line in Path("out.jsonl").read_text().splitlines() for name in json.loads(line)["labels"]}
    assert found == set(MARKUP)
    assert "'[/x]'" in bad("train m.jsonl --text '[/x]'")


@pytest.mark.parametrize("name", ["[red]", "a[/red]"])
def test_paths_with_markup_survive(run, name):
    Path(name).parent.mkdir(exist_ok=True)
    table(f"{name}.csv")
    _, stderr = call(f"train '{name}.csv' {FAST} --out '{name}-run'")
    assert f"saved {name}-run, again: manyhot train --config '{name}-run/config.toml'" in stderr
    stdout, stderr = call(f"evaluate run '{name}.csv'")
    assert stdout.splitlines()[0].strip() == f"{Path(name).name}.csv"
    assert stderr.endswith(f"\nmeasured run on {name}.csv\n")
    assert call(f"predict run '{name}.csv' -o '{name}.jsonl'")[1] == f"wrote {name}.jsonl: 30 rows\n"


# Files that need a word about what they are


def test_a_table_without_a_header():
    table()
    lines = Path("d.csv").read_text().splitlines()[1:]
    Path("n.csv").write_text("\n".join(lines) + "\n")
    _, stderr = call(f"train n.csv --no-header --labels 2 {FAST} --out run")
    assert "text: 1\nlabels: 2 (separated by '|', 3 labels)\n" in stderr
    assert "no_header = true\n" in Path("run/config.toml").read_text()
    assert as_json("evaluate run n.csv")["rows"] == 30  # the run knows
    assert as_json("predict run n.csv -o out.jsonl")["rows"] == 30
    call("train --config run/config.toml --out again")
    assert Path("run/model.safetensors").read_bytes() == Path("again/model.safetensors").read_bytes()
    call(f"train d.csv {FAST} --out named")
    assert as_json("evaluate run n.csv") == as_json("evaluate named d.csv")


def numbers(rows=40):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 3)).round(3)
    return pl.DataFrame(X, schema=["a", "b", "c"]), pl.DataFrame((X > 0.2).astype(int), schema=["p", "q", "r"])


@pytest.mark.parametrize("count", [3, -3])
def test_labels_counted_off(count):
    X, Y = numbers()
    pl.concat([Y, X] if count > 0 else [X, Y], how="horizontal").write_csv("d.csv")
    _, stderr = call(f"train d.csv --num-labels {count} {FAST} --out run")
    assert "features: a, b, c (3 numeric columns)\nlabels: p, q, r (3 columns of 0 and 1)\n" in stderr
    assert f"num_labels = {count}\n" in Path("run/config.toml").read_text()
    call(f"train d.csv --labels p,q,r {FAST} --out named")
    assert Path("run/model.safetensors").read_bytes() == Path("named/model.safetensors").read_bytes()


def test_arff_gives_the_run_of_the_same_table():
    X, Y = numbers()
    pl.concat([X, Y], how="horizontal").write_csv("d.csv")
    header = "".join(f"@attribute {name} numeric\n" for name in X.columns)
    header += "".join(f"@attribute {name} {{0,1}}\n" for name in Y.columns)
    rows = "\n".join(Path("d.csv").read_text().splitlines()[1:])
    Path("d.arff").write_text(f"@relation 'd: -C -3'\n{header}@data\n{rows}\n")
    call(f"train d.csv --labels p,q,r {FAST} --out table")
    _, stderr = call(f"train d.arff {FAST} --out run")
    assert "labels: p, q, r (3 attributes, by -C -3 in its header)" in stderr
    assert Path("run/model.safetensors").read_bytes() == Path("table/model.safetensors").read_bytes()
    assert as_json("evaluate run d.arff") == as_json("evaluate table d.csv") == as_json("evaluate run d.csv")
    call("predict run d.arff -o a.csv")
    call("predict table d.csv -o b.csv")
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_numbers_categories_lists_and_missing_cells():
    rng = np.random.default_rng(0)
    x, colour = rng.normal(size=(60, 3)), rng.choice(["red", "green", "blue"], 60)
    frame = pl.DataFrame({"x": x[:, 0], "v": x[:, 1:].tolist(), "colour": colour})
    frame = frame.with_columns(p=(pl.col("x") > 0).cast(int), q=(pl.col("colour") == "red").cast(int))
    frame = frame.with_columns(
        x=pl.when(pl.int_range(60) % 7 == 2).then(None).otherwise("x"),
        colour=pl.when(pl.int_range(60) % 9 == 4).then(None).otherwise("colour"),
    )
    frame.write_parquet("d.parquet")
    _, stderr = call(f"train d.parquet --labels p,q {FAST} --out run --verbose")
    assert "features: x, v (2 numeric columns)\ncategories: colour (3 values); a column a value" in stderr
    assert "missing cells: 1 numeric column, colour (7 rows); the mean stands in" in stderr
    assert "linear on 3 numbers, standardised + 1 for missing cells + 5 for values of categories" in stderr
    assert as_json("evaluate run d.parquet")["micro_f1"] > 0.8
    frame.write_ndjson("d.jsonl")
    assert as_json("evaluate run d.parquet") == as_json("evaluate run d.jsonl")
    # A category that training had none of is like one that it had once: it moves no logit here.
    new = frame.head(2).with_columns(colour=pl.Series(["violet", "pink"]), x=pl.Series([None, 0.5]))
    new.select("v", "colour", "x").write_ndjson("new.jsonl")
    call("predict run new.jsonl -o out.jsonl")
    assert pl.read_ndjson("out.jsonl")["labels"].to_list() == manyhot.load_run("run").predict(new)
    assert "expected the columns x, v, colour as in training, got a file without x" in str(
        bad("predict run out.jsonl -o again.jsonl")
    )


def test_svmlight_gives_the_run_of_the_same_matrix():
    X, Y = numbers()
    dump_svmlight_file(X.to_numpy(), sp.csr_array(Y.to_numpy()), "d.svm", zero_based=False, multilabel=True)
    Path("names.txt").write_text("a\nb\nc\n")
    matrix("set", X=sp.csr_matrix(X.to_numpy()), Y=sp.csr_matrix(Y.to_numpy()))
    call(f"train set.X.npz {FAST} --out matrix")
    _, stderr = call(f"train d.svm --label-names names.txt {FAST} --out run")
    assert "features: 3, numbered from 1\n" in stderr
    of_svmlight, of_matrix = as_json("evaluate run d.svm"), as_json("evaluate matrix set")
    assert of_svmlight.pop("drift") == of_matrix.pop("drift")
    assert of_svmlight == pytest.approx(of_matrix, abs=1e-6)
    call("predict run d.svm -o a.jsonl")
    call("predict matrix set -o b.jsonl")
    assert pl.read_ndjson("a.jsonl")["labels"].to_list() == pl.read_ndjson("b.jsonl")["labels"].to_list()
    assert "expected a matrix (NAME.X.npz), as in training; got an svmlight file" in bad("evaluate matrix d.svm")
    assert "expected an svmlight file, as in training; got a matrix (NAME.X.npz)" in bad("evaluate run set")


def test_options_for_tables_are_refused_for_matrices():
    matrix()
    for option in ("--text a", "--features a", "--labels a", "--num-labels 2", "--label-sep ,"):
        flag = option.split()[0]
        assert f"set.X.npz: expected a table with {flag}, got a matrix (NAME.X.npz), which has no columns" in bad(
            f"train set.X.npz {option}"
        )


# Bad input: what files can have wrong is in test_bad_input.py


def test_truncated_and_tampered_runs(run):
    table("t.csv", 5)
    weights = run / "model.safetensors"
    content = weights.read_bytes()
    for changed in (content[:-7], content[:-1] + bytes([content[-1] ^ 1])):
        weights.write_bytes(changed)
        for command in ("evaluate run t.csv", "predict run t.csv -o out.csv"):
            assert bad(command).startswith("run/model.safetensors: changed since training")
    weights.unlink()
    assert bad("evaluate run t.csv").startswith("run/model.safetensors: missing from the run")
    (run / "manifest.json").unlink()
    assert "manifest.json is missing" in bad("evaluate run t.csv")


def test_places_that_are_taken(run):
    table()
    assert bad("train d.csv --out run").startswith(
        "run: expected a folder that does not exist yet; choose another --out"
    )
    assert "expected a folder that does not exist yet" in bad("train d.csv --out d.csv")
    assert "cannot make this folder" in bad("train d.csv --out d.csv/x/run")
    assert "expected a folder that does not exist yet" in bad("demo --out run")
    assert "expected an output that ends in .jsonl, .csv, .parquet" in bad("predict run d.csv -o out.txt")
    assert "expected a file in a folder that exists" in bad("predict run d.csv -o no/out.csv")


def test_bad_options():
    table()
    assert "'nope' is no option of train." in bad("train d.csv --set nope=1")
    assert "loss expects one of zlpr, bce, subset, bce+prior," in bad("train d.csv --loss hinge")
    assert "f1-bce; got 'hinge'." in bad("train d.csv --loss hinge")
    assert "tau expects auto or a number 0 or more" in bad("train d.csv --tau=-1")
    assert "tau expects auto or a number 0 or more" in bad("train d.csv --tau much")
    assert "C expects auto or a number above 0" in bad("train d.csv --set C=0")
    assert "seed expects a whole number of 0 or more" in bad("train d.csv --seed -1")
    assert "train expects a data file" in bad("train")
    assert "num_labels expects a whole number, such as 6" in bad("train d.csv --num-labels 0")
    assert "num_labels expects a whole number" in bad("train d.csv --set num_labels=x")
    assert "labels names the columns that num_labels counts off" in bad("train d.csv --num-labels 1 --labels labels")
    assert "expected --num-labels from 1 to 1, or from -1 to -1" in bad("train d.csv --num-labels 2")
    assert "no_header expects true or false" in bad("train d.csv --set no_header=1")


@pytest.mark.parametrize("command", ["train --nope", "evaluate", "predict run", "what", "train d.csv --seed x"])
def test_bad_usage_is_exit_code_2(command):
    table()
    before = files()
    stdout, stderr = call(command, 2)
    assert stdout == ""
    assert "Usage: " in stderr
    assert files() == before


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device"), 1, "error: writing: No space left on device; nothing was written\n"),
        (OSError(28, "No space left on device", "x.bin"), 1, "error: x.bin: No space left on device; nothing was "),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing was written\n"),
        (MemoryError(), 1, "error: out of memory; use fewer columns or labels, or a machine with more memory\n"),
    ],
)
def test_failures_have_a_sentence_and_a_code(run, monkeypatch, error, code, said):
    def fail(*_):
        raise error

    table()
    monkeypatch.setattr(os, "fsync", fail)
    before = files()
    for command in (f"train d.csv {FAST} --out new", "predict run d.csv -o out.csv"):
        stdout, stderr = call(command, code)
        assert stdout == ""
        assert said in stderr
        assert files() == before


# In a process of its own


def start(arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys, os\n"
        "sys.argv = ['manyhot', '--help']\n"
        "from manyhot.toolkit.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "heavy = {'torch', 'sklearn', 'polars', 'numpy', 'scipy', 'pandas', 'safetensors', 'matplotlib', 'jinja2'}\n"
        "heavy &= set(sys.modules)\n"
        "used = os.times()\n"
        "print(sorted(heavy), used.user + used.system, file=sys.stderr)"
    )
    seconds = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Exit codes: 0 done, 1 failed" in done.stdout
        assert all(command in done.stdout for command in ("train", "evaluate", "predict", "demo"))
        heavy, used = done.stderr.rsplit(maxsplit=1)
        assert heavy == "[]"
        seconds.append(float(used))
    # Processor time: what the clock shows depends on what else the machine does.
    assert statistics.median(seconds) < 0.5


def test_the_help_of_train_names_every_loss():
    stdout, _ = call("train --help")
    assert {word.strip(",.;│") for word in stdout.split()} >= set(LABEL_LOSSES)


def test_the_help_of_compare_names_every_method():
    stdout, _ = call("compare --help")
    assert {word.strip(",.;│") for word in stdout.split()} >= {*NAMES, *(m.name for m in methods_of("spans"))}


@pytest.mark.parametrize("command", [getattr(command.callback, "__name__", "") for command in app.registered_commands])
def test_every_command_has_help_and_says_its_exit_codes(command):
    stdout, _ = call(f"{command} --help")
    assert "Exit codes: 0 done, 1 failed" in stdout
    assert "--json" in stdout
    examples = stdout.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples
    assert all(f"manyhot {command}" in line for line in examples)


def test_exit_codes_of_the_process_and_streams(run):
    (run / "manifest.json").unlink()
    process = start(["evaluate", "run", "d.csv", "--json"])
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 2
    assert stdout == ""
    assert stderr == (
        "error: run: expected a run folder, but manifest.json is missing; train again, or restore the folder from a "
        "copy.\n"
    )


@pytest.mark.slow
def test_ctrl_c_while_training_is_exit_code_130_and_leaves_nothing(here):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 60))
    sp.save_npz("set.X.npz", sp.csr_matrix(X))
    sp.save_npz("set.Y.npz", sp.csr_matrix(rng.random((3000, 100)) < 0.1))
    Path("labels.txt").write_text("".join(f"l{i}\n" for i in range(100)))
    before = files()
    process = start(["train", "set.X.npz", "--out", "run", "--set", "max_iter=100000", "--verbose"])
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("model: linear"):  # what follows is training, for seconds
                process.send_signal(signal.SIGINT)
                break
        said += process.communicate(timeout=100)[1].splitlines(keepends=True)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, "".join(said)
    assert said[-1] == "error: interrupted; nothing was written\n"
    assert "Traceback" not in "".join(said)
    assert files() == before
