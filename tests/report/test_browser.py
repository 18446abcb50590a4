"""The page works in a real browser: from disk, without requests, with its script.

It is readable on a phone, on a wide screen, in dark mode and on paper.
"""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, open_browser, why_not
from report_run import CLASSES, DOMAINS

from cosup.cells import as_cell
from cosup.layout.kinds import File
from cosup.report.review import Question, write_review

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "a browser is available"),
]

# Return the lowest contrast (WCAG 2) of a text with its background, among a selector's elements.
CONTRAST = """
const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgb = (colour) => {
  pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
  return Array.from(pen.getImageData(0, 0, 1, 1).data);
};
const light = (c) => c.slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (rgb(colour)[3] > 250) return colour;
  }
  return "white";
};
let worst = [99, "nothing"];
for (const node of document.querySelectorAll(arguments[0])) {
  const own = Array.from(node.childNodes).some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !node.checkVisibility()) continue;
  const [a, b] = [light(rgb(getComputedStyle(node).color)), light(rgb(behind(node)))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < worst[0]) worst = [ratio, `${node.tagName} ${node.className}: ${node.textContent}`];
}
return worst;
"""
OVERFLOWING = """
const wide = document.documentElement.clientWidth;
return Array.from(document.querySelectorAll("main *, header *, nav *"))
  .filter((n) => !n.closest(".scroll, pre, .hidden") && n.getBoundingClientRect().right > wide + 1)
  .map((n) => `${n.tagName}.${n.className} ${n.textContent.slice(0, 40)}`);
"""
OPEN_ALL = "document.querySelectorAll('details').forEach((d) => d.open = true)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def opened(browser: Browser, finished_run: Path) -> Browser:
    browser.set_window(1200)
    browser.open(finished_run / "report" / "index.html")
    return browser


def test_the_page_opens_from_disk_without_requests(opened: Browser) -> None:
    assert opened.console_messages() == []
    assert opened.requests() == []
    assert opened.run("return Array.from(document.images, (i) => i.naturalWidth)").count(0) == 0


def test_names_are_text(opened: Browser) -> None:
    text = opened.run("return document.querySelector('main').innerText")
    for name in (*CLASSES, *DOMAINS):
        assert name in text
    assert opened.run("return document.querySelectorAll('main b, main script').length") == 0


def test_the_page_of_a_review_saves_no_formulas(browser: Browser, tmp_path: Path) -> None:
    texts = ["=1+1", "-1", "-a", "@b", "\t=c", "'=d", "'e", "\uff1d1", "-1-2", '+"f"', "g"]
    write_review(File(tmp_path / "next.html"), "a", [Question("=a", "b", "c", "random")], ["c"])
    browser.open(tmp_path / "next.html")
    assert browser.run("return arguments[0].map(cell)", texts) == [as_cell(text) for text in texts]
    assert browser.run("return field(arguments[0])", '=a"b') == '"\'=a""b"'


def column(browser: Browser, figure: str, index: int) -> list[str]:
    """Return a column of the table of a figure, for the visible rows."""
    script = """
    const rows = document.querySelector(`#figure-${arguments[0]} table.data`).tBodies[0].rows;
    return Array.from(rows).filter((r) => !r.hidden).map((r) => r.cells[arguments[1]].textContent);
    """
    found: list[str] = browser.run(script, figure, index)
    return found


def click_heading(browser: Browser, figure: str, index: int) -> None:
    browser.run(
        "document.querySelectorAll(`#figure-${arguments[0]} th button`)[arguments[1]].click()",
        figure,
        index,
    )


def test_sorting_by_numbers_and_by_names(opened: Browser) -> None:
    before = column(opened, "overview", 2)
    values = sorted(map(float, before))
    click_heading(opened, "overview", 2)
    assert [float(text) for text in column(opened, "overview", 2)] == values[::-1]
    click_heading(opened, "overview", 2)
    assert [float(text) for text in column(opened, "overview", 2)] == values
    state = "return document.querySelectorAll('#figure-overview th')[2].ariaSort"
    assert opened.run(state) == "ascending"
    click_heading(opened, "overview", 0)
    assert column(opened, "overview", 0) == sorted(column(opened, "overview", 0))
    assert opened.run(state) is None


def test_missing_numbers_are_last_in_both_orders(opened: Browser) -> None:
    heads = opened.run(
        "return Array.from(document.querySelectorAll('#figure-teachers th button'),"
        " (b) => b.textContent)"
    )
    place = heads.index("accuracy outside, %")
    for _ in range(2):
        click_heading(opened, "teachers", place)
        assert column(opened, "teachers", place)[-1] == "\N{EN DASH}"


def test_filtering(opened: Browser) -> None:
    script = """
    const input = document.querySelector("#figure-overview input.filter");
    input.value = arguments[0]; input.dispatchEvent(new Event("input"));
    return document.querySelector("#figure-overview .matches").textContent;
    """
    total = len(column(opened, "overview", 0))
    assert opened.run(script, "PLAIN teacher") == f"1 of {total} rows"
    assert column(opened, "overview", 0) == ["domain_plain"]
    assert opened.run(script, "") == ""
    assert len(column(opened, "overview", 0)) == total


def test_a_matrix_is_read_with_the_keyboard(opened: Browser) -> None:
    opened.run("document.querySelector('#figure-assignment td').focus()")
    readout = "return document.querySelector('#figure-assignment .readout').textContent"
    first = opened.run(readout)
    assert DOMAINS[0] in first
    opened.key("ArrowRight")
    assert DOMAINS[1] in opened.run(readout)
    opened.key("ArrowRight")
    opened.key("ArrowLeft")
    assert opened.run(readout) == first
    stops = "return document.querySelectorAll('#figure-assignment td[tabindex=\"0\"]').length"
    assert opened.run(stops) == opened.run(
        "return document.querySelectorAll('#figure-assignment table.matrix').length"
    )


def test_the_first_tab_stop_skips_to_the_contents(opened: Browser) -> None:
    opened.key("Tab")
    assert opened.run("return document.activeElement.className") == "skip"
    opened.key("Enter")
    assert opened.run("return document.activeElement.id") == "main"


def test_axe_finds_nothing(opened: Browser) -> None:
    """The page keeps the rules of axe-core, with all opened that can be."""
    opened.run(OPEN_ALL)
    opened.run(resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8"))
    found = opened.run_async(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {resultTypes: ['violations']}).then((result) => done("
        "result.violations.map((v) => [v.id, v.help, v.nodes.slice(0, 3).map((n) => n.html)])));"
    )
    assert found == []


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_overflows(opened: Browser, width: int) -> None:
    opened.run(OPEN_ALL)
    opened.set_window(width)
    assert opened.size()[0] == width
    assert opened.run(OVERFLOWING) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast_of_text(opened: Browser, dark: bool) -> None:
    opened.set_window(1200, dark=dark)
    opened.run(OPEN_ALL)
    paper = opened.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(v) for v in paper[4:-1].split(",")) < 150) is dark
    ratio, where = opened.run(CONTRAST, "body *")
    assert ratio >= 4.5, where


def test_print_has_short_tables_and_no_controls(opened: Browser) -> None:
    opened.run("dispatchEvent(new Event('beforeprint'))")
    opened.devtools("Emulation.setEmulatedMedia", media="print")
    shown: Any = opened.run(
        "return ['.contents', '#figure-overview .tools', '#figure-overview table.data']"
        ".map((s) => document.querySelector(s).checkVisibility())"
    )
    assert shown == [False, False, True]
    opened.run("dispatchEvent(new Event('afterprint'))")
    assert not opened.run("return document.querySelector('#figure-overview details').open")
