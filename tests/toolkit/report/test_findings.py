"""What a report says, compared with small computations by hand that share no code with it."""

import json
import math
from collections import Counter
from itertools import combinations

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
import torch

import manyhot
from manyhot import load_run
from manyhot.toolkit.choose.calibrate import reliability
from manyhot.toolkit.config import Config
from manyhot.toolkit.models import linear
from manyhot.toolkit.models.model import Curve
from manyhot.toolkit.read.columns import Columns
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.report import cautions
from manyhot.toolkit.report import findings as module
from manyhot.toolkit.report.overview import lengths_of
from manyhot.toolkit.runs.evaluate import Aligned
from manyhot.toolkit.runs.predict import read_for
from manyhot.toolkit.train import train

# Of texts whose words are unknown.
pytestmark = pytest.mark.filterwarnings("ignore:.* more words that training did not know")

WORDS = {"animal": "fox bird cat", "plant": "tree rose moss", "stone": "flint slate chalk", "star": "sirius vega mira"}


def rows_of(number, seed, extra=()):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        labels = sorted(rng.choice(list(WORDS), rng.integers(1, 4), replace=False).tolist())
        said = [str(rng.choice(WORDS[label].split())) for label in labels]
        wrong = str(rng.choice(list(WORDS)))
        rows.append((" and ".join(said), sorted({*labels, wrong}) if rng.random() < 0.2 else labels))
    return [*rows, *extra]


def write(path, rows):
    path.write_text("".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows))
    return str(path)


EXTRA = [("only here", ["rare"]), ("only here", ["rare", "animal"]), ("", ["plant"]), ("nothing at all", [])]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    learned = rows_of(80, 0, EXTRA)
    tested = rows_of(40, 1, [("a ghost is not known", ["ghost", "star"]), ("only here", ["rare"])])
    data, test = write(folder / "d.jsonl", learned), write(folder / "t.jsonl", tested)
    train(Config(data=data, test=test, C=1.0, out=str(folder / "run")))
    train(Config(data=data, C=1.0, out=str(folder / "held")))
    found = {name: json.loads((folder / name / "findings.json").read_bytes()) for name in ("run", "held")}
    return folder, learned, tested, found


def test_labels_pairs_and_sizes_are_those_of_the_label_sets(trained):
    folder, learned, tested, found = trained
    predicted = [set(labels) for labels in load_run(folder / "run").predict([text for text, _ in tested])]
    truth = [set(labels) for _, labels in tested]
    names = sorted({label for _, labels in learned for label in labels})
    assert [label["name"] for label in found["run"]["labels"]] == names
    for label in found["run"]["labels"]:
        name = label["name"]
        said, true = sum(name in p for p in predicted), sum(name in t for t in truth)
        right = sum(name in p & t for p, t in zip(predicted, truth, strict=True))
        assert label["train_rows"] == sum(name in labels for _, labels in learned)
        assert (label["rows"], label["predicted"], label["right"]) == (true, said, right)
        assert label["precision"] == (pytest.approx(right / said) if said else None)
        assert label["recall"] == (pytest.approx(right / true) if true else None)
        assert label["f1"] == (pytest.approx(2 * right / (said + true)) if true else None)
        assert label["group"] == (
            "rare" if label["train_rows"] < 9 else "medium" if label["train_rows"] < 35 else "head"
        )
    sizes = found["run"]["sizes"]
    assert Counter(dict(enumerate(sizes["predicted"]))) == Counter(len(p) for p in predicted)
    assert +Counter(dict(enumerate(sizes["true"]))) == Counter(len(t) for t in truth)
    wrong = Counter((m, a) for p, t in zip(predicted, truth, strict=True) for m in t - p - {"ghost"} for a in p - t)
    often = {pair: rows for pair, rows in wrong.items() if rows >= 2}
    assert {(p["true"], p["predicted"]): p["rows"] for p in found["run"]["confused"]["pairs"]} == often
    counts = [p["rows"] for p in found["run"]["confused"]["pairs"]]
    assert counts == sorted(counts, reverse=True)
    both = Counter(pair for t in truth for pair in combinations(sorted(t), 2))
    shares = {p: n / sum(bool(set(p) & t) for t in truth) for p, n in both.items() if n >= 3}
    pairs = found["run"]["together"]["pairs"]
    assert {tuple(p["labels"]): p["share"] for p in pairs} == pytest.approx(shares)
    for pair in pairs:
        assert pair["rows"] == both[tuple(pair["labels"])]
        assert pair["predicted_rows"] == sum(set(pair["labels"]) <= p for p in predicted)


