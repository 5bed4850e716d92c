"""Reports: what they say, that nothing from data is code in them, and how they are written. Without a browser."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from command import as_json, bad, call
from compared import comparison
from manyhot.toolkit.disk.run_folder import COMPARISON, to_json, write_folder
from manyhot.toolkit.errors import visible
from manyhot.toolkit.report import plots
from manyhot.toolkit.report.render import MOST_LABELS, render_comparison, render_run, shown_labels
from manyhot.toolkit.report.suspects import rows_shown
from manyhot.toolkit.report.write import write_report
from reported import IMAGE, LONG, NAMES, SAID, SCRIPT, train_hostile

VOID = {"meta", "link", "input", "br", "wbr", "img"}


class Page(HTMLParser):
    """A page as (tag, attributes) in order, with the text in each; raises where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), [*self.open]))
        self.texts.append("")
        if tag not in VOID:
            self.open.append(tag)
            self.path = len(self.tags) - 1

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), [*self.open]))
        self.texts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data

    def all(self, tag):
        return [attributes for name, attributes, _ in self.tags if name == tag]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return train_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def findings(hostile):
    return json.loads((hostile / "findings.json").read_bytes())


@pytest.fixture(scope="module")
def pages(hostile):
    return {"run": (hostile / "report.html").read_text(), "comparison": render_comparison(comparison())}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def text_of(page):
    return " ".join(re.sub(r"<[^>]*>", " ", page[page.index("<main") :]).replace("&nbsp;", " ").split())


# --- nothing in it is code, and nothing is fetched


def test_nothing_from_data_is_markup(pages, findings):
    page = Page(pages["run"])
    # One is the page's own, the other holds data alone.
    assert page.all("script") == [{"type": "application/json", "id": "model"}, {}]
    assert page.all("img") == page.all("iframe") == page.all("object") == page.all("b") == page.all("i") == []
    assert not [name for _, attributes, _ in page.tags for name in attributes if name.startswith("on")]
    assert SCRIPT not in pages["run"]
    assert IMAGE not in pages["run"]
    assert "{{ 7 * 7 }} {% raw %}" in "".join(page.texts)
    assert "window.hacked" in "".join(page.texts)
    # Long names are cut; a word of a text that is as long stands among the words of the box.
    assert LONG not in re.sub(r'<script type="application/json".*?</script>', "", pages["run"])
    assert [label["name"] for label in findings["labels"]] == sorted(NAMES)


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_nothing_is_fetched(pages, kind):
    page = Page(pages[kind])
    links = [
        attributes[key]
        for _, attributes, _ in page.tags
        for key in ("src", "href", "action", "data")
        if key in attributes
    ]
    assert links
    assert [link for link in links if not link.startswith("#") and link != "data:,"] == []
    assert not re.search(r"@import|url\((?!#)", pages[kind])
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "script-src 'sha256-" in policy


def test_names_stand_apart_so_that_their_direction_ends_with_them(pages, findings):
    page = Page(pages["run"])
    names = [
        text.strip(" ")
        for (tag, attributes, _), text in zip(page.tags, page.texts, strict=True)
        if tag == "bdi" and attributes.get("dir") == "auto"
    ]
    shown = {label["name"] if len(label["name"]) <= 120 else label["name"][:119] + "…" for label in findings["labels"]}
    assert {visible(name) for name in shown} <= set(names)
    assert [a["dir"] for a in page.all("blockquote")] == ["auto"] * len(findings["worst"])


# --- for everyone


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_structure_can_be_followed_without_seeing(pages, kind):
    page = Page(pages[kind])
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes, _ in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in page.tags:
        for key in ("aria-labelledby", "for", "data-table"):
            assert set(attributes.get(key, "").split()) <= set(ids), (key, attributes)
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    heads = [(attributes, inside) for tag, attributes, inside in page.tags if tag == "th"]
    assert heads
    assert all(attributes["scope"] == ("col" if "thead" in inside else "row") for attributes, inside in heads)
    assert all({"role": "img"}.items() <= a.items() and a["aria-labelledby"] for a in page.all("svg"))
    assert len(page.all("desc")) == len(page.all("svg")) > 3
    fields = [a["id"] for tag in ("textarea", "input", "select") for a in page.all(tag)]
    assert fields
    assert sorted(a["for"] for a in page.all("label")) == sorted(fields)
    assert all(a.get("tabindex") == "0" for a in page.all("div") if "scroll" in a.get("class", ""))
    assert "@media print" in pages[kind]
    assert "prefers-color-scheme: dark" in pages[kind]
    # Text is in the colours of the page, never in one that a dark page swallows.
    assert "#000001" not in pages[kind]
    assert not re.search(r"(fill|stroke): #[0-9a-f]", pages[kind])


