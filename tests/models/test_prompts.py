"""Prompts: classes' names in templates; lists by data set; and names that can't be used."""

from pathlib import Path
from typing import Any

import open_clip
import pytest

from cosup.errors import UserError
from cosup.models.prompts import TEMPLATES, Prompts, build_prompts, check_templates, template_lists

CLASSES = ("t-shirt", "ankle_boot", "bag")
NUMBERED = tuple(f"{i}" for i in range(1000))
ONE = "a photo of a {}."


def made(
    names: Any = None, templates: Any = ONE, classes: tuple[str, ...] = CLASSES, library: Any = None
) -> Prompts:
    return build_prompts(templates, names, classes, library or open_clip)


def error_of(*arguments: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        made(*arguments, **settings)
    text = str(caught.value)
    assert text.startswith("class_names: ")  # the setting
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_a_template_takes_each_classs_name() -> None:
    prompts = made()
    assert prompts.names == ("t-shirt", "ankle boot", "bag")
    assert prompts.texts() == [
        "a photo of a t-shirt.",
        "a photo of a ankle boot.",
        "a photo of a bag.",
    ]


def test_several_templates_are_told_class_by_class() -> None:
    prompts = made(templates=["{}", "the {}, a {}"], classes=("cat", "dog"))
    assert prompts.templates == ("{}", "the {}, a {}")
    assert prompts.texts() == ["cat", "the cat, a cat", "dog", "the dog, a dog"]


def test_a_name_with_braces_is_a_name() -> None:
    assert made(["{}", "{0}", "%s"], classes=("a", "b", "c")).texts()[:2] == [
        "a photo of a {}.",
        "a photo of a {0}.",
    ]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("imagenet", "OPENAI_IMAGENET_TEMPLATES"),
        ("imagenet_simple", "SIMPLE_IMAGENET_TEMPLATES"),
    ],
)
def test_imagenets_lists_are_open_clips(name: str, theirs: str) -> None:
    prompts = made(templates=name, classes=("tench", "goldfish"))
    functions = getattr(open_clip, theirs)
    assert len(functions) == len(prompts.templates) == {"imagenet": 80, "imagenet_simple": 7}[name]
    assert prompts.texts() == [f(c) for c in ("tench", "goldfish") for f in functions]


@pytest.mark.parametrize("name", TEMPLATES)
def test_lists_by_name_need_no_open_clip(name: str) -> None:
    prompts = build_prompts(name, None, ("cat", "dog"), None)
    assert prompts.templates == TEMPLATES[name]
    assert len(set(prompts.texts())) == 2 * len(TEMPLATES[name])
    assert {"imagenet", "imagenet_simple", *TEMPLATES} == set(template_lists())


def test_cifars_list_is_clips_own() -> None:
    """`data/prompts.md` of CLIP's repository, from memory: 18, nine with each article."""
    templates = TEMPLATES["cifar"]
    assert len(templates) == 18
    assert templates[0] == "a photo of a {}."
    assert templates[-1] == "a photo of the big {}."
    assert "a low contrast photo of the {}." in templates


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ("a photo", ["'a photo'", "no {}", "allowed: cifar", "imagenet_simple"]),
        ("imagent", ["'imagent'", "imagenet"]),
        ("", ["''", "no {}"]),
        ([], ["[]", "at least one", "a photo of a {}."]),
        ([ONE, "a sketch"], ["'a sketch'", "no {}"]),
        (["imagenet"], ["'imagenet'", "no {}"]),
    ],
)
def test_templates_that_cannot_be_used(templates: Any, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        check_templates(templates)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value
    assert "\n" not in str(caught.value)
    check_templates(["{}", ONE])
    check_templates("domainnet")


def test_names_are_given_as_a_list_a_mapping_or_a_file(tmp_path: Path) -> None:
    expected = ("T-shirt", "boot", "a bag")
    assert made(["T-shirt", " boot ", "a  bag"]).names == expected
    assert made({"ankle_boot": "boot", "bag": " a bag"}).names == ("t-shirt", "boot", "a bag")
    assert made({}).names == made(None).names
    file = tmp_path / "names.txt"
    for content in (
        b"T-shirt\nboot\na bag\n",
        b"T-shirt\nboot\na bag",
        b"T-shirt\r\nboot\r\na bag\r\n\r\n",
        b"\xef\xbb\xbfT-shirt\nboot\n  a bag\n",  # as Windows writes it
    ):
        file.write_bytes(content)
        assert made(str(file)).names == expected


def test_names_from_a_file_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "names.txt").write_text("übergröße\nb\nc\n", encoding="utf-8")
    assert made("~/names.txt").names == ("übergröße", "b", "c")