def test_what_is_confused_once_may_be_chance():
    missed = sp.csr_array(np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=bool))
    added = sp.csr_array(np.array([[0, 1, 1], [0, 1, 0], [1, 0, 0]], dtype=bool))
    pairs = module.confused(missed, added, ["a", "b", "c"])["pairs"]
    assert pairs == [{"true": "a", "predicted": "b", "rows": 2, "missed": 2}]


def test_probabilities_and_scores_are_counted(trained):
    folder, _, tested, found = trained
    run = load_run(folder / "run")
    texts = [text for text, _ in tested]
    probs, logits = run.probs(texts), run.predict_logits(texts)
    known = np.array([[name in labels for name in run.label_names] for _, labels in tested])
    counts, stated, true = np.zeros(10), np.zeros(10), np.zeros(10)
    for p, t in zip(probs.ravel().tolist(), known.ravel().tolist(), strict=True):
        counts[min(int(p * 10), 9)] += 1
        stated[min(int(p * 10), 9)] += p
        true[min(int(p * 10), 9)] += t
    np.testing.assert_allclose(found["run"]["reliability"], [counts, stated, true], rtol=1e-5)
    scores = found["run"]["scores"]
    assert (sum(scores["positives"]), sum(scores["negatives"])) == (known.sum(), (~known).sum())
    edges = np.array(scores["edges"])
    clipped = np.clip(logits, edges[0] + 1e-6, edges[-1] - 1e-6)
    for side, cells in (("positives", known), ("negatives", ~known)):
        np.testing.assert_allclose(scores[side], np.histogram(clipped[cells], edges)[0], atol=1)


def test_worst_rows_are_wrong_and_least_likely_first(trained):
    folder, learned, tested, found = trained
    run = load_run(folder / "run")
    texts = [text for text, _ in tested]
    probs, predicted = run.probs(texts).astype(float), run.predict(texts)
    known = np.array([[name in labels for name in run.label_names] for _, labels in tested])
    losses = -np.log(np.where(known, probs, 1 - probs)).sum(1)
    wrong = [i for i, (_, labels) in enumerate(tested) if set(labels) != set(predicted[i])]
    worst = found["run"]["worst"]
    assert [row["row"] - 1 for row in worst] == sorted(wrong, key=lambda i: -losses[i])[: module.WORST]
    for row in worst:
        i = row["row"] - 1
        text, labels = tested[i]
        assert row["text"] == text
        seen = {word for said, _ in learned for word in said.split()}
        unknown = {word for word in text.split() if word not in seen}
        few = len(unknown) > len(set(text.split())) / 2
        assert row["known"] == ([len(set(text.split())) - len(unknown), len(set(text.split()))] if few else None)
        assert row["loss"] == pytest.approx(losses[i], abs=1e-3)
        assert {label["name"] for label in row["right"]} == set(labels) & set(predicted[i])
        assert {label["name"] for label in row["missed"]} == set(labels) - set(predicted[i])
        assert {label["name"] for label in row["added"]} == set(predicted[i]) - set(labels)
        for label in row["missed"]:
            column = None if label["name"] == "ghost" else run.label_names.index(label["name"])
            assert label["prob"] == (None if column is None else pytest.approx(probs[i, column], abs=1e-4))
    assert any(label["name"] == "ghost" for row in worst for label in row["missed"])


def test_held_out_rows_are_those_of_the_training_file(trained):
    _, learned, _, found = trained
    held = found["held"]
    assert held["measured"] == {"part": "cross_fitted", "file": "d.jsonl", "rows": len(learned)}
    assert held["worst"]
    for row in held["worst"]:
        text, labels = learned[row["row"] - 1]
        assert row["text"] == text
        assert {label["name"] for label in row["right"] + row["missed"]} == set(labels)
    for label in held["labels"]:
        assert label["rows"] == label["train_rows"]
    # Of the calibration by other rows, as the numbers beside it.
    assert sum(held["reliability"][0]) == len(learned) * len(held["labels"])


