"""`cosup compare` writes the page and the text of a comparison, with the numbers of the runs."""

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import Browser, open_browser, why_not
from helpers.comparable_runs import RunAnswers, make_run, random_answers
from rich.console import Console
from scipy import stats

from cosup.analysis.arrays import Tables
from cosup.analysis.comparable import Entry, entries_in
from cosup.analysis.compared import Compared
from cosup.analysis.comparison import compare, tables_of
from cosup.cli import call
from cosup.errors import UserError
from cosup.report.compare import compare_runs, write_comparison
from cosup.report.compare_text import (
    comparison_text,
    config_sentence,
    flipped_sentence,
    is_different,
    pair_sentence,
)

BETTER, WORSE = "b_<i>&", "a_run"
STRANGE = ("<script>alert(1)</script>", "猫 & كلب", "{{ 7 * 7 }}")
SCALARS = [
    *(
        (f"student/round_1/{name}", step, 1 / step)
        for name in ("loss", "weight")
        for step in (1, 50, 100)
    ),
    *(("rounds/student_accuracy", number, 0.5 + number / 10) for number in (1, 2)),
    ("teacher/all/loss", 1, None),
]


def two_runs() -> dict[str, RunAnswers]:
    more = {"classes": STRANGE, "scalars": SCALARS}
    worse = random_answers(
        1, 0.55, **more, config={"rounds.loss": {"name": "kl", "temperature": 0.5}}
    )
    return {WORSE: worse, BETTER: random_answers(2, 0.8, **more)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two runs and the page that compares them."""
    root = tmp_path_factory.mktemp("runs")
    for name, answers in two_runs().items():
        make_run(root / name, answers)
    write_comparison(entries(root), root / "page.html")
    return root


def entries(folder: Path) -> list[Entry]:
    return entries_in([folder / name for name in two_runs()])


def told(found: Compared, tables: Tables) -> str:
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_text(found, tables))
    return console.export_text()


class PageText(HTMLParser):
    """Collect the text, headings, tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.headings: list[int] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self._inside = tag
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("style", "script"):
            self.text.append(data)


def read(page: Path) -> PageText:
    words = PageText()
    words.feed(page.read_text())
    return words


def text_of(page: Path) -> str:
    return " ".join(" ".join(read(page).text).split())


def test_the_verdict_has_the_numbers_of_the_runs(folder: Path) -> None:
    answers = two_runs()
    worse, better = (answers[name].student == answers[name].truth for name in (WORSE, BETTER))
    gained = 100 * (better.mean() - worse.mean())
    alone = int((better & ~worse).sum()), int((worse & ~better).sum())
    assert stats.binomtest(alone[0], sum(alone)).pvalue < 0.001
    text = text_of(folder / "page.html")
    found = Compared(entries(folder))
    (pair,) = tables_of(found)["pairs"].to_dict("records")
    sentence = pair_sentence(pair, found, 1)
    assert sentence in text
    assert sentence.startswith(f"{BETTER} is better than {WORSE}: +")
    low, high = 100 * pair["low"], 100 * pair["high"]
    for number in (f"{gained:.1f}", f"[+{low:.1f}, +{high:.1f}]", "p < 0.001", *map(str, alone)):
        assert number in sentence
    assert "rounds.loss.name and rounds.loss.temperature" in text
    assert f"{sum(alone)} of 240" in text


def test_the_page_is_self_contained_and_well_structured(folder: Path) -> None:
    words = read(folder / "page.html")
    assert words.headings.count(1) == 1
    steps = [
        after - before for before, after in zip(words.headings, words.headings[1:], strict=False)
    ]
    assert max(steps) <= 1
    outside = [
        value
        for name, value in words.attributes
        if name in ("src", "href") and not (value or "").startswith(("#", "data:", "page-tables/"))
    ]
    assert outside == []
    linked = {value for name, value in words.attributes if (value or "").startswith("page-tables/")}
    assert linked
    assert [name for name in linked if not (folder / str(name)).is_file()] == []


def test_names_in_any_script_are_escaped(folder: Path) -> None:
    words = read(folder / "page.html")
    text = "".join(words.text)
    for name in (BETTER, *STRANGE):
        assert name in text
    page = (folder / "page.html").read_text()
    assert "<script>alert" not in page
    assert BETTER not in page


def test_tables_are_written_completely(folder: Path) -> None:
    tables = compare(entries(folder))
    for name, table in tables.items():
        written = pd.read_parquet(folder / "page-tables" / f"{name}.parquet")
        assert written.astype(object).equals(table.astype(object)), name
        csv = pd.read_csv(folder / "page-tables" / f"{name}.csv")
        assert list(csv.columns) == list(table.columns)
        assert len(csv) == len(table)


def test_the_terminal_has_the_same_sentences(folder: Path) -> None:
    found = Compared(entries(folder))
    tables = tables_of(found)
    text = told(found, tables)
    page = text_of(folder / "page.html")
    for sentence in (
        pair_sentence(tables["pairs"].to_dict("records")[0], found, 1),
        flipped_sentence(tables["flipped"], found),
        config_sentence(tables["config"]),
    ):
        assert sentence in text
        assert sentence in page
    assert "rounds.loss.temperature" in text


def test_equal_runs_have_no_difference(tmp_path: Path) -> None:
    answers = random_answers(1, 0.6)
    found = Compared(entries_in([make_run(tmp_path / name, answers) for name in "ab"]))
    text = text_of(write_comparison(found.entries, tmp_path / "page.html"))
    tables = tables_of(found)
    (pair,) = tables["pairs"].to_dict("records")
    assert (pair["agreement"], pair["difference"], len(tables["config"])) == (1, 0, 0)
    assert pair_sentence(pair, found, 1) in text
    assert config_sentence(tables["config"]) in text
    assert "Not shown: no number was recorded" in text


def test_a_small_difference_is_not_significant(tmp_path: Path) -> None:
    answers = random_answers(1, 0.6)
    other = replace(answers, student=np.where(np.arange(240) < 2, answers.truth, answers.student))
    made = [make_run(tmp_path / name, one) for name, one in (("a", answers), ("b", other))]
    found = Compared(entries_in(made))
    text = text_of(write_comparison(found.entries, tmp_path / "page.html"))
    (pair,) = tables_of(found)["pairs"].to_dict("records")
    assert not is_different(pair)
    assert pair_sentence(pair, found, 1) in text
    assert "not differ significantly" in pair_sentence(pair, found, 1)


def test_many_runs_and_classes_stay_readable(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(500)]
    made = [
        make_run(tmp_path / f"r{seed}", random_answers(seed, 0.6, samples=1000, classes=names))
        for seed in range(10)
    ]
    page = write_comparison(entries_in(made), tmp_path / "page.html")
    assert page.stat().st_size < 1_000_000
    text = text_of(page)
    for words in ("first 36 of 45 pairs", "35 other pairs", "20 classes", "for 45 pairs"):
        assert words in text


def command(*arguments: object) -> int:
    return call(["compare", *map(str, arguments)])


def test_the_command_writes_the_page_and_prints(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*(folder / name for name in two_runs())) == 0
    out = capsys.readouterr().out
    found = Compared(entries(folder))
    (pair,) = tables_of(found)["pairs"].to_dict("records")
    assert pair_sentence(pair, found, 1) in " ".join(out.split())
    assert out.endswith("everything else: comparison.html\n")
    assert (tmp_path / "comparison.html").read_text() != ""
    assert command(folder, "--output", "comparison.html") == 0  # an earlier page is replaced
    assert (tmp_path / "comparison-tables" / "flipped.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["RUN"], "1 run to compare"),
        (["RUN", "RUN"], "given twice"),
        (["RUN", "nowhere"], "nowhere: no such directory"),
        (["RUN", "empty"], "empty: not a run's directory"),
        (["RUN", "fewer"], "their test samples differ: 40 of 240 are not in fewer"),
        (["RUN", "cut"], "cut: the run is not finished: no control ceiling and summary"),
        (["RUN", "OTHER", "--output", "empty"], "--output: 'empty': is a directory"),
        (["RUN", "OTHER", "--output", "notes.txt"], "--output: 'notes.txt'"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    arguments: list[str],
    line: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    make_run(tmp_path / "fewer", two_runs()[WORSE].select(np.arange(200)))
    make_run(tmp_path / "cut", two_runs()[WORSE], finished=False)
    before = sorted(tmp_path.rglob("*"))
    places = {"RUN": str(folder / WORSE), "OTHER": str(folder / BETTER)}
    assert command(*(places.get(word, word) for word in arguments)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert line in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_file_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = make_run(tmp_path / "bad", two_runs()[WORSE])
    (bad / "samples.parquet").write_bytes(b"PAR1")
    assert command(folder / WORSE, bad, "--output", tmp_path / "page.html") == 1
    assert "bad/samples.parquet" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_other_files_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<title>mine</title>")
    with pytest.raises(UserError, match=r"page\.html"):
        compare_runs([str(folder)], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "<title>mine</title>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as found:
        yield found


SORTED = """
const table = [...document.querySelectorAll("table.data")].find(
  (t) => t.caption.textContent.startsWith("Accuracy by class"));
table.querySelectorAll("thead button")[3].click();
return [...table.querySelectorAll("tbody td:last-child")].map((c) => parseFloat(c.textContent));
"""


@pytest.mark.browser
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_the_page_fits_in_a_browser_without_messages(folder: Path, browser: Browser) -> None:
    for width, dark in ((400, False), (1600, True)):
        browser.set_window(width, dark=dark)
        browser.open(folder / "page.html")
        assert browser.size()[0] <= width
    values = browser.run(SORTED)
    assert len(values) == len(STRANGE)
    assert values in (sorted(values), sorted(values, reverse=True))
    assert browser.console_messages() == []
    assert [url for url in browser.requests() if not url.startswith("chrome:")] == []