def test_imagenets_names_are_open_clips() -> None:
    """Two pairs of its thousand classes share a name there ("missile", "sunglasses"): they start
    alike, as in CLIP's own evaluation."""
    names = made("imagenet", classes=NUMBERED).names
    assert names == tuple(open_clip.IMAGENET_CLASSNAMES)
    assert len(set(names)) == 998
    assert "1000 names in imagenet for 3 classes" in error_of("imagenet")


@pytest.mark.parametrize(
    ("names", "classes", "words"),
    [
        (None, ("0", "1"), ["null", "'0'", "a list, a mapping", "text file"]),
        (None, ("cat", "7"), ["null", "'7'"]),
        (None, ("cat", "-_3"), ["'-_3'"]),
        (None, ("n01440764", "n01443537"), ["null", "'n01440764'"]),
        (None, ("cat", "_"), ["'_'", "empty name"]),
        ({"cat": "x"}, ("cat", "7"), ["class '7'", "no name"]),
        ({"cat": "x"}, ("cat", "n01440764"), ["class 'n01440764'", "no name"]),
        ({"cat": " "}, ("cat", "dog"), ["'cat'", "empty name"]),
        (["", "dog"], ("cat", "dog"), ["'cat'", "empty name"]),
        (["a", "a"], ("cat", "dog"), ["'cat' and 'dog'", "both called 'a'"]),
        (["Ankle boot", "ankle  Boot"], ("x", "y"), ["'x' and 'y'", "both called"]),
        (["ankle_boot", "ankle boot"], ("x", "y"), ["'x' and 'y'"]),
        (["Straße", "STRASSE"], ("x", "y"), ["'x' and 'y'"]),
        (None, ("ankle_boot", "Ankle Boot"), ["'ankle_boot' and 'Ankle Boot'"]),
        ({"x": "y"}, ("x", "y"), ["'x' and 'y'", "both called 'y'"]),
        (["a", "b", "c"], ("x", "y"), ["3 names for 2 classes", "(x and y)"]),
        ([], ("x", "y"), ["0 names"]),
        ({"cta": "cat"}, ("cat", "dog"), ["class_names", "'cta'", "cat, dog"]),
        ("no.txt", ("x", "y"), ["'no.txt'", "No such file", "imagenet"]),
        ("", ("x", "y"), ["class_names: ''", "imagenet"]),
    ],
)
def test_names_that_cannot_be_used(
    names: Any,
    classes: tuple[str, ...],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = error_of(names, classes=classes)
    assert [word for word in words if word not in text] == [], text


def test_names_that_look_odd_but_are_given_are_taken() -> None:
    """MNIST's classes are called by their numbers, if its user says so."""
    assert made(["0", "1"], templates="mnist", classes=("0", "1")).texts() == [
        'a photo of the number: "0".',
        'a photo of the number: "1".',
    ]
    assert made({"n01440764": "n01440764"}, classes=("n01440764", "cat")).names[0] == "n01440764"
    assert made(None, classes=("boeing 747", "n1234", "東京")).names[2] == "東京"


def test_a_file_of_names_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("Größe\nb\nc\n".encode("latin-1"))
    assert "not UTF-8 text" in error_of(str(file))
    assert "Is a directory" in error_of(str(tmp_path))
    file.write_text("a\n\nc\n")
    assert "class 'ankle_boot' has an empty name" in error_of(str(file))
    file.write_text("")
    assert f"0 names in {file} for 3 classes" in error_of(str(file))


def test_many_classes_are_not_all_listed() -> None:
    text = error_of(["a"], classes=NUMBERED)
    assert "1 names for 1000 classes (0, 1, 2, 3, 4 and 995 more)" in text