@pytest.mark.parametrize("loss", ["bce", "zlpr"])
def test_the_curve_ends_at_the_objective_of_the_model(trained, tmp_path, monkeypatch, loss):
    folder, learned, _, _ = trained
    monkeypatch.setattr(linear, "LABELS", 2)  # blocks of labels are a sum too
    train(Config(data=str(folder / "d.jsonl"), loss=loss, C=2.0, tau=0.0, out=str(tmp_path / "plain")))
    run = load_run(tmp_path / "plain")
    truth = torch.tensor([[name in labels for name in run.label_names] for _, labels in learned])
    logits = torch.from_numpy(run.logits(read_for(run, folder / "d.jsonl", with_labels=True)))
    penalty = np.square(run.model.arrays()["weight"]).sum() / (2 * 2.0)
    of_bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.float(), reduction="sum").item()
    of_loss = manyhot.zlpr_loss(logits, truth, reduction="sum").item() if loss == "zlpr" else of_bce
    objective = (of_loss + penalty) / len(learned)
    curve = json.loads((tmp_path / "plain" / "findings.json").read_bytes())["curve"]
    assert curve["losses"][-1] == pytest.approx(objective, rel=1e-4)
    assert curve["losses"][0] > curve["losses"][-1]
    assert curve["scores"] == [None] * len(curve["losses"])


def test_a_step_whose_loss_is_infinite_is_a_gap_in_the_curve(trained, tmp_path, monkeypatch):
    original, calls = Curve.progress, []

    def progress(self, step, of, loss, score):
        calls.append(loss)
        original(self, step, of, math.inf if len(calls) == 2 else loss, score)

    monkeypatch.setattr(Curve, "progress", progress)
    train(Config(data=str(trained[0] / "d.jsonl"), loss="focal", C=2.0, out=str(tmp_path / "run")))
    losses = json.loads((tmp_path / "run" / "findings.json").read_bytes())["curve"]["losses"]
    assert losses == [calls[0], None, *calls[2:]]
    assert f"The loss goes from {calls[0]:.4f} to {calls[-1]:.4f} in" in (tmp_path / "run/report.html").read_text()


def test_warnings_say_what_is_wrong_with_the_data(trained):
    said = {w["text"]: w["labels"] for w in trained[3]["run"]["warnings"]}
    assert said == {
        "1 row has more words that training did not know than words that it did (2.4 % of those measured on). Labels "
        "there are little more than a guess.": [],
        "1 label has fewer than 9 training rows. The numbers of one of them alone say little.": ["rare"],
        "t.jsonl has 1 label that the training rows do not have (1 time), which count as missed.": ["ghost"],
        **{text: [] for text in said if "rows" in text and ("repeat" in text or "alike" in text)},
        "1 row has no label (1.2 % of the training rows). Such rows are learned as rows to which no label applies; "
        "--drop-unlabelled leaves them out.": [],
        "1 row has an empty text among the training rows.": [],
    }
    learned, tested = trained[1], trained[2]
    seen = {}
    repeated = [
        seen.setdefault(text, labels) != labels
        for text, labels in learned
        if text in seen or seen.update({text: labels})
    ]
    assert f"{len(repeated)} rows repeat an earlier training row, {sum(repeated)} of them with other labels." in said
    both = sum(text in seen for text, _ in tested)
    assert (
        f"{both} rows are in t.jsonl and among the training rows alike ({100 * both / len(tested):.1f} % of those "
        "measured on): the numbers are too good for new rows."
    ) in said
    assert any("the numbers are too good" in w["text"] for w in trained[3]["held"]["warnings"])


def test_each_label_has_the_words_that_speak_most_for_it(trained):
    folder, learned, _, found = trained
    run = load_run(folder / "run")
    X = run.features.transform(read_for(run, folder / "d.jsonl", with_labels=True)).toarray().astype(float)
    weight = run.model.arrays()["weight"].astype(float)
    terms = [term for block in run.features.blocks for term in block.terms]
    # Parts of words are not named.
    words = sum(len(block.terms) for block in run.features.blocks if block.parameters["analyzer"] == "word")
    terms, X, weight = terms[:words], X[:, :words], weight[:words]
    for i, label in enumerate(found["run"]["labels"]):
        adds = X[[label["name"] in labels for _, labels in learned]].mean(0) * weight[:, i]
        best = [terms[j] for j in np.argsort(-adds) if adds[j] > 0]
        # A pair whose words stand there already is passed over.
        assert label["words"][:2] == best[:2]
        assert set(label["words"]) <= set(best[:12])
        if label["name"] in WORDS:
            assert label["words"][0] in WORDS[label["name"]].split()


def test_numbers_and_values_speak_for_a_label_too(tmp_path):
    rng = np.random.default_rng(0)
    age, colour = rng.normal(40, 10, 200), rng.choice(["red", "green"], 200)
    table = {
        "age": age,
        "colour": colour,
        "old": (age > 45) * 1,
        "young": (age < 35) * 1,
        "warm": (colour == "red") * 1,
    }
    pl.DataFrame(table).write_csv(tmp_path / "d.csv")
    train(Config(data=str(tmp_path / "d.csv"), C=10.0, out=str(tmp_path / "run")))
    found = json.loads((tmp_path / "run" / "findings.json").read_bytes())
    words = {label["name"]: label["words"] for label in found["labels"]}
    assert (words["old"][0], words["young"][0], words["warm"][0]) == ("age high", "age low", "colour: red")
    overview = found["overview"]
    assert (overview["numbers"], overview["categories"], overview["lengths"]) == (1, 1, None)


