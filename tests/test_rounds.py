"""Rounds on real digits: every assigner, filter and loss, and resuming."""

from dataclasses import replace
from itertools import cycle

import pytest
import torch
from helpers.digits_task import (
    CLASSES,
    class_prototypes,
    digits_task,
    new_student,
    recipe,
    student_section,
)

import cosup.models.fit
from cosup.assigning import harden
from cosup.assignment import (
    ASSIGNERS,
    Agreement,
    Confidence,
    DawidSkene,
    Fused,
    Gate,
    Oracle,
    Random,
)
from cosup.consistency import FILTERS, LocalGlobal, TeacherStudent
from cosup.errors import RunError
from cosup.levels import MAX_ELEMENTS, ArrayAnnotations, Stream
from cosup.losses import LOSSES, AdaptiveConfidence, CrossEntropy, Objective
from cosup.models.compute import Compute
from cosup.probabilities import ProbTable
from cosup.rounds import RoundState, run_rounds, run_rounds_together
from cosup.student.head import HeadStudent
from cosup.student.setup import StudentSetup


def accuracy(probs, labels):
    return float((probs.top()[0] == labels).float().mean())


def test_levels_go_from_coarse_to_fine_each_repeated():
    assert recipe(new_student(), repeat=2).schedule(2) == [(1, 0), (2, 0), (3, 1), (4, 1)]


def test_fused_has_rounds_of_the_finest_level_alone():
    fused = replace(recipe(new_student(), Fused()), least=3)
    assert fused.schedule(2) == [(1, 1), (2, 1), (3, 1)]


@pytest.mark.parametrize("assigner", sorted(ASSIGNERS))
def test_every_assigner_runs_every_round_on_real_digits(assigner):
    task, labels = digits_task(600)
    settings = {"teacher": "teacher_0"} if assigner == "single" else {}
    built = ASSIGNERS[assigner].load()(**settings)
    make = new_student(training={"steps": 75, "batch_size": 64, "lr": 0.06})
    outcomes = list(run_rounds(task, recipe(make, built), seed=0))
    levels = [1] if built.fuses else [0, 1]
    assert [(o.number, o.level) for o in outcomes] == list(enumerate(levels, start=1))
    for outcome in outcomes:
        weights = outcome.assigned.weights
        assert torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-5)
        assert len(outcome.train_probs) == len(weights)
    # Chance is 0.1; one weight, or one chance to be right, for all samples of a teacher cannot tell
    # class specialists apart.
    least = {"raven": 0.6, "crowd_kit": 0.3}.get(assigner, 0.7)
    assert accuracy(outcomes[0].test_probs, labels) > least


# Every filter with one loss, and every loss with one filter, each filter in turn. Filters read the
# student's probabilities and losses what is kept, so that nothing is written for a pair.
IN_TURN = zip(cycle(sorted(FILTERS.keys() - {"unanimity"})), sorted(LOSSES), strict=False)
PAIRS = sorted({*IN_TURN, *((name, "cross_entropy") for name in FILTERS)})


def test_pairs_have_every_filter_and_every_loss():
    filters, losses = map(set, zip(*PAIRS, strict=True))
    assert (filters, losses) == (set(FILTERS), set(LOSSES))


@pytest.mark.parametrize(("name", "loss"), PAIRS)
def test_every_filter_and_loss_runs_on_real_digits(name, loss):
    task, labels = digits_task(600)
    reads = "labels" in FILTERS[name].settings().needs
    objective = Objective(LOSSES[loss].load()(), 1.0, 0.1 if reads else 0.0)
    training = {"steps": 75, "batch_size": 64, "lr": 0.06}
    make = new_student(training=training)
    built = recipe(make, Oracle(), {name: FILTERS[name].load()()}, objective)
    rounds = run_rounds(task, built, seed=0)
    if name == "unanimity":
        # Disjoint class specialists never agree, so nothing is kept.
        with pytest.raises(RunError, match="unanimity"):
            list(rounds)
        return
    outcome = list(rounds)[-1]
    assert 0 < outcome.kept.keep.float().mean() <= 1
    if loss != "evidential":  # at so large a rate all of its evidence is lost
        assert accuracy(outcome.test_probs, labels) > 0.7


def test_the_oracle_beats_random_assignment():
    task, labels = digits_task()
    found = {}
    for name, assigner in (("oracle", Oracle()), ("random", Random())):
        outcome = list(run_rounds(task, recipe(new_student(), assigner), seed=0))[-1]
        found[name] = accuracy(outcome.test_probs, labels)
    assert found["oracle"] > found["random"] + 0.1


