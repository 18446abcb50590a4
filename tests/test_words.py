"""Pin the wording of errors, and of numbers, plurals, lists and intervals, in one place."""

import pickle
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

from cosup import words
from cosup.config import check_config
from cosup.errors import (
    RunError,
    UserError,
    UserErrors,
    about,
    in_short,
    unknown_name,
    unknown_of_many,
    within,
)
from cosup.words import MINUS, NONE, printable

GOOD = {"data": {"source": "digits"}, "student": {"backbone": {"name": "resnet18"}}}


def of_config(**sections: Any) -> Callable[[], object]:
    return lambda: check_config({**GOOD, **sections}, "c.yaml")


def raised(error: Exception, key: str = "", where: str = "") -> Callable[[], object]:
    def function() -> None:
        with about(where), within(key):
            raise error

    return function


ERRORS: list[tuple[Callable[[], object], str]] = [
    (raised(UserError("no teacher")), "no teacher"),
    (raised(UserError("no teacher", key="teachers")), "teachers: no teacher"),
    (
        raised(UserError("too many", key="levels", value=[1, 9], allowed="at most 4"), "teachers"),
        "teachers.levels: [1, 9]: too many (allowed: at most 4)",
    ),
    (raised(UserError("not there", key="root"), "data", "c.yaml"), "c.yaml: data.root: not there"),
    (
        raised(unknown_name("assigner", "gat", ["gate", "block"])),
        "unknown assigner 'gat'; did you mean 'gate'? (allowed: block, gate)",
    ),
    (raised(unknown_name("kind", "x", ["filters"])), "unknown kind 'x' (allowed: filters)"),
    (
        raised(unknown_of_many("model", "vgg1", ["vgg11", "vgg13", "vgg16"], "a timm name")),
        "unknown model 'vgg1'; did you mean 'vgg16', 'vgg13' or 'vgg11'? (allowed: a timm name)",
    ),
    (raised(RunError("disk full"), where="round 1, student"), "round 1, student: disk full"),
    (
        of_config(run={"seed": "one"}),
        "c.yaml: run.seed: 'one': must be a whole number of at least 0",
    ),
    (
        of_config(run={"sed": 1}),
        "c.yaml: run.sed: unknown key 'sed'; did you mean 'seed'? (allowed: loggers, name, "
        "output, seed, seeds)",
    ),
    (
        of_config(data={"source": "digits", "noise": {"kind": "symetric"}}),
        "c.yaml: data.noise.kind: 'symetric': must be one of symmetric, asymmetric, matrix; did "
        "you mean 'symmetric'?",
    ),
    (
        of_config(data={"source": "image_folder"}),
        "c.yaml: data.root: must be given: text",
    ),
    (
        of_config(rounds={"loss": {"name": "distillation", "tau": 0}}),
        "c.yaml: rounds.loss.tau: 0.0: must be from 1e-06 to 1e+06",
    ),
    (
        of_config(run={"seed": True}, execution={"backend": "rey"}),
        "c.yaml: run.seed: true: must be a whole number of at least 0\n"
        "c.yaml: execution.backend: 'rey': must be one of local, ray; did you mean 'ray'?",
    ),
]


@pytest.mark.parametrize(("function", "line"), ERRORS)
def test_errors(function: Callable[[], object], line: str) -> None:
    with pytest.raises((UserError, RunError)) as caught:
        function()
    assert str(caught.value) == line