def test_the_data_are_looked_at_first(trained):
    _, learned, _, found = trained
    overview = found["run"]["overview"]
    assert +Counter(dict(enumerate(overview["sizes"]))) == Counter(len(labels) for _, labels in learned)
    lengths = sorted(len(text.split()) for text, _ in learned)
    assert overview["lengths"]["unit"] == "words"
    assert overview["lengths"]["longest"] == lengths[-1]
    assert overview["lengths"]["median"] == int(np.median(lengths))
    assert sum(overview["lengths"]["counts"]) == len(learned)
    together = lengths_of(["质量很好", "好", "质量"])
    assert (together["unit"], together["longest"], together["median"]) == ("characters", 4, 2)


def test_without_rows_nothing_of_a_row_is_written(trained, tmp_path):
    folder = trained[0]
    train(Config(data=str(folder / "d.jsonl"), C=1.0, no_rows=True, out=str(tmp_path / "run")))
    found = json.loads((tmp_path / "run" / "findings.json").read_bytes())
    assert (found["worst"], found["box"]) == (None, None)
    assert [label["words"] for label in found["labels"]] == [[]] * len(found["labels"])
    assert "application/json" not in (tmp_path / "run" / "report.html").read_text()
    texts = [row["text"] for row in trained[3]["held"]["worst"] if " and " in row["text"]]
    assert texts
    for name in ("findings.json", "report.html", "run.json", "log.jsonl"):
        content = (tmp_path / "run" / name).read_text()
        assert not [text for text in texts if text in content]
    assert "No row of the data is in this file" in (tmp_path / "run" / "report.html").read_text()


def test_classes_get_true_and_predicted(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 3)), rng.integers(0, 3, 90)
    X[np.arange(90), y] += 1.5
    frame = pl.DataFrame(X, schema=["a", "b", "c"]).with_columns(pl.Series("label", [f"class {i}" for i in y]))
    frame[:60].write_csv(tmp_path / "d.csv")
    frame[60:].write_csv(tmp_path / "t.csv")
    config = Config(
        data=str(tmp_path / "d.csv"), test=str(tmp_path / "t.csv"), labels=("label",), task="multiclass",
        loss="ce+prior", C=1.0, out=str(tmp_path / "run"),
    )  # fmt: skip
    train(config)
    found = json.loads((tmp_path / "run" / "findings.json").read_bytes())
    run = load_run(tmp_path / "run")
    predicted = [labels[0] for labels in run.predict(frame[60:])]
    truth = frame["label"][60:].to_list()
    wrong = Counter((t, p) for t, p in zip(truth, predicted, strict=True) if t != p)
    assert wrong
    often = {pair: rows for pair, rows in wrong.items() if rows >= 2}
    assert {(p["true"], p["predicted"]): p["rows"] for p in found["confused"]["pairs"]} == often
    assert found["together"] is None
    probs = run.probs(frame[60:])
    counts, stated, right = np.asarray(found["reliability"])
    assert counts.sum() == 30
    assert stated.sum() == pytest.approx(probs.max(1).sum(), rel=1e-5)
    # The calibration has an offset a class, so that the likeliest class need not be the one with the largest logit.
    assert right.sum() == sum(run.label_names[i] == t for i, t in zip(probs.argmax(1), truth, strict=True))
    row = found["worst"][0]
    cells = frame[60 + row["row"] - 1]
    assert row["text"] == ", ".join(f"{name}: {cells[name][0]:g}" for name in "abc")
    loss = -np.log(probs[row["row"] - 1, run.label_names.index(truth[row["row"] - 1])])
    assert row["loss"] == pytest.approx(float(loss), abs=1e-3)


def test_rows_keep_their_number_where_others_are_left_out(tmp_path):
    rows = rows_of(60, 2)
    with_gaps = [line for row in rows for line in (("nothing", []), row)]
    data = write(tmp_path / "d.jsonl", with_gaps)
    train(Config(data=data, test=data, C=1.0, drop_unlabelled=True, out=str(tmp_path / "run")))
    found = json.loads((tmp_path / "run" / "findings.json").read_bytes())
    assert found["worst"]
    for row in found["worst"]:
        assert with_gaps[row["row"] - 1][0] == row["text"]


