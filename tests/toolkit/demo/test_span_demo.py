"""The demo on spans: a run, numbers beside binary cross-entropy, and sentences with their spans marked."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import manyhot
from command import bad, call
from manyhot.toolkit.demo import spans as demo
from manyhot.toolkit.spans.inputs import read_spans


@pytest.fixture(autouse=True)
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take some of the sample, for one epoch."""

    def some(config):
        training = read_spans(config)
        assert training.test is not None
        return replace(training, train=training.train.taken(range(60)), test=training.test.taken(range(50)))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "read_spans", some)
    monkeypatch.setattr(demo, "EPOCHS", 1)


def test_the_demo_writes_a_run_and_measures_its_rivals() -> None:
    stdout, stderr = call("demo --task spans --out run")
    assert "learning from 60 sentences" in stderr
    head = next(line for line in stdout.splitlines() if line.startswith("on test rows"))
    assert re.split(r" {2,}", head) == ["on test rows", *demo.METHODS]
    for name in list(demo.METHODS)[1:]:
        assert f"Beside {name}: " in stdout
    # Three sentences, each true and as found with each method that is drawn, in columns.
    lines = stdout.splitlines()
    for name in ("true", *demo.DRAWN):
        assert sum(line.lstrip().startswith(f"{name}  ") and not line.startswith("on ") for line in lines) == 3, name
    assert 'try     manyhot predict run "' in stderr
    run = manyhot.load_run("run")
    assert len(run.predict(["Angela Merkel besuchte Rom."])) == 1
    assert run.nested
    assert "a, b" not in bad("demo --task spans --out run")
    assert bad("demo --task digits") == "--task expects one of multilabel, spans; got 'digits'."


def test_sentences_are_drawn_with_their_spans() -> None:
    spans = [(0, 3, "ORG"), (2, 3, "LOC"), (4, 5, "PER")]
    tokens = ["University", "of", "Rome", "hired", "Ada"]
    assert demo.bracketed(tokens, spans) == "[University of [Rome]LOC]ORG hired [Ada]PER"


def test_the_sample_is_small_and_says_whose_it_is() -> None:
    folder = Path(demo.__file__).parent / demo.SAMPLE
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000
    licence = (folder / "LICENSE.txt").read_text()
    assert "Benikova" in licence
    assert "Creative Commons Attribution 4.0 International Public License" in licence