def test_errors_survive_pickling() -> None:
    """Errors cross processes with all their data."""
    one = UserError("wrong", key="a.b", value=3, allowed="4", nearest=["c"], where="c.yaml")
    for error in (one, UserErrors([one, UserError("other", key="d")]), RunError("x", where="y")):
        copied = pickle.loads(pickle.dumps(error))
        assert type(copied) is type(error)
        assert str(copied) == str(error)
    assert pickle.loads(pickle.dumps(one)).__dict__ == one.__dict__
    missing = pickle.loads(pickle.dumps(UserError("wrong")))
    assert str(missing) == "wrong"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (words.percent(0.892), "89.2 %"),
        (words.percent(-0.032), f"{MINUS}3.2 %"),
        (words.in_percent(0.892), "89.2"),
        (words.in_percent(0.892, 0), "89"),
        (words.in_percent(-0.0001), "0.0"),
        (words.in_percent(None), NONE),
        (words.in_percent(pd.NA), NONE),
        (words.points(0.01), "1.0 point"),
        (words.points(-0.01, signed=True), f"{MINUS}1.0 point"),
        (words.points(0.148, signed=True), "+14.8 points"),
        (words.in_points(0.148), "+14.8"),
        (words.in_points(-0.148), f"{MINUS}14.8"),
        (words.in_points(0.0001), "0.0"),
        (words.in_points(float("nan")), NONE),
        (words.span(0.123, 0.177), "12.3 to 17.7"),
        (words.interval(0.1, 0.2), "[10.0, 20.0]"),
        (words.interval(-0.1, 0.2, words.in_points), f"[{MINUS}10.0, +20.0]"),
        (words.interval(None, 0.2), ""),
        (words.count(1436), "1,436"),
        (words.count(None), NONE),
        (words.p_value(0.0312), "0.031"),
        (words.p_value(0.00001), "< 0.001"),
        (words.number(-0.0000123), f"{MINUS}1.2e{MINUS}05"),
        (words.number(3.14159), "3.142"),
        (words.number(31.4159), "31.4"),
        (words.number(31415.9), "31,416"),
        (words.size(950), "950 B"),
        (words.size(12_400_000), "12 MB"),
        (words.size(3.4e9), "3.4 GB"),
        (words.duration(90), "90 seconds"),
        (words.duration(2700), "45 minutes"),
        (words.duration(9000), "2.5 hours"),
        (words.plural(1, "sample"), "1 sample"),
        (words.plural(1436, "sample"), "1,436 samples"),
        (words.plural(3, "class"), "3 classes"),
        (words.plural(2, "try"), "2 tries"),
        (words.noun(2, "domain"), "domains"),
        (words.listed([]), ""),
        (words.listed(["a"]), "a"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.listed("abcdefg", 2), "a, b and 5 more"),
        (words.ranged(["0", "1", "2"]), "0-2"),
        (words.ranged(["0", "2", "3"]), "0, 2 and 3"),
        (words.either(["a", "b", "c"]), "a, b or c"),
        (words.literal(None), "null"),
        (words.literal(True), "true"),
        (words.literal("a"), "'a'"),
        (words.literal([0] * 99), f"[{'0, ' * 25}0..."),
        (words.literal("a" * 99), f"'{'a' * 76}..."),
        (words.literal("/data" * 99), f"'{'/data' * 99}'"),
        (words.shorten("abcdefghij", 7), "abcd…ij"),
    ],
)
def test_words(made: str, text: str) -> None:
    assert made == text


SENTENCE = "The connection to the host was closed before the whole of the file was read."


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("", ""),
        ("one\n  line", "one line"),
        ("x" * 200, "x" * 200),
        ("x" * 300, "x" * 197 + "..."),
        (f"{SENTENCE} {SENTENCE} {SENTENCE} Try again.", f"{SENTENCE} {SENTENCE}"),
        ("word " * 50, "word " * 38 + "word..."),
        ("No. " + "word " * 50, "No. " + "word " * 37 + "word..."),
    ],
)
def test_a_long_text_is_cut_at_a_sentence_or_a_word(text: str, short: str) -> None:
    assert words.brief(text) == short
    assert len(words.brief(text)) <= 200


def test_a_full_gpu_is_told_with_the_settings_that_need_less() -> None:
    told = (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB "
        "of which 5.00 MiB is free. Including non-PyTorch memory, this process has 79.09 GiB "
        "memory in use. See documentation for Memory Management"
    )
    found = in_short(torch.OutOfMemoryError(told), named=True)
    assert "20.00 MiB" in found
    assert "5.00 MiB is free" in found
    assert "execution.batch_size" in found
    assert "accumulate" in found
    assert "\n" not in found


def test_errors_of_other_libraries_in_short() -> None:
    assert in_short(ValueError("a\nb")) == "a b"
    assert in_short(ValueError()) == "ValueError"
    assert in_short(ValueError("a"), named=True) == "ValueError: a"
    assert in_short(ValueError(), named=True) == "ValueError"
    assert len(in_short(ValueError("word " * 99))) <= 200


def test_printable_text_moves_no_cursor() -> None:
    assert printable("é = 1") == "é = 1"
    assert printable("a\x1b[2J\x07\n\u202eb") == "a\\x1b[2J\\x07\\n\\u202eb"
    assert printable("\ud800").encode()


def test_control_characters_are_told_and_other_letters_stay() -> None:
    plain = "数字の三 رقم 5 %\u00a0é\n\ttext 👩\u200d🔬"
    assert words.visible(plain) == plain
    assert words.visible("a\x1b[2Jb\x9b\x07\u202ec") == "a\\u001b[2Jb\\u009b\\u0007\\u202ec"


def test_the_refusal_of_a_pickle_gives_no_advice() -> None:
    assert "weights_only" not in in_short(pickle.UnpicklingError("set weights_only=False"))