def test_reliability_adds_over_blocks():
    rng = np.random.default_rng(0)
    probs, truth = rng.random((50, 4)), rng.random((50, 4)) < 0.5
    probs[0] = [0.0, 1.0, 0.1, 0.95]
    whole = reliability(probs, truth)
    np.testing.assert_allclose(whole, reliability(probs[:20], truth[:20]) + reliability(probs[20:], truth[20:]))
    np.testing.assert_allclose(whole.sum(1), [200, probs.sum(), truth.sum()])


def test_blocks_and_chosen_rows_change_nothing_but_memory(trained, monkeypatch):
    rng = np.random.default_rng(0)
    logits, known = rng.normal(size=(200, 12)).astype(np.float32), rng.random((200, 12)) < 0.3
    whole = module.score_histogram(logits, known)
    edges = whole["edges"]
    for side, cells in (("positives", logits[known]), ("negatives", logits[~known])):
        assert whole[side][0] == (cells < edges[1]).sum()
        assert whole[side][-1] == (cells >= edges[-2]).sum()
    assert whole["negatives"][0] > 1
    monkeypatch.setattr(module, "BLOCK_CELLS", 100)
    assert module.score_histogram(logits, known) == whole
    names = [str(i) for i in range(12)]
    cells, preds = sp.csr_array(known), sp.csr_array(logits > 0)
    monkeypatch.setattr(module, "MOST_PAIRS", int((known.sum(1) ** 2).sum()) // 4 + 1)
    every = module.together(cells, preds, names)
    assert every["rows"] == 50
    assert every["pairs"] == module.together(cells[::4], preds[::4], names)["pairs"]


@pytest.mark.parametrize("kind", ["dense", "sparse", "text", "categories"])
def test_fingerprints_tell_rows_apart_by_all_they_hold(kind):
    numbers = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [np.nan, 0.0]], dtype=np.float32)
    parts = {
        "dense": {"numbers": numbers},
        "sparse": {"numbers": sp.csr_array(numbers)},
        "text": {"texts": ["a", "b", "a", "c"], "numbers": None},
        "categories": {"categories": pl.DataFrame({"x": ["a", "b", "a", None], "y": ["1", "1", "1", "1"]})},
    }[kind]
    examples = Examples(**{"source": "x", "texts": None, "numbers": None, "targets": None, "label_names": [], **parts})
    first, second, third, fourth = cautions.fingerprints(examples)
    assert first == third
    assert len({first, second, fourth}) == 3


def test_excerpts():
    assert module.excerpt("a\n\tb \x00 c\x1b") == "a b \ufffd c\ufffd"
    long = module.excerpt("word " * 100)
    assert len(long) <= module.EXCERPT
    assert long.endswith("word…")
    assert module.excerpt("é" * module.EXCERPT) == "é" * module.EXCERPT


def test_labels_that_nothing_is_known_of_are_warned_of():
    targets = sp.csr_array(np.eye(30, dtype=bool)[:, :25])
    examples = Examples("d.csv", [f"row {i}" for i in range(30)], None, targets, [])
    rows = module.of_labels(
        targets, targets, targets, [f"l{i}" for i in range(25)], np.r_[np.zeros(2), np.full(23, 40)]
    )
    rows[3] |= {"rows": 0}
    aligned = Aligned(targets.toarray(), np.zeros((30, 0), bool), [])

    def warnings(rows):
        return cautions.warnings_of(examples, "valid", examples, aligned, rows)

    said = [(w["text"].split(".")[0], w["labels"], w["more"]) for w in warnings(rows)]
    assert said[0] == ("2 labels have no training row at all and cannot be learned", ["l0", "l1"], 0)
    assert said[1] == ("1 label has no row among those measured on", ["l3"], 0)
    rows = [row | {"train_rows": 3, "group": "rare", "predicted": 0} for row in rows]
    said = [(w["text"].split(".")[0], len(w["labels"]), w["more"]) for w in warnings(rows)]
    assert said[0] == ("25 labels have fewer than 9 training rows", 20, 5)
    assert said[2] == ("24 labels are never predicted, though measured rows have them", 20, 4)


def test_cells_of_columns_are_shown_with_their_names():
    examples = Examples(
        "d.csv", ["a  text"], np.array([[1.5, np.nan]], np.float32), None, [], pl.DataFrame({"0": ["red"]})
    )
    columns = Columns(text=("t",), features=("size", "age"), categories=("colour",))
    assert module.excerpt_of(examples, 0, columns) == "a text colour: red, size: 1.5, age: missing"
