"""Reports in a real browser: sorting, searching, no errors, no requests, and that pages fit. For `make browser`."""

import shutil

import pytest

from compared import comparison
from manyhot.toolkit.config import make_config
from manyhot.toolkit.report.render import render_comparison
from manyhot.toolkit.spans.compare import compare_spans
from manyhot.toolkit.spans.methods import SpanComparison
from manyhot.toolkit.spans.train import train_spans
from manyhot.toolkit.train import Listener
from reported import NAMES, train_hostile
from span_rows import sentences, write_jsonl

CHROMIUM = shutil.which("chromium")
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    compared = folder / "comparison.html"
    compared.write_text(render_comparison(comparison()), encoding="utf-8")
    return {"run": train_hostile(folder) / "report.html", "comparison": compared} | span_pages(folder)


def span_pages(folder):
    """Train on spans inside of others, and compare losses, for an epoch or two: most is wrong then."""
    long = ["Donaudampfschifffahrtsgesellschaftskapitän" * 3, "<b>&", "\u05d0\u05d1", "met", "Ada", "Lovelace"] * 12
    rows = [*sentences(40, nested=True), (long, [(0, 3, "<i>" * 30), (1, 3, "LOC"), (4, 6, "PER")])]
    data = write_jsonl(folder / "spans.jsonl", rows)
    test = write_jsonl(folder / "test.jsonl", [*sentences(20, 1, nested=True), rows[-1]])
    asked = {"data": data, "test": test, "task": "spans", "epochs": 2}
    train_spans(make_config(None, [], asked | {"out": str(folder / "of-spans")}))
    config = make_config(None, [], asked | {"out": str(folder / "compared-spans")})
    compare_spans(SpanComparison(config, ("zlpr", "bce+bias"), seeds=1), Listener(), command=["manyhot", "compare"])
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
    assert page.evaluate("document.activeElement.className") == "scroll tall"


def test_what_is_hostile_did_nothing(opened):
    page = opened("run")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, object, embed").count() == 0
    assert page.locator("script").count() == 1


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
@pytest.mark.parametrize("kind", ["run", "comparison", "spans", "span comparison"])
def test_pages_fit_and_can_be_read(opened, kind, width, scheme, tmp_path):
    page = opened(kind, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for figure in page.locator("figure svg").all():
        box = figure.bounding_box()
        assert box["width"] > 250
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
        const read = 'p, h1, h2, h3, a, td, th, small, li, mark, figcaption, button, svg text';
        const texts = document.querySelectorAll(read);
        return [...texts].filter((e) => e.textContent.trim() && e.getBoundingClientRect().width).filter((e) => {
            const style = getComputedStyle(e);
            const [a, b] = [light(e.closest('svg') ? style.fill : style.color), light(behind(e))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05) < 4.5;
        }).map((e) => e.outerHTML.slice(0, 200));
    }""")
    assert poor == []
    picture = page.screenshot(path=tmp_path / f"{kind}-{width}-{scheme}.png")
    assert len(picture) > 10_000


def test_what_is_wrong_with_a_span_is_not_said_by_colour_alone(opened):
    page = opened("spans", 390)
    assert page.evaluate("getComputedStyle(document.querySelector('mark.missed')).borderBottomStyle") == "dashed"
    assert "gradient" in page.evaluate(
        "getComputedStyle(document.querySelector('.key-row mark.added')).backgroundImage"
    )
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


def test_everything_is_there_without_scripts(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["run"].as_uri())
    assert page.locator("#label-table tbody tr").count() == len(NAMES)
    assert page.locator(".search").is_hidden()
    assert page.locator("th button").count() == 0
    context.close()
