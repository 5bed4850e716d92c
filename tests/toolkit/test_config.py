"""Options, a file and `--set` pairs to one checked Config, and back to TOML."""

import tomllib
from dataclasses import fields

import pytest

from manyhot.toolkit.config import LABEL_LOSSES, Config, make_config
from manyhot.toolkit.errors import InputError


def made(*pairs, file=None, **options):
    return make_config(file, pairs, {"data": "d.csv"} | options)


def refused(*pairs, file=None, **options):
    with pytest.raises(InputError) as caught:
        made(*pairs, file=file, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('data = "f.csv"\nseed = 1\nC = 1.0\ntau = 1.0\nloss = "bce"\ntext = ["a", "b"]\n')
    return str(path)


def test_options_beat_pairs_beat_file_beats_defaults(file):
    assert make_config(None, [], {"data": "x.csv"}) == Config(data="x.csv")
    from_file = make_config(file, [], {})
    assert from_file == Config(data="f.csv", seed=1, C=1.0, tau=1.0, loss="bce", text=("a", "b"))
    with_pairs = make_config(file, ["seed=2", "C=2"], {})
    assert (with_pairs.seed, with_pairs.C, with_pairs.tau, with_pairs.loss) == (2, 2.0, 1.0, "bce")
    with_options = make_config(file, ["seed=2", "C=2"], {"seed": 3, "data": "o.csv"})
    assert (with_options.seed, with_options.C, with_options.data) == (3, 2.0, "o.csv")
    # The last of two equal pairs counts, and an option that is None says nothing.
    assert make_config(file, ["seed=2", "seed=5"], {"seed": None, "loss": None}).seed == 5
    assert make_config(file, [], {"loss": None}).loss == "bce"


def test_false_and_zero_are_said(file):
    assert make_config(file, [], {"seed": 0, "drop_unlabelled": False}).seed == 0


@pytest.mark.parametrize(
    ("pair", "key", "value"),
    [
        ("C=10", "C", 10.0),
        (" C = 1e-3 ", "C", 0.001),
        ("C=auto", "C", "auto"),
        ('C="auto"', "C", "auto"),
        ("tau=0", "tau", 0.0),
        ("decision=cardinality", "decision", "cardinality"),
        ("tau=1.5", "tau", 1.5),
        ("tau='2'", "tau", 2.0),
        ("max_iter=7", "max_iter", 7),
        ("drop_unlabelled=true", "drop_unlabelled", True),
        ("characters=false", "characters", "off"),
        ("kernel=off", "kernel", "off"),
        ("neighbours=true", "neighbours", "auto"),
        ("loss=bce", "loss", "bce"),
        ("label_sep=;", "label_sep", ";"),
        ("label_sep==", "label_sep", "="),
        ('label_sep="\\t"', "label_sep", "\t"),
        ("text=title, text", "text", ("title", "text")),
        ('labels=["a,b", "c"]', "labels", ("a,b", "c")),
        ("features=标签", "features", ("标签",)),
        ("test=a b.csv", "test", "a b.csv"),
        ("out=runs/[x]", "out", "runs/[x]"),
    ],
)
def test_pairs_are_read_as_toml_and_else_as_text(pair, key, value):
    config = made(pair)
    assert getattr(config, key) == value
    assert type(getattr(config, key)) is type(value)


def test_options_are_read_as_typed():
    config = made(text="title,text", labels=("a", "b"), tau="1.5", features=None)
    assert (config.text, config.labels, config.tau, config.features) == (("title", "text"), ("a", "b"), 1.5, None)
    assert made(tau="auto").tau == "auto"


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("tua=1", r"'tua' is no option of train. Did you mean tau? Known: C, characters, data, "),
        ("seeds=1", "'seeds' is no option of train. Did you mean seed? Known: "),
        ("zzzzzzzz=1", "'zzzzzzzz' is no option of train. Known: "),
        ("seed", "--set expects KEY=VALUE, such as --set C=10; got 'seed'."),
        ("seed=-1", "seed expects a whole number of 0 or more; got -1."),
        ("seed=1.5", "seed expects a whole number of 0 or more; got 1.5."),
        ("seed=true", "seed expects a whole number of 0 or more; got True."),
        ("seed=x", "seed expects a whole number of 0 or more; got 'x'."),
        ("max_iter=0", "max_iter expects a whole number of 1 or more; got 0."),
        ("max_iter=auto", "max_iter expects a whole number of 1 or more; got 'auto'."),
        ("C=0", "C expects auto or a number above 0; the larger, the weaker the penalty on weights; got 0."),
        ("C=-1", "C expects auto or a number above 0; "),
        ("C=nan", "C expects auto or a number above 0; "),
        ("C=inf", "C expects auto or a number above 0; "),
        ("C=true", "C expects auto or a number above 0; "),
        ("C=[1]", "C expects auto or a number above 0; "),
        ("C=best", "; got 'best'."),
        (
            "tau=-0.1",
            "tau expects auto or a number 0 or more, such as 1 (the full prior is between 1 and 2); got -0.1.",
        ),
        ("tau=inf", "tau expects auto or a number 0 or more"),
        ("tau=full", "tau expects auto or a number 0 or more"),
        ("tau=false", "tau expects auto or a number 0 or more"),
        ("loss=hinge", f"loss expects one of {', '.join(LABEL_LOSSES)}; got 'hinge'."),
        ("loss=1", "loss expects text; got 1."),
        ("test=3", "test expects text; got 3."),
        ("valid=[]", "valid expects text; got []."),
        ("label_sep=1", "label_sep expects text; got 1."),
        ("label_names=true", "label_names expects text; got True."),
        ("out=1", "out expects text; got 1."),
        ("drop_unlabelled=1", "drop_unlabelled expects true or false; got 1."),
        ("drop_unlabelled=yes", "drop_unlabelled expects true or false; got 'yes'."),
        ("text=a,,b", "text expects column names with commas between, such as title,text; got 'a,,b'."),
        ("features=", "features expects column names with commas between"),
        ("labels=1", "labels expects column names with commas between, such as title,text; got 1."),
        ("labels=[1, 2]", "labels expects column names with commas between, such as title,text; got [1, 2]."),
    ],
)
def test_what_is_refused(pair, expected):
    assert expected in refused(pair)