# --- what it says


def test_the_first_screen_says_it_in_plain_words(pages, findings):
    said = text_of(pages["run"])
    metrics = findings["metrics"]["test"]
    assert "A linear model learned from 120 rows which of 9 labels a row has." in said
    assert "All numbers here are of 60 rows of t&amp;t.jsonl that it did not learn from ." in said
    assert f"This file holds excerpts of {rows_shown(findings)} rows of the data" in said
    assert f"{100 * metrics['micro_f1']:.1f} % micro-F1 How well predicted labels" in said
    assert f"{100 * metrics['macro_f1']:.1f} % macro-F1" in said
    assert "- rare-F1 No label has as few as 1 to 8 training rows." in said
    true, predicted = metrics["labels_per_row_true"], metrics["labels_per_row_predicted"]
    assert f"{predicted:.2f} (true {true:.2f}) labels a row" in said
    reached = sum(label["f1"] >= 0.5 for label in findings["labels"])
    assert f"Of 9 labels that measured rows have, {reached} reach an F1 of 50 % or more." in said
    for key in ("samples_f1", "lrap", "ece"):
        assert f"{100 * findings['metrics']['cross_fitted'][key]:.1f}" in said


@pytest.mark.parametrize(
    ("predicted", "sentence"),
    [(2.0, "about as many labels as"), (1.8, "10 % fewer labels than"), (3.0, "50 % more labels than")],
)
def test_the_number_of_labels_is_judged(findings, predicted, sentence):
    metrics = findings["metrics"]["test"] | {"labels_per_row_predicted": predicted, "labels_per_row_true": 2.0}
    page = render_run(findings | {"metrics": findings["metrics"] | {"test": metrics}})
    assert f"It predicts {sentence} there are." in text_of(page)


def test_probabilities_are_put_into_one_sentence(findings):
    sums = [
        [100.0, 0, 0, 0, 0, 7, 30, 20, 5, 9],
        [2.0, 0, 0, 0, 0, 4, 19.5, 15.5, 4, 8],
        [1.0, 0, 0, 0, 0, 7, 10, 15, 5, 9],
    ]
    assert "Where it states 60 to 80 %, on the mean 70 %, 50 % of 50 labels are true." in text_of(
        render_run(findings | {"reliability": sums})
    )
    few = [[100.0, *[0] * 9], [2.0, *[0] * 9], [1.0, *[0] * 9]]
    assert "Few probabilities lie between 60 and 80 %" in text_of(render_run(findings | {"reliability": few}))


def test_a_report_of_held_out_rows_says_so(findings):
    held = {"part": "cross_fitted", "file": "d.csv", "rows": 120}
    said = text_of(render_run(findings | {"measured": held}))
    assert (
        "All numbers here are of 120 training rows, each predicted by a model that was fitted without it; penalty and "
        "prior were chosen by the same rows ."
    ) in said


def test_many_labels_fit_on_a_page(findings):
    label = findings["labels"][4]
    thousand = [label | {"name": f"label {i}", "train_rows": i} for i in range(1000)]
    page = render_run(findings | {"labels": thousand})
    assert len(page.encode()) < 2_000_000
    assert page.count('<bdi dir="auto">label ') >= 1000
    assert "are left out here" not in page


