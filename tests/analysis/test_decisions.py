"""The decisions table and the measures of a round equal a round counted by hand."""

import pytest
import torch

from cosup.analysis.decisions import decisions_table, round_measures
from cosup.consistency import Kept
from cosup.evidence import Scopes, Truth
from cosup.levels import ArrayAnnotations, Assignment
from cosup.probabilities import ProbTable
from cosup.rounds import Outcome

CLASSES, DOMAINS = ("cat", "dog"), ("photo", "sketch")


def outcome(guide: ProbTable | None = None) -> Outcome:
    """Return a round of four samples and two teachers (photo, sketch); the last one abstains."""
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.0, 0.0]])
    keep = torch.tensor([True, True, False, False])
    kept = Kept(keep, torch.tensor([-1, -1, 0, 1]), ("teacher_student", "abstained"))
    table = ProbTable.compress(probs)
    return Outcome(2, 1, guide, Assignment(weights, table), kept, table, table, {}, {})


SCOPES = Scopes.of([None, None], 2, [[0], [1]], 2, ["p", "s"])
# The third sample's class is unknown.
TRUTH = Truth(torch.tensor([0, 0, -1, 1]), torch.tensor([0, 0, 1, 1]))


# Teacher p says cat to all; s says cat to the first two, dog to the third, nothing to the last.
CAT, DOG, NOTHING = [0.9, 0.1], [0.2, 0.8], [0.0, 0.0]
SAID = ArrayAnnotations(
    torch.tensor([[CAT, CAT], [CAT, CAT], [CAT, DOG], [CAT, NOTHING]]),
)


def test_measures_by_hand() -> None:
    found = round_measures(outcome(), SCOPES, TRUTH, SAID)
    # Known samples 0, 1, 3: teachers p (photo: right), s (photo: wrong), s (sketch: right);
    # annotations cat (right), dog (wrong), none (wrong); kept 0 and 1.
    assert found["assignment_accuracy"] == pytest.approx(2 / 3)
    assert found["annotation_accuracy"] == pytest.approx(1 / 3)
    assert found["best_choice"] == pytest.approx(2 / 3)  # nobody says dog to sample 3
    assert found["kept"] == pytest.approx(1 / 2)
    assert found["kept_precision"] == pytest.approx(1 / 2)
    assert found["kept_recall"] == pytest.approx(1.0)


def test_without_labels_only_the_kept_share_is_known() -> None:
    unknown = Truth(torch.full((4,), -1), TRUTH.domains)
    found = round_measures(outcome(), SCOPES, unknown, SAID)
    assert found.pop("kept") == 0.5
    assert set(found.values()) == {None}


def test_the_table_by_hand() -> None:
    guide = ProbTable.compress(torch.tensor([[0.7, 0.3], [0.7, 0.3], [0.1, 0.9], [0.5, 0.5]]))
    ids = ["a", "b", "c", "d"]
    table = decisions_table(outcome(guide), SCOPES, ids, TRUTH, CLASSES, DOMAINS)
    assert list(table.columns) == [
        "sample_id",
        "round",
        "level",
        "assigned_teacher",
        "assignment_weight",
        "annotation",
        "annotation_confidence",
        "student_label",
        "student_confidence",
        "kept",
        "rejected_by",
        "loss_weight",
        "true_label",
        "domain",
    ]
    assert table["assigned_teacher"].tolist() == ["p", "s", "p", "s"]
    assert table["annotation"].tolist()[:3] == ["cat", "dog", "cat"]
    assert table["annotation"].isna().tolist() == [False, False, False, True]
    assert table["student_label"].tolist()[:3] == ["cat", "cat", "dog"]
    assert table["rejected_by"].astype(object).fillna("").tolist() == [
        "",
        "",
        "teacher_student",
        "abstained",
    ]
    assert table["loss_weight"].tolist() == [1, 1, 0, 0]
    assert table["true_label"].isna().tolist() == [False, False, True, False]
    assert table["domain"].tolist() == ["photo", "photo", "sketch", "sketch"]
    first = decisions_table(outcome(), SCOPES, ids, TRUTH, CLASSES, DOMAINS)
    assert first["student_label"].isna().all()
    assert first["student_confidence"].isna().all()