def test_rejected_samples_are_not_learned():
    # With all annotations of one class rejected, the student never predicts it.
    task, _ = digits_task()
    student = new_student()(Objective(LOSSES["cross_entropy"].load()()), 0)
    outcome = list(run_rounds(task, recipe(new_student(), Oracle()), seed=0))[-1]
    keep = outcome.assigned.targets.top()[0] != 3
    hard = torch.nn.functional.one_hot(outcome.assigned.targets.top()[0], CLASSES).float()
    student.update(task.inputs, ProbTable.compress(hard), keep.float())
    assert not (student.predict(task.test_inputs).top()[0] == 3).any()


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("repeat", [1, 2])
def test_resumed_rounds_equal_uninterrupted_ones(fresh, repeat):
    task, _ = digits_task(300)
    student = new_student(training={"steps": 40, "batch_size": 64, "lr": 0.06})
    filters = {"local_global": LocalGlobal(), "coarser": LocalGlobal(against="coarser")}
    built = recipe(student, Agreement(), filters, fresh=fresh, repeat=repeat)
    whole = list(run_rounds(task, built, seed=3))
    for cut in range(1, len(whole)):
        state = RoundState()
        for outcome in whole[:cut]:
            state = state.at(outcome.level).after(outcome)
        rest = list(run_rounds(task, built, seed=3, state=state))
        assert [o.number for o in rest] == [o.number for o in whole[cut:]]
        for again, first in zip(rest, whole[cut:], strict=True):
            assert torch.equal(again.kept.keep, first.kept.keep)
            assert torch.equal(again.test_probs.logs, first.test_probs.logs)


@pytest.mark.parametrize("folds", [0, 3])
def test_recipes_run_together_equal_each_alone(folds):
    """With other assigners, filters, losses and numbers of rounds: a choice changes no result."""
    task, _ = digits_task(300)
    fold = torch.arange(300) % folds if folds else None
    make = new_student(fold, training={"steps": 25, "batch_size": 64, "lr": 0.06}, cross_fit=folds)
    adaptive = Objective(AdaptiveConfidence())

    def recipes():
        yield recipe(make, Gate())
        yield recipe(make, Gate(), objective=adaptive)
        yield recipe(make, Agreement(), {"teacher_student": TeacherStudent()}, repeat=2)
        yield recipe(make, DawidSkene(), hard=True, fresh=False)

    together = list(zip(*run_rounds_together([(task, r) for r in recipes()], seed=1), strict=True))
    assert [sum(o is not None for o in column) for column in together] == [2, 2, 4, 2]
    for column, alone in zip(together, recipes(), strict=True):
        found = [outcome for outcome in column if outcome is not None]
        for one, other in zip(found, run_rounds(task, alone, seed=1), strict=True):
            assert (one.number, one.level) == (other.number, other.level)
            assert torch.equal(one.kept.keep, other.kept.keep)
            assert torch.equal(one.train_probs.logs, other.train_probs.logs)
            assert torch.equal(one.test_probs.logs, other.test_probs.logs)


def test_rounds_that_no_later_one_depends_on_can_be_left_out():
    task, _ = digits_task(300)
    make = new_student(training={"steps": 15, "batch_size": 64, "lr": 0.06})

    def recipes():
        yield recipe(make, DawidSkene(), repeat=2)
        yield recipe(make, Agreement())
        yield recipe(make, DawidSkene(), {"teacher_student": TeacherStudent()})
        yield recipe(make, DawidSkene(), fresh=False)

    plans = [(task, each) for each in recipes()]
    columns = list(zip(*run_rounds_together(plans, seed=1, needed=True), strict=True))
    assert [sum(o is not None for o in column) for column in columns] == [1, 2, 2, 2]
    for column, each in zip(columns, recipes(), strict=True):
        found = [outcome for outcome in column if outcome is not None][-1]
        *_, alone = run_rounds(task, each, seed=1)
        assert found.number == alone.number
        assert torch.equal(found.test_probs.logs, alone.test_probs.logs)


def test_the_students_of_several_recipes_draw_their_batches_once(monkeypatch):
    task, _ = digits_task(300)
    make = new_student(training={"steps": 5, "batch_size": 64, "lr": 0.06})
    loops = []
    build = cosup.models.fit.build_optimizer
    monkeypatch.setattr(
        "cosup.models.fit.build_optimizer",
        lambda model, training: loops.append(len(model)) or build(model, training),
    )
    several = [recipe(make, Gate()), recipe(make, Gate(), hard=True), recipe(make, DawidSkene())]
    list(run_rounds_together([(task, r) for r in several], seed=0))
    expected = [2, 3]  # in round 1 two of them learn the same of the only teacher
    assert loops == expected, "one loop for each of the two rounds"


def test_batches_do_not_change_the_outcome(monkeypatch):
    task, _ = digits_task()
    make = new_student(training={"steps": 40, "batch_size": 64, "lr": 0.06})
    built = recipe(make, DawidSkene(), {"teacher_student": TeacherStudent()})
    whole = list(run_rounds(task, built, seed=0))[-1]
    monkeypatch.setattr("cosup.levels.MAX_ELEMENTS", 2 * CLASSES * 37)
    parts = list(run_rounds(task, built, seed=0))[-1]
    assert MAX_ELEMENTS > 2 * CLASSES * 900
    assert torch.equal(whole.kept.keep, parts.kept.keep)
    torch.testing.assert_close(whole.assigned.weights, parts.assigned.weights)


