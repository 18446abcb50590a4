"""Test that every file and section cited in cosup exists, and that METHODS.md ships with cosup."""

import ast
import fnmatch
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHODS = ROOT / "cosup" / "METHODS.md"
SOURCES = sorted((ROOT / "cosup").rglob("*.py"))
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith((".", "build")) for part in path.relative_to(ROOT).parts[:-1])
    and path.relative_to(ROOT).parts[0] in ("README.md", "cosup", "configs", "ray_jobs", "tests")
)

SECTION = re.compile(r"METHODS\.md`?,?\s+sections?\s+(\d+)(?:(?:,|\s+and|\s+to)\s+(\d+))?")
MENTION = re.compile(r"METHODS\.md")
FILE = re.compile(r"(?<![\w/.-])(?:configs|tests|ray_jobs)/[\w./*-]*[\w*]")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def docstrings(source: Path) -> Iterator[str]:
    """Yield all string expressions of a module: docstrings, and those below attributes."""
    for node in ast.walk(ast.parse(source.read_text())):
        match node:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                yield text


def headings(document: Path) -> list[str]:
    """List the headings of a Markdown file, outside of code blocks."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def missing_citations(text: str, sections: set[int]) -> list[str]:
    """List the sections of METHODS.md and the files that a text cites and that do not exist."""
    wrong = []
    for match in SECTION.finditer(text):
        wrong += [match[0] for number in match.groups() if number and int(number) not in sections]
    for name in FILE.findall(text):
        if not list(ROOT.glob(name.replace("NAME", "*"))):
            wrong.append(name)
    return wrong


def methods_sections() -> set[int]:
    """Return the numbers of METHODS.md's sections."""
    numbers = [re.match(r"(\d+)\. ", heading) for heading in headings(METHODS)]
    return {int(number[1]) for number in numbers if number}


def test_docstrings_cite_what_exists() -> None:
    sections = methods_sections()
    wrong = [
        f"{path.relative_to(ROOT)}: {citation}"
        for path in SOURCES
        for text in docstrings(path)
        for citation in missing_citations(text, sections)
    ]
    assert wrong == []
    assert {1, 2, 3, 4, 5} <= sections


def test_docstrings_cite_methods() -> None:
    cited = [path for path in SOURCES for text in docstrings(path) if MENTION.search(text)]
    assert len(set(cited)) >= 5


def test_a_missing_section_or_file_is_found() -> None:
    """The patterns match citations, also those broken over two lines."""
    text = "METHODS.md\nsection 99, section 1; `configs/no_such.yaml`, tests/no/such_test.py."
    wrong = missing_citations(text, methods_sections())
    assert len(wrong) == 3
    assert missing_citations("configs/quickstart.yaml and tests/benchmarks", {1}) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_documents_work(document: Path) -> None:
    """Relative links name an existing file and, after a #, one of its headings."""
    broken = []
    for link in LINK.findall(document.read_text()):
        if re.match(r"\w+:", link):
            continue
        name, _, wanted = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (wanted and wanted not in map(anchor, headings(target))):
            broken.append(link)
    assert broken == []
    assert missing_citations(document.read_text(), methods_sections()) == []


def test_methods_ship_with_the_package() -> None:
    """setuptools includes METHODS.md and the other data files of cosup."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = tool["package-data"]["cosup"]
    data = [
        str(path.relative_to(ROOT / "cosup"))
        for path in (ROOT / "cosup").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert "METHODS.md" in data
    left_out = [name for name in data if not any(fnmatch.fnmatch(name, p) for p in patterns)]
    assert left_out == []