def test_every_key_is_in_the_list_of_known_keys():
    message = refused("nonsense=1")
    known = message.split("Known: ")[1].rstrip(".").split(", ")
    assert known == sorted(field.name for field in fields(Config))


def test_data_is_needed():
    for options in ({}, {"data": None}, {"data": ""}):
        with pytest.raises(InputError, match=r"train expects a data file: manyhot train DATA, or --config FILE"):
            make_config(None, [], options)
    with pytest.raises(InputError, match=r"data expects text; got 3\."):
        make_config(None, ["data=3"], {})


def test_files_that_are_no_config(tmp_path):
    assert refused(file=str(tmp_path / "no.toml")) == (
        f"{tmp_path / 'no.toml'}: expected a config file; No such file or directory."
    )
    assert "expected a config file; it is no regular file" in refused(file=str(tmp_path))
    bad = tmp_path / "bad.toml"
    bad.write_text("seed = = 1\n")
    assert refused(file=str(bad)).startswith(f"{bad}: expected TOML such as a run's config.toml; ")
    bad.write_bytes(b'data = "\xff.csv"\n')
    assert refused(file=str(bad)).startswith(f"{bad}: expected TOML such as a run's config.toml; ")
    bad.write_text("[table]\nseed = 1\n")
    assert "'table' is no option of train." in refused(file=str(bad))
    bad.write_text("seed = 1979-05-27\n")
    assert refused(file=str(bad)).startswith("seed expects a whole number")


@pytest.mark.parametrize(
    "config",
    [
        Config(data="d.csv"),
        Config(
            data="数据 \"x\".csv",
            test="t.csv",
            valid="v.csv",
            text=("a", "b,c"),
            features=("*", "^x$"),
            labels=("y",),
            label_sep="\t",
            label_names="n.txt",
            drop_unlabelled=True,
            loss="bce",
            tau=1.25,
            C=1 / 3,
            max_iter=7,
            seed=123,
            out="runs/x",
        ),
        Config(data="d.csv", label_sep="\\", labels=("'", '"""')),
    ],
)  # fmt: skip
def test_toml_repeats_the_config_and_leaves_the_place_out(tmp_path, config):
    text = config.to_toml()
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    again = make_config(str(path), [], {})
    for field in fields(Config):
        if field.name == "out":
            assert again.out is None
        else:
            assert getattr(again, field.name) == getattr(config, field.name), field.name
    assert "out" not in tomllib.loads(text)
    assert again.to_toml() == text


def test_the_docstring_names_what_is_saved():
    # A run's config.toml repeats the run also where a default changes later: every value that matters is written.
    saved = tomllib.loads(Config(data="d.csv").to_toml())
    assert saved["loss"] == "bce"
    assert saved["tau"] == saved["C"] == "auto"
    assert saved["seed"] == 0


def test_a_decision_that_is_none_or_has_nothing_to_choose():
    assert "decision expects one of f1, cardinality, or precision=P with P above 0 and below 1, such as " in refused(
        "decision=best"
    )
    assert "and --tau 1.5 leaves nothing to choose" in refused("decision=cardinality", "tau=1.5")
    assert "and --task multiclass leaves nothing to choose" in refused("decision=cardinality", "task=multiclass")
    assert made("decision=f1", "tau=1.5").decision == "f1"