def test_truth_and_features_are_passed_on_if_needed_only():
    task, _ = digits_task()
    stream = Stream(task.levels[1], None, task.features, task.truth)
    assert next(iter(stream.restricted(frozenset()))).truth is None
    assert next(iter(stream.restricted(frozenset()))).features is None
    assert next(iter(stream.restricted(frozenset({"truth"})))).truth is not None


def test_abstentions_are_rejected_with_a_reason():
    task, _ = digits_task()
    level = task.levels[1]
    annotations = level.annotations.annotations.clone()
    annotations[:50] = 0
    silent = replace(task, levels=(replace(level, annotations=ArrayAnnotations(annotations)),))
    outcome = next(run_rounds(silent, recipe(new_student(), Confidence()), seed=0))
    assert not outcome.kept.keep[:50].any()
    assert outcome.kept.keep[50:].all()
    assert outcome.kept.reason()[:50] == ["abstained"] * 50


def test_a_short_run_keeps_its_numbers():
    # Pinned: what two rounds gave when this was written. A change here is a change of results and
    # needs a reason. Processors round differently: by the second round a few samples are assigned
    # or kept differently (AVX2 keeps 810, AVX-512 814), and one such sample changes every later
    # batch. So the second round is pinned at its first step, and by its counts to 1 % of 900.
    task, labels = digits_task()
    curve: list[float] = []

    def make(loss, seed):
        def look(step, value, metrics):
            if step in (1, 50, 100, 150):
                curve.append(value)

        section, device = student_section(), torch.device("cpu")
        setup = StudentSetup(section, CLASSES, Compute(device), on_step=look)
        return HeadStudent(setup, loss, seed)

    filters = {"teacher_student": TeacherStudent(), "local_global": LocalGlobal()}
    objective = Objective(AdaptiveConfidence())
    built = recipe(make, Gate(prior="provenance"), filters, objective)
    first, second = run_rounds(task, built, seed=0)
    assert curve[:5] == pytest.approx([1.9301, 0.1957, 0.1530, 0.1526, 2.0810], rel=0.01)
    assert [int(o.kept.keep.sum()) for o in (first, second)] == [900, pytest.approx(814, abs=9)]
    right = [int((o.test_probs.top()[0] == labels).sum()) for o in (first, second)]
    assert right == [pytest.approx(429, abs=2), pytest.approx(442, abs=9)]


def test_a_student_that_starts_from_text_guides_its_first_round() -> None:
    task, _ = digits_task()
    make = new_student(prototypes=class_prototypes(), head={"kind": "prototype"})
    untrained = make(Objective(CrossEntropy()), 0).predict(task.inputs)
    built = recipe(make, Agreement(), student_first=True)
    outcomes = list(run_rounds(task, built, 0))
    assert torch.equal(outcomes[0].guide.dense(), untrained.dense())
    assert not torch.equal(outcomes[1].guide.dense(), untrained.dense())
    plain = next(run_rounds(task, replace(built, student_first=False), 0))
    assert plain.guide is None
    # A resumed run does not use the untrained student.
    rest = list(run_rounds(task, built, 0, RoundState().after(outcomes[0])))
    assert torch.equal(rest[0].test_probs.dense(), outcomes[1].test_probs.dense())


@pytest.mark.parametrize("classes", [4, 80])
@pytest.mark.parametrize("hard", [False, True])
def test_reviewed_classes_stand_in_place_of_annotations(classes: int, hard: bool) -> None:
    probs = torch.rand(5, classes, generator=torch.Generator().manual_seed(0)).softmax(1)
    table = ProbTable.compress(probs)
    targets = harden(table) if hard else table
    reviewed = torch.tensor([-1, 3, -1, classes - 1, 0])
    task = replace(digits_task()[0], reviewed=reviewed)
    found, weights = task.with_reviewed(targets, torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0]))
    rows = reviewed >= 0
    expected = torch.nn.functional.one_hot(reviewed[rows], classes).float()
    assert torch.equal(found.dense()[rows], expected)
    assert torch.equal(found.dense()[~rows], targets.dense()[~rows])
    assert weights.tolist() == [0.0, 1.0, 0.5, 1.0, 1.0]
    assert torch.equal(targets.dense(), (harden(table) if hard else table).dense())


def test_live_teachers_are_asked_by_their_weights_and_not_where_a_class_was_given(monkeypatch):
    task, _ = digits_task(300)
    reviewed = torch.full((len(task.inputs),), -1)
    reviewed[5] = 3
    guided, update = [], HeadStudent.update
    monkeypatch.setattr(
        HeadStudent, "update", lambda self, *given: guided.append(given[3]) or update(self, *given)
    )
    mean = recipe(new_student(), ASSIGNERS["mean"].load()())
    (outcome,) = run_rounds(replace(task, levels=task.levels[1:], reviewed=reviewed), mean, 0)
    mixture = guided[-1].mixture
    assert not mixture[5].any()
    others = torch.arange(len(mixture)) != 5
    assert torch.equal(mixture[others], outcome.assigned.weights[others])
    assert (mixture[others] > 0).sum(1).eq(2).any()
