"""Reports in a real browser: sorting, searching, no errors, no requests, and that pages fit. For `make browser`."""

import json
import random
import shutil

import numpy as np
import polars as pl
import pytest

from compared import comparison
from manyhot import load_run
from manyhot.toolkit.compare.methods import METHODS
from manyhot.toolkit.config import Config, make_config
from manyhot.toolkit.listener import Listener
from manyhot.toolkit.read.examples import Examples
from manyhot.toolkit.report.render import render_comparison, render_run
from manyhot.toolkit.report.scorer import Scorer, scorer_of
from manyhot.toolkit.report.write import write_report
from manyhot.toolkit.spans.compare import compare_spans
from manyhot.toolkit.spans.methods import make_span_comparison
from manyhot.toolkit.spans.train import train_spans
from manyhot.toolkit.train import train
from reported import IMAGE, NAMES, SAID, SCRIPT, train_hostile
from span_rows import sentences, write_jsonl

CHROMIUM = shutil.which("chromium")
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")]


KINDS = ["run", "numbers", "chinese", "no rows", "comparison", "whole comparison", "spans", "span comparison"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    compared, whole = folder / "comparison.html", folder / "whole.html"
    compared.write_text(render_comparison(comparison()), encoding="utf-8")
    whole.write_text(render_comparison(of_every_method()), encoding="utf-8")
    found = {"run": train_hostile(folder) / "report.html", "comparison": compared, "whole comparison": whole}
    for kind, made in (("numbers", columns), ("chinese", chinese)):
        found[kind] = made(folder / kind)
    write_report(found["run"].parent, folder / "no-rows.html", with_rows=False)
    return found | {"no rows": folder / "no-rows.html"} | span_pages(folder)


def of_every_method():
    """Return a comparison of all methods, many labels, and as many hard rows as there can be."""
    said = comparison()
    fine = [method for method in said["methods"] if method["error"] is None]
    labels = [f"label {i}" for i in range(120)]
    methods = [
        fine[i % len(fine)] | {"name": method.name, "what": method.what, "label_f1": [0.5] * len(labels)}
        for i, method in enumerate(METHODS)
    ]
    warnings = [{"text": f"A sentence about {i} rows of the data.", "labels": labels, "more": 0} for i in range(5)]
    counts = {"train_counts": [30] * 120, "test_counts": [9] * 120, "labels": labels, "warnings": warnings}
    hard = [said["hard"][0] | {"row": i, "text": "Once more. " * 25} for i in range(50)]
    return said | counts | {"methods": methods, "hard": hard}


def columns(out):
    """Train on numbers, of which some cells are missing, and a category; parts of a kernel stand beside them."""
    chance = np.random.default_rng(0)
    X = chance.normal(size=(160, 3)).astype(np.float32)
    colour = chance.choice(["red", "green", "<b>blue"], 160)
    y = {"tall": X[:, 0] > 0.3, "round": np.square(X).sum(1) < 2, "warm": (colour == "red") | (X[:, 1] > 1)}
    table = pl.DataFrame(X, schema=["height", "<i>weight", "dose"]).with_columns(colour=pl.Series(colour))
    dose = pl.when(pl.int_range(160) % 9 > 0).then("dose").alias("dose")
    table.with_columns(dose, **{name: pl.Series(v * 1) for name, v in y.items()}).write_csv(out.with_suffix(".csv"))
    train(Config(data=str(out.with_suffix(".csv")), C=10.0, out=str(out)))
    # Landmarks of a kernel are rows as neighbours are; here these are taken from a run that has both.
    page, said = out.with_suffix(".html"), json.loads((out / "findings.json").read_bytes())
    scorer = scorer_of(voteless(out))
    assert isinstance(scorer, Scorer)
    box = {"model": scorer.data(), "why": None, "rows": 160, "off": 0}
    page.write_text(render_run(said | {"box": box}), encoding="utf-8")
    return page


def voteless(folder):
    run = load_run(folder)
    run.neighbours = None
    return run


def chinese(out):
    """Train on texts whose words are written together."""
    chance = random.Random(0)
    said = {"食物": "汤很热面包好吃鱼新鲜", "服务": "服务员亲切等了一小时", "价格": "太贵了价格公道账单"}
    rows = []
    for _ in range(90):
        labels = chance.sample(list(said), chance.randint(1, 2))
        rows.append({"text": " ".join("".join(chance.sample(said[i], 5)) for i in labels), "labels": labels})
    out.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(Config(data=str(out.with_suffix(".jsonl")), neighbours="off", C=10.0, out=str(out)))
    return out / "report.html"


def span_pages(folder):
    """Train on spans inside of others, and compare losses, for an epoch or two: most is wrong then."""
    long = ["Donaudampfschifffahrtsgesellschaftskapitän" * 3, "<b>&", "\u05d0\u05d1", "met", "Ada", "Lovelace"] * 12
    rows = [*sentences(40, nested=True), (long, [(0, 3, "<i>" * 30), (1, 3, "LOC"), (4, 6, "PER")])]
    data = write_jsonl(folder / "spans.jsonl", rows)
    test = write_jsonl(folder / "test.jsonl", [*sentences(20, 1, nested=True), rows[-1]])
    asked = {"data": data, "test": test, "task": "spans", "epochs": 2}
    train_spans(make_config(None, [], asked | {"out": str(folder / "of-spans")}))
    config = make_config(None, [], asked | {"out": str(folder / "compared-spans")})
    compare_spans(make_span_comparison(config, "zlpr,bce+bias", 3, 1), Listener(), command=["manyhot", "compare"])
    return {
        "spans": folder / "of-spans" / "report.html",
        "span comparison": folder / "compared-spans" / "report.html",
    }


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, pages):
    """Open a page by kind; at the end nothing may have gone wrong and nothing have been asked for but the page."""
    contexts, wrong, asked = [], [], []

    def open_(kind, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[kind].as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert wrong == []
    assert [
        url for url in asked if not url.startswith("data:") and url not in {p.as_uri() for p in pages.values()}
    ] == []


def column(page, table, number):
    return page.locator(f"{table} tbody tr:not([hidden]) > :nth-child({number})").all_inner_texts()


def numbers(texts):
    return [float(text.replace(",", "")) for text in texts if text != "-"]


def test_tables_are_sorted_by_click_and_by_key(opened):
    page = opened("run")
    head = page.locator("#label-table th").nth(7)
    before = column(page, "#label-table", 1)
    assert len(before) == len(NAMES)
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    f1 = column(page, "#label-table", 8)
    assert numbers(f1) == sorted(numbers(f1), reverse=True)
    assert len(set(f1)) > 3
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers(column(page, "#label-table", 8)) == sorted(numbers(f1))
    name = page.locator("#label-table th").first
    name.get_by_role("button").focus()
    page.keyboard.press("Space")
    assert (name.get_attribute("aria-sort"), head.get_attribute("aria-sort")) == ("ascending", "none")
    assert sorted(column(page, "#label-table", 1)) == sorted(before)
    assert column(page, "#label-table", 1)[-1].startswith(("مرحبا", "质量", "x"))


def test_thousands_and_dashes_are_sorted_as_what_they_mean(opened):
    page = opened("comparison")
    page.evaluate("""() => {
        const rows = document.querySelectorAll('#label-table tbody tr');
        ['1,234', '-', '99', '1,000', '5'].forEach((text, i) => { rows[i].cells[1].textContent = text; });
    }""")
    button = page.locator("#label-table th").nth(1).get_by_role("button")
    button.click()
    assert column(page, "#label-table", 2) == ["1,234", "1,000", "99", "5", "-"]
    button.click()
    assert column(page, "#label-table", 2) == ["5", "99", "1,000", "1,234", "-"]


def test_labels_are_found_by_any_part_of_their_name(opened):
    page = opened("run")
    field = page.get_by_label("Find a label")
    for wanted, found in (("SCRIPT", 1), ("质量", 1), ("العالم", 1), ("7 * 7", 1), ("nothing", 0), ("", len(NAMES))):
        field.fill(wanted)
        assert len(column(page, "#label-table", 1)) == found, wanted
        said = page.locator("output").inner_text()
        assert said == (f"{found} of {len(NAMES)}" if wanted else "")
    field.fill("x")
    field.press("Tab")
    assert page.evaluate("document.activeElement.className") == "scroll"


def test_what_is_hostile_did_nothing(opened):
    page = opened("run")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, object, embed").count() == 0
    assert page.locator("script").count() == 2
    page.locator("textarea").fill(SCRIPT + IMAGE)
    assert page.locator("mark").count() > 0
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_handler_that_slipped_through_would_not_run(browser, pages):
    context = browser.new_context()
    page = context.new_page()
    page.goto(pages["run"].as_uri())
    ran = page.evaluate("""() => new Promise((resolve) => {
        document.addEventListener('securitypolicyviolation', () => resolve(false), { once: true });
        const link = document.createElement('a');
        link.setAttribute('onclick', 'window.ran = true');
        document.body.append(link);
        link.click();
        setTimeout(() => resolve(window.ran === true), 500);
    })""")
    assert ran is False
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", KINDS)
def test_pages_fit_and_can_be_read(opened, kind, width, scheme, tmp_path):
    page = opened(kind, width, scheme)
    if page.locator("textarea").count():
        page.locator("textarea").fill("amber 汤很热 zzz")
        assert page.locator(".given li").count() > 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for figure in page.locator("figure svg:visible").all():
        box = figure.bounding_box()
        # Small multiples stand beside each other.
        assert box["width"] > (
            150 if figure.locator("xpath=ancestor::*[contains(@class, 'multiples')]").count() else 250
        )
        assert box["height"] > 60
    # Contrast as WCAG measures it: of what is read at least 4.5 to 1.
    poor = page.evaluate("""() => {
        const light = (colour) => {
            const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
            const [r, g, b] = parts.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (element) => {
            for (let e = element; e; e = e.parentElement) {
                const colour = getComputedStyle(e).backgroundColor;
                if (!/, 0\\)$/.test(colour)) return colour;
            }
            return 'rgb(255, 255, 255)';
        };
        const kinds = 'p, h1, h2, h3, a, td, th, small, li, mark, figcaption, button, label, svg text';
        const texts = document.querySelectorAll(kinds);
        return [...texts].filter((e) => e.textContent.trim() && e.getBoundingClientRect().width).filter((e) => {
            const style = getComputedStyle(e);
            const [a, b] = [light(e.closest('svg') ? style.fill : style.color), light(behind(e))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05) < 4.5;
        }).map((e) => e.outerHTML.slice(0, 200));
    }""")
    assert poor == []
    # F1 of a label is on the screen, and what is said of it is not cut.
    for cell in page.locator("#label-table.long tbody tr:nth-child(-n+3) td.bar").all():
        box = cell.bounding_box()
        assert box["x"] + box["width"] <= width
    picture = page.screenshot(path=tmp_path / f"{kind}-{width}-{scheme}.png")
    assert len(picture) > 10_000


def test_a_comparison_of_every_method_can_be_scrolled_through(opened):
    page = opened("whole comparison")
    assert page.locator(".multiples > div").count() == len(METHODS)
    assert page.evaluate("document.documentElement.scrollHeight") < 8_000


def test_what_is_wrong_with_a_span_is_not_said_by_colour_alone(opened):
    page = opened("spans", 390)
    assert page.evaluate("getComputedStyle(document.querySelector('mark.missed')).borderBottomStyle") == "dashed"
    assert "gradient" in page.evaluate(
        "getComputedStyle(document.querySelector('.key-row mark.added')).backgroundImage"
    )
    assert page.locator("ol.rows > li:visible").count() == 10
    assert page.locator("ol.rows > li").count() > 10
    page.evaluate("document.querySelectorAll('details').forEach((folded) => { folded.open = true; })")
    for kind in ("missed", "added"):
        marks = page.locator(f"ol.rows mark.{kind}.last > small")
        assert all(text.lower().startswith(f"{kind} ") for text in marks.all_inner_texts())
    assert page.locator("ol.rows mark").count() > 0


@pytest.mark.parametrize("kind", ["run", "comparison", "spans", "span comparison"])
def test_pages_print_whole(opened, kind):
    page = opened(kind, scheme="dark")
    page.emulate_media(media="print")
    assert page.locator(".search").first.is_hidden()
    assert page.locator("nav").is_hidden()
    clipped = (
        "() => [...document.querySelectorAll('.scroll')].filter((e) => e.scrollHeight > e.clientHeight + 1).length"
    )
    assert page.evaluate(clipped) == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert len(page.pdf()) > 10_000


def fields_of(row):
    """Say in JavaScript what a reader fills in."""
    return f"scorer.score({json.dumps(row)})"


def hostile_texts(number):
    """Draw texts as readers type them: words of training, others, odd spaces, large letters, other scripts, emoji."""
    chance = random.Random(7)
    odd = ["ΣΑΣ", "İstanbul", "naïve", "don't", SCRIPT, "x_1", "٣٤", "हिन्दी", "👩‍👧", "🇫🇷", "质量", "مرحبا", "½"]
    words = [*SAID, *SAID, *(word.upper() for word in SAID), *odd]
    gaps = [" ", "  ", "\n", "\t", ", ", "\u3000", "\x1c", "\ufeff", "."]
    return [
        "".join(chance.choice(words) + chance.choice(gaps) for _ in range(chance.randint(0, 12))) for _ in range(number)
    ]


@pytest.mark.parametrize("kind", ["run", "chinese"])
def test_what_is_typed_gets_the_probabilities_of_the_run(opened, pages, kind):
    """Type 200 texts: the page says what scorer.py says, and so nearly what the run says."""
    page, run = opened(kind), load_run(pages[kind].parent)
    texts = hostile_texts(200)
    if kind == "chinese":
        chance = random.Random(1)
        texts = ["".join(chance.choices("汤很热面包好吃鱼服务员太贵了 价,x\n", k=chance.randint(0, 20))) for _ in texts]
    scorer = scorer_of(run)
    assert isinstance(scorer, Scorer)
    expected = scorer.probs(Examples("typed", texts, None, None, []))
    found = np.array([page.evaluate(f"[...{fields_of({'text': text})}.probs]") for text in texts])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    true = run.calibration.probs(run.predict_logits(texts))
    assert (np.abs(found - true).max(1) > 0.02).mean() <= 0.05
    sets = [
        {run.label_names[i] for i in page.evaluate(f"[...{fields_of({'text': text})}.chosen]")} for text in texts[:60]
    ]
    predicted = [{label.name for label in row} for row in run.label_sets(run.predict_logits(texts[:60]))]
    assert np.mean([a == b for a, b in zip(sets, predicted, strict=True)]) > 0.95
    for text, probs in zip(texts, expected, strict=True):
        page.locator("textarea").fill(text)
        shown = page.locator(".given button").all()
        assert bool(shown) == bool(text.strip())
        for button in shown:
            label = int(button.get_attribute("data-label"))
            assert float(button.get_attribute("data-prob")) == pytest.approx(probs[label], abs=1e-9)


def test_numbers_that_are_filled_in_get_the_probabilities_of_the_run(opened, pages):
    page, run = opened("numbers"), voteless(pages["numbers"].with_suffix(""))
    assert run.features.kernel is not None
    chance = np.random.default_rng(3)
    rows = []
    for _ in range(200):
        height, weight, dose = chance.normal(size=3).tolist()
        dose = None if chance.random() < 0.3 else dose
        rows.append((height, weight, dose, str(chance.choice(["red", "green", "other"]))))
    table = pl.DataFrame(rows, schema=["height", "<i>weight", "dose", "colour"], orient="row")
    true = run.probs(table)
    values = run.features.categories[0].values
    for (height, weight, dose, colour), probs in zip(rows, true, strict=True):
        place = values.index(colour) if colour in values else len(values)
        row = {"numbers": [height, weight, dose], "categories": [place]}
        np.testing.assert_allclose(page.evaluate(f"[...{fields_of(row)}.probs]"), probs, atol=1e-5)
    page.locator("input[data-number='0']").fill(str(rows[0][0]))
    page.locator("input[data-number='1']").fill(str(rows[0][1]))
    page.locator("input[data-number='2']").fill("" if rows[0][2] is None else str(rows[0][2]))
    page.locator("select").select_option(str(values.index(rows[0][3]) if rows[0][3] in values else len(values)))
    for button in page.locator(".given button").all():
        label = int(button.get_attribute("data-label"))
        assert float(button.get_attribute("data-prob")) == pytest.approx(true[0][label], abs=1e-5)


def test_words_are_marked_as_they_speak_for_a_label(opened, pages):
    page, run = opened("run"), load_run(pages["run"].parent)
    page.locator("textarea").fill("Amber and zzzz, birch!")
    assert "2 of 4 words known" in page.locator(".known").inner_text()
    (found,) = run.explain("Amber and zzzz, birch!", run.label_names)
    for button in page.locator(".given button").all():
        button.click()
        name = page.locator(".of").inner_text()
        pressed = page.locator(".given button[aria-pressed=true]")
        assert pressed.count() == 1
        label = int(pressed.get_attribute("data-label"))
        assert name == page.evaluate(f"scorer.model.names[{label}]")
        reason = next(reason for reason in found.labels if reason.name == run.label_names[label])
        words = {part.name: part.score for part in reason.parts if part.kind == "word"}
        marks = {mark.inner_text().lower(): mark for mark in page.locator(".marked > *").all()}
        assert marks["zzzz"].get_attribute("class") in ("unknown", "for", "against")
        if abs(words["amber"]) > 0.05:
            assert marks["amber"].get_attribute("class") == ("for" if words["amber"] > 0 else "against")
    page.locator("textarea").fill("")
    assert page.locator(".given li").count() == 0
    assert page.locator(".marked").is_hidden()


def test_a_long_table_is_shown_on_request(browser, pages, tmp_path):
    content = pages["run"].read_text()
    start = content.index("<tbody>", content.index('id="label-table"')) + len("<tbody>")
    row = content[start : content.index("</tr>", start) + len("</tr>")]
    long = tmp_path / "long.html"
    long.write_text(content[:start] + row * 60 + content[start:], encoding="utf-8")
    page = browser.new_page()
    page.goto(long.as_uri())
    assert page.locator("#label-table tbody tr:visible").count() == 30
    page.get_by_role("button", name="Show all 69").click()
    assert page.locator("#label-table tbody tr:visible").count() == 69
    page.close()


def test_everything_is_there_without_scripts(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["run"].as_uri())
    assert page.locator("#label-table tbody tr").count() == len(NAMES)
    assert page.locator(".search").is_hidden()
    assert page.locator("th button").count() == 0
    context.close()