def test_of_too_many_labels_the_rare_and_the_worst_are_kept():
    number = MOST_LABELS + 500
    labels = [{"name": str(i), "train_rows": i, "f1": None if i % 7 == 0 else (i % 100) / 100} for i in range(number)]
    shown = shown_labels(labels)
    rare, rest = labels[: MOST_LABELS // 2], labels[MOST_LABELS // 2 :]
    worst = sorted((label for label in rest if label["f1"] is not None), key=lambda label: label["f1"])
    assert len(shown) == MOST_LABELS
    assert shown[: MOST_LABELS // 2] == rare
    kept = {label["name"] for label in shown}
    assert {label["name"] for label in worst[: MOST_LABELS // 2]} == kept - {label["name"] for label in rare}
    assert shown_labels(labels[:MOST_LABELS]) == labels[:MOST_LABELS]


def test_a_comparison_says_who_wins(pages):
    said = text_of(pages["comparison"])
    assert "Use the default, zlpr+prior : micro-F1 ahead of bce+label-thresholds" in said
    assert "manyhot train reviews.csv --test test.csv" in said
    assert (
        "ahead micro-F1 zlpr+prior , the default, is ahead of the best rival, bce+label-thresholds : 91.0 % beside "
        "88.0 %, +3.0 points (95 % interval +1.0 to +5.0)." in said
    )
    assert (
        "behind macro-F1 zlpr+prior , the default, is behind the best rival, bce+label-thresholds : 72.0 % beside "
        "77.0 %, −5.0 points (95 % interval −8.0 to −2.0)." in said
    )
    assert "asl : it &lt;diverged&gt;" in said
    assert "This file holds excerpts of 1 row of the data" in said
    assert "3 rows repeat an earlier training row." in said
    assert "so &lt;b&gt;good&lt;/b&gt;" in said
    assert "200 rows of test.csv that no method learned from" in said


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ([0.001, 0.05], "ahead"),
        ([-0.001, 0.05], "no clear difference"),
        ([-0.05, -0.001], "behind"),
        ([0.0, 0.05], "no clear difference"),
    ],
)
def test_a_difference_within_chance_is_not_clear(interval, word):
    compared = comparison()
    compared["methods"][0]["differences"]["micro_f1"]["interval"] = interval
    assert (
        f'<div class="card {word.replace(" ", "-")}"><p class="value">{word}</p><h3>micro-F1</h3>'
        in render_comparison(compared)
    )


def test_a_comparison_of_folds_and_one_without_a_side(pages):
    compared = comparison()
    compared["design"] = {"kind": "folds", "folds": 3, "rows": 240}
    compared["methods"], compared["best"] = compared["methods"][1:], {"micro_f1": {"ours": None, "rival": "focal"}}
    said = text_of(render_comparison(compared))
    assert "240 rows, each measured once, by models fitted without it (3 parts)" in said
    assert "There is nothing to compare" in said
    other = comparison()
    other["default"] = "not compared"
    assert "zlpr+prior , the best of ours, is behind the best rival, bce+label-thresholds : " in text_of(
        render_comparison(other)
    )
    compared["methods"] = compared["methods"][-1:]
    assert "it &lt;diverged&gt;" in text_of(render_comparison(compared))


# --- plots


def test_intervals_of_shares():
    low, high = plots.wilson(plots.np.array([0.0, 0.5, 1.0]), plots.np.array([10.0, 10, 10]))
    # scipy.stats.binomtest(k, 10).proportion_ci(method="wilson") of 0, 5 and 10.
    assert low.tolist() == pytest.approx([0, 0.2365931, 0.7224672], abs=1e-6)
    assert high.tolist() == pytest.approx([0.2775328, 0.7634069, 1], abs=1e-6)


def test_bars_above_the_last_are_added_to_it():
    svg = plots.plot_sizes([0, 5] + [1] * 40, [1, 2, 3], most=10)
    assert "10: 0 true, 32 predicted." in svg
    assert "1: 2 true, 5 predicted; 2: 3 true, 1 predicted;" in svg


def test_the_last_fit_is_drawn_with_what_stopped_it(findings):
    assert "penalty included, after each iteration" in text_of(render_run(findings))
    stopped = findings | {
        "chosen": {name: value for name, value in findings["chosen"].items() if name != "solver"},
        "curve": {"losses": [3.0, 2.0, 1.0, 2.5, 1.5], "scores": [0.5, 0.8, 0.7, None, None]},
    }
    few = stopped | {"curve": {"losses": [2.5, 1.5], "scores": [None, None]}}
    assert "The loss of all rows in each epoch." in text_of(render_run(few))
    said = text_of(render_run(stopped))
    assert "First nine tenths of the rows were learned" in said
    assert (
        "The loss goes from 2.5000 to 1.5000 in 2 epochs; the score of rows held out is best at 80.0%, and 70.0% "
        "after 3." in said
    )


@pytest.mark.parametrize("rows", [7, 1357, 99_999, 9_000_000])
def test_what_the_rows_of_a_small_plot_are_stands_in_it(rows):
    svgs = [
        plots.plot_frequencies("a", "b", [rows, 3, 1], xlabel="c"),
        plots.plot_bars("a", "b", [rows, 3, 1], xlabel="c"),
        plots.plot_counts("a", "b", [rows, 3], [0, 5, 10], xlabel="c"),
    ]
    for svg in svgs:
        place = re.search(
            r'<text style="font-size: (\d+)px[^>]* x="([\d.]+)"[^>]*rotate\(-90[^>]*>(?:training )?rows', svg
        )
        assert place is not None
        assert float(place[2]) > float(place[1])
        assert max(map(len, re.findall(r"<text[^>]*>([\d,.kM]+)<", svg))) <= len("1,000")
    assert (">10k<" in svgs[0]) == (rows > 10_000)
    assert (">1M<" in svgs[0]) == (rows > 1_000_000)


def test_plots_are_the_same_each_time(findings):
    assert render_run(findings) == render_run(findings)


# --- the command


def test_the_command_renders_what_training_rendered(hostile, here):
    stdout, stderr = call(f"report {hostile}")
    rows = rows_shown(json.loads((hostile / "findings.json").read_bytes()))
    assert (stdout, stderr) == (
        "",
        f"wrote hostile-report.html: the report of a run, with excerpts of {rows} rows of the data\n",
    )
    assert Path("hostile-report.html").read_bytes() == (hostile / "report.html").read_bytes()
    assert as_json(f"report {hostile} -o x.html --no-rows") == {"out": "x.html", "kind": "run", "rows": 0}
    page = Path("x.html").read_text()
    assert "<blockquote" not in page
    assert "No row of the data is in this file" in page
    assert 'id="worst"' not in page
    assert not [word for word in SAID if word in page]


def test_texts_of_plots_are_of_any_script_and_nothing_in_them_is_obeyed(recwarn):
    svg = plots.drawn("a", "b", "c", lambda axes: axes.set_xlabel("\u6f22\x1b\u202e"))
    assert not recwarn.list
    assert "\u6f22\\x1b\\u202e" in svg


def test_the_command_tells_a_comparison_from_a_run(here):
    content = to_json(comparison())
    write_folder(here / "c", {"compare.json": content, "config.toml": b"", "report.html": b"x"}, COMPARISON)
    _, stderr = call("report c")
    assert stderr == "wrote c-report.html: the report of a comparison, with excerpts of 1 row of the data\n"
    assert Path("c-report.html").read_text() == render_comparison(comparison())
    assert as_json("report c -o x.html --no-rows") == {"out": "x.html", "kind": "comparison", "rows": 0}
    page = Path("x.html").read_text()
    assert "<blockquote" not in page
    assert 'id="hard"' not in page
    assert "No row of the data is in this file" in page
    write_folder(here / "d", {"compare.json": b'{"methods": 3}', "config.toml": b"", "report.html": b"x"}, COMPARISON)
    assert bad("report d").startswith("d/compare.json: expected what `manyhot compare` wrote, but it is damaged: ")
    many = comparison() | {"methods": comparison()["methods"] * 100}
    write_folder(here / "e", {"compare.json": to_json(many), "config.toml": b"", "report.html": b"x"}, COMPARISON)
    assert "methods, where 100 are the most" in bad("report e")
    Path("c/compare.json").write_bytes(content + b" ")
    assert "c/compare.json: changed since it was written" in bad("report c")


def test_places_that_cannot_be(hostile, here):
    assert bad("report nothing") == (
        "nothing: expected the folder of a run or a comparison, as `manyhot train` and `manyhot compare` write it; "
        "there is none."
    )
    Path("empty").mkdir()
    assert bad("report empty") == (
        "empty: expected a run folder, but manifest.json is missing; train again, or restore the folder from a copy."
    )
    assert bad(f"report {hostile} -o x.pdf") == "x.pdf: expected an output that ends in .html."
    assert bad(f"report {hostile} -o no/x.html") == "no/x.html: expected a file in a folder that exists."
    message = bad(f"report {hostile} -o {hostile}/x.html")
    assert message.endswith(
        "expected a file outside of the folder, whose files no longer change; choose another --out."
    )


def test_a_full_disk_leaves_the_report_that_was_there(hostile, here, monkeypatch):
    Path("x.html").write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device", "x.html")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(hostile, Path("x.html"))
    assert sorted(path.name for path in here.iterdir()) == ["x.html"]
    assert Path("x.html").read_text() == "old"
