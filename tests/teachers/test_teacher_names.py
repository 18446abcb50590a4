"""Teachers named after classes and domains: short, unique, fit for files, and readable."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.annotated_folder import write_digits
from hypothesis import given, settings
from hypothesis import strategies as st

from cosup.analysis import load_run
from cosup.cli import call
from cosup.config.teachers import TeachersSection
from cosup.teachers.hierarchy import plan_hierarchy
from cosup.teachers.names import file_name, scope_name

FIT = re.compile(r"[A-Za-z0-9_.-]{1,100}")
SCRIPT = "<img src=x onerror=alert(1)>"
CONFIG = """\
run: {name: odd, output: runs}
data: {source: domain_folder, root: data}
teachers:
  hierarchy: {by: domain, levels: [2]}
  model: {name: linear_pixels, size: 4}
  training: {steps: 3}
student:
  backbone: {name: test_resnet.r160_in1k, weights: null, image_size: 32}
  training: {steps: 3}
controls: []
execution: {device: cpu, workers: 1}
"""


def names(domains: list[str], level: int) -> list[str]:
    section: Any = {"hierarchy": {"by": "domain", "levels": [level]}}
    ((*specs,),) = plan_hierarchy(TeachersSection(**section), ["a", "b"], domains, 0)
    return [spec.name for spec in specs]


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        *((same, same) for same in ("rot0", "art_painting", "DSLR-2", "2018", "a" * 60)),
        ("real world", "real_world"),
        ("R&D (new)", "R_D_new_"),
        ("Café", "Caf_"),
    ],
)
def test_ordinary_names_stay(domain: str, name: str) -> None:
    assert scope_name(3, domain) == file_name(domain) == name


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        (SCRIPT, "3_img_src_x_onerror_alert"),
        ("été", "3_ete"),
        ("犬", "3"),
        ("\x1b[31mred", "3_31mred"),
        (
            "photos of the second campaign of the north camera after dusk, 2018",
            "3_photos_of_the_second",
        ),
        ("b" * 300, "3_" + "b" * 24),
    ],
)
def test_odd_names_are_an_index_and_the_first_words(domain: str, name: str) -> None:
    assert scope_name(3, domain) == name


@settings(max_examples=40)
@given(st.lists(st.text(max_size=90), min_size=2, max_size=6, unique=True))
def test_any_domains_give_unique_names_of_files(domains: list[str]) -> None:
    for level in {2, len(domains)}:
        found = names(domains, level)
        assert len(set(found)) == level
        assert all(FIT.fullmatch(name) for name in found)


def test_blocks_of_odd_or_many_domains_are_named_by_indices() -> None:
    assert names(["a", "b", "c", "d"], 2) == ["domains_a-b", "domains_c-d"]
    assert names(["a", SCRIPT, "c", "d"], 2) == ["domains_0to1", "domains_c-d"]
    many = [f"location_{number}" for number in range(40)]
    assert names(many, 2) == ["domains_0to19", "domains_20to39"]


def test_records_and_report_tell_the_text_of_the_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    long = "the second campaign of the north camera, after dusk, with a lamp that flickered"
    (tmp_path / "data").mkdir()
    for number, domain in enumerate((SCRIPT, long)):
        write_digits(tmp_path / str(number), ("nought", "one"), 40)
        (tmp_path / str(number) / "own").rename(tmp_path / "data" / domain)
    (tmp_path / "c.yaml").write_text(CONFIG)
    assert call(["run", "c.yaml"]) == 0
    assert call(["report", "runs/odd"]) == 0
    run = load_run(tmp_path / "runs" / "odd")
    table = pd.read_parquet(run.path / "report" / "tables" / "teachers.parquet")
    assert dict(zip(table["teacher"], table["scope"], strict=True)) == {
        "domain_0_img_src_x_onerror_alert": f"domain {SCRIPT}",
        "domain_1_the_second_campaign_of": f"domain {long}",
    }
    assert run.domains == [SCRIPT, long]
    page = (run.path / "report" / "index.html").read_text()
    assert "domain_1_the_second_campaign_of" in page
    assert long in page
