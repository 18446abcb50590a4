"""The controls on real digits: what each is trained on, with the run's loss, start and steps."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from helpers.digits_task import (
    BLOCKS,
    CLASSES,
    annotate,
    class_prototypes,
    digits,
    digits_task,
    new_student,
    recipe,
)
from sklearn.metrics.pairwise import cosine_similarity

from cosup.assignment import Agreement, LossOracle
from cosup.consistency import TeacherStudent
from cosup.control_runs import ControlRun, LabelledSamples, TeamSamples, run_controls
from cosup.controls import BAGGED, CONTROLS, GENERALIST, LABELS, PAIR, TEAM, Absent
from cosup.errors import RunError
from cosup.evidence import Evidence, Truth
from cosup.levels import ArrayAnnotations
from cosup.losses import AdaptiveConfidence, CrossEntropy, Objective
from cosup.losses.base import Loss
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance
from cosup.rounds import run_rounds
from cosup.seeds import seed_for

TRAIN, TEST = slice(0, 300), slice(1300, 1797)
LOSS = Objective(AdaptiveConfidence())
FILTER = {"teacher_student": TeacherStudent(mode="mask", k=1)}
FEW = {"steps": 12, "batch_size": 64, "lr": 0.03}
"""Steps for what does not depend on how much is learnt."""


def control_run(task=None, own=None, **fields):
    task = task or digits_task()[0]
    own = own or recipe(new_student(), filters=FILTER, objective=LOSS)
    pixels, labels = digits()
    known = torch.from_numpy(labels[TRAIN])
    labelled = LabelledSamples(torch.from_numpy(pixels[TRAIN]), known, own.new_student)
    generalists = {GENERALIST: task.levels[0], BAGGED: task.levels[-1]}
    given = {"trained": generalists, "labelled": labelled, **fields}
    return ControlRun(task, own, 0, task.levels[0], own.new_student, **given)


def answers(name, run):
    """Return the test probabilities of one control; raise `Absent` where it is absent."""
    found, absent = run_controls(run, [name])
    if absent:
        raise Absent(absent[name])
    return found[name]


def labels_of(name, run):
    return answers(name, run).top()[0]


def accuracy(name, run):
    return float((labels_of(name, run) == digits_task()[1]).float().mean())


def team_samples(task, own):
    *_, last = run_rounds(task, own, 0)
    annotations = torch.stack([annotate(block, TRAIN, TEST) for block in BLOCKS], 1)
    level = replace(task.levels[1], annotations=ArrayAnnotations(annotations))
    domains = torch.zeros(len(annotations), dtype=torch.int64)
    return TeamSamples(level, last.assigner, last.test_probs, task.test_inputs, domains)


@pytest.fixture(scope="module")
def found():
    run = control_run()
    run = replace(run, team_samples=team_samples(run.task, run.recipe))
    # This student cannot predict before it is trained; `student_and_team` is computed by a stage.
    left_out = ("zero_shot", PAIR)
    return {name: accuracy(name, run) for name in CONTROLS if name not in left_out}


def test_every_control_learns_something(found):
    assert min(found.values()) > 0.3, found


def test_the_ceiling_is_above_every_weak_supervision(found):
    assert found["ceiling"] == max(found.values())


def test_oracles_are_above_random_assignment(found):
    assert found["loss_oracle"] >= found["oracle_assignment"] > found["random_assignment"]


def test_without_filters_the_rounds_before_the_oracles_last_one_change_nothing():
    """As each round starts from a fresh head, and the oracle reads no student."""
    task, _ = digits_task()
    plain = control_run(task, recipe(new_student(training=FEW), objective=LOSS))
    once, last = (answers(f"oracle_{name}", plain) for name in ("without_rounds", "assignment"))
    torch.testing.assert_close(once.dense(), last.dense())


def test_controls_repeat_exactly(found):
    for name in ("self_training", "random_assignment", "labels"):
        assert accuracy(name, control_run()) == found[name]


def test_controls_together_are_the_controls_alone():
    """Their heads share a loop, and each keeps the numbers that it has by itself."""
    own = recipe(new_student(training=FEW), filters=FILTER, objective=LOSS)
    run = control_run(own=own)
    names = [name for name in TRAINED if name != "zero_shot"]
    together, absent = run_controls(run, names)
    assert not absent
    for name in names:
        assert torch.equal(together[name].dense(), answers(name, run).dense()), name


def test_absent_controls_do_not_hold_up_the_others():
    run = control_run(labelled=None, reasons=NAMES)
    found, absent = run_controls(run, [LABELS, "ceiling"])
    assert set(found) == {"ceiling"}
    assert absent == {LABELS: NAMES[LABELS]}


def test_routing_that_no_student_guides_is_trained_once():
    """Random routing needs no round before the last."""
    run = control_run(
        own=recipe(new_student(training=FEW), Agreement(), objective=Objective(Spy()))
    )
    for name, rounds in (("random_assignment", 1), ("self_training", 2)):
        Spy.calls = 0
        answers(name, run)
        assert Spy.calls == FEW["steps"] * rounds, name


@dataclass
class Breaks(Loss):
    """A loss that is not finite after some steps."""

    def __call__(self, logits, targets, progress):
        losses, metrics = CrossEntropy()(logits, targets, progress)
        return losses / (progress < 0.5), metrics


def test_a_failure_names_its_control():
    """Controls that fail in one loop are run alone, to tell which of them fails."""
    run = control_run(own=recipe(new_student(), objective=Objective(Breaks())))
    with pytest.raises(RunError, match="control ceiling"):
        run_controls(run, ["plain_loss", "ceiling"])


def test_zero_shot_is_the_student_before_any_training() -> None:
    task, labels = digits_task()
    head = {"kind": "prototype", "scale": 20.0}
    make = new_student(prototypes=class_prototypes(), head=head)
    predicted = answers("zero_shot", control_run(task, recipe(make)))
    # Independently: the nearest prototype by cosine.
    expected = cosine_similarity(task.test_inputs.numpy(), class_prototypes().numpy())
    assert torch.equal(predicted.top()[0], torch.from_numpy(expected.argmax(1)))
    torch.testing.assert_close(
        predicted.dense(), torch.from_numpy(20 * expected).softmax(1).float(), atol=1e-3, rtol=0
    )
    assert 0.6 < float((predicted.top()[0] == labels).float().mean()) < 0.95


def test_unknown_labels_are_left_out_of_the_ceiling():
    task, labels = digits_task()
    unknown = task.truth.labels.clone()
    unknown[task.truth.labels == 3] = -1
    blind = replace(task, truth=replace(task.truth, labels=unknown))
    predicted = labels_of("ceiling", control_run(blind))
    assert not (predicted == 3).any()
    assert (predicted == labels)[labels != 3].float().mean() > 0.9


@dataclass
class Spy(Loss):
    """Cross-entropy that counts how often it is computed."""

    calls = 0

    def __call__(self, logits, targets, progress):
        Spy.calls += 1
        return CrossEntropy()(logits, targets, progress)


TRAINED = [name for name, control in CONTROLS.items() if control.is_trained]
RERUNS = ("random_assignment", "no_filter", "oracle_assignment", "self_training")


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "plain_loss"])
@pytest.mark.parametrize("fresh", [True, False])
def test_controls_have_the_loss_and_the_steps_of_the_run(name, fresh):
    """With a fresh head each of the two rounds starts anew, and one-shot controls train once."""
    own = recipe(new_student(training=FEW), filters=FILTER, objective=Objective(Spy()), fresh=fresh)
    run = control_run(own=own)
    Spy.calls = 0
    answers(name, run)
    rounds = 1 if fresh and name not in RERUNS else 2
    assert Spy.calls == FEW["steps"] * rounds


def update(student, inputs, labels, given=None):
    targets = ProbTable.one_hot(labels, CLASSES)
    student.update(inputs, targets, torch.ones(len(labels)), Guidance(given))
    return student


def test_controls_continue_from_the_student_before_where_the_run_does():
    task, _ = digits_task()
    own = recipe(new_student(training=FEW), objective=LOSS, fresh=False)
    student = None
    for number in (1, 2):
        before, student = student, own.new_student(LOSS, seed_for(0, "round", number))
        if before is not None:
            student.load_state_dict(before.state_dict())
        update(student, task.inputs, task.truth.labels)
    found = answers("ceiling", control_run(task, own))
    assert torch.equal(found.dense(), student.predict(task.test_inputs).dense())


def test_the_control_labels_is_the_student_on_the_teachers_samples():
    task, _ = digits_task()
    pixels, labels = digits()
    student = new_student(training=FEW)(LOSS, seed_for(0, "round", 2))
    update(student, torch.from_numpy(pixels[TRAIN]), torch.from_numpy(labels[TRAIN]))
    found = answers(LABELS, control_run(own=recipe(new_student(training=FEW), objective=LOSS)))
    assert torch.equal(found.dense(), student.predict(task.test_inputs).dense())


def test_the_team_is_the_assigner_on_test_samples():
    task, _ = digits_task()
    own = recipe(new_student(training=FEW), Agreement(), objective=LOSS)
    samples = team_samples(task, own)
    found = answers(TEAM, control_run(task, own, team_samples=samples))
    annotations = samples.level.annotations.annotations
    evidence = Evidence(samples.student.dense(), annotations)
    expected = Agreement().assign(evidence, samples.level.scopes).targets
    torch.testing.assert_close(found.dense(), expected, atol=1e-3, rtol=0)


def test_variants_are_the_run_with_one_part_changed():
    task, _ = digits_task()
    make = new_student(training=FEW)
    run = control_run(own=recipe(make, filters=FILTER, objective=LOSS))
    without = recipe(make, objective=LOSS)
    plain = recipe(make, filters=FILTER)
    for name, expected in (("no_filter", without), ("plain_loss", plain)):
        *_, last = run_rounds(task, expected, 0)
        assert torch.equal(answers(name, run).dense(), last.test_probs.dense())


def test_self_training_starts_from_the_best_teacher_without_a_generalist():
    """The levels are specialists alone; then from the generalist, which is the best teacher."""
    task, _ = digits_task()
    specialists = replace(task, levels=(task.levels[1], task.levels[1]))
    run = control_run(task, recipe(new_student(training=FEW), filters=FILTER, objective=LOSS))
    alone = replace(run, task=specialists)
    assert torch.equal(labels_of("self_training", alone), labels_of("self_training", run))


def test_self_training_goes_on_from_own_predictions():
    task, _ = digits_task()
    first = control_run(replace(task, levels=task.levels[:1]))
    once, twice = accuracy("self_training", first), accuracy("self_training", control_run(task))
    assert once == accuracy("best_teacher", first)
    assert once != twice


def test_labels_of_the_objective_are_used_as_in_the_run():
    """With labels alone in the objective, annotations have no influence."""
    objective = Objective(CrossEntropy(), annotation_weight=0, true_label_weight=1)
    run = control_run(own=recipe(new_student(training=FEW), objective=objective))
    student = new_student(training=FEW)(objective, seed_for(0, "round", 2))
    labels = run.task.labels
    update(student, run.task.inputs, labels, given=labels)
    expected = student.predict(run.task.test_inputs).dense()
    for name in ("best_teacher", "mean_ensemble", "given_labels"):
        found = answers(name, run).dense()
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_the_loss_oracle_never_chooses_a_teacher_with_more_loss():
    task, _ = digits_task()
    annotations = task.levels[1].annotations.annotations
    annotations = annotations.clone()
    annotations[::7, 0] = 0  # an abstention
    labels = task.truth.labels.clone()
    labels[5] = -1
    truth = Truth(labels, task.truth.domains)
    evidence = Evidence(annotations.mean(1), annotations, truth=truth)
    scopes = task.levels[1].scopes
    weights = LossOracle().weights(evidence, scopes)
    assert torch.equal(weights.sum(1), torch.ones(len(labels)))
    known = labels >= 0
    each = -annotations.double()[known, :, labels[known]].log()
    chosen = each.gather(1, weights[known].argmax(1)[:, None])[:, 0]
    answers = annotations[known].sum(2) > 0
    assert torch.equal(chosen, each.masked_fill(~answers, torch.inf).min(1).values)
    assert (weights[::7, 1] == 1).all()  # the one that answers, though it may not know the class


def reason_of(name, run):
    with pytest.raises(Absent) as found:
        answers(name, run)
    return str(found.value)


NAMES: Mapping[str, str] = {GENERALIST: "g", BAGGED: "b", LABELS: "l", TEAM: "t"}


@pytest.mark.parametrize("name", NAMES)
def test_a_control_without_its_teachers_or_samples_is_absent_with_the_reason(name):
    run = control_run(trained={}, labelled=None, reasons=NAMES)
    assert reason_of(name, run) == NAMES[name]


def test_controls_that_would_repeat_the_run_are_absent():
    run = control_run(own=recipe(new_student(training=FEW)))
    assert reason_of("no_filter", run) != reason_of("plain_loss", run)


def test_controls_that_read_labels_are_absent_where_none_is_known():
    task, _ = digits_task()
    none = torch.full_like(task.labels, -1)
    blind = replace(task, truth=replace(task.truth, labels=none), labels=none)
    run = control_run(blind)
    for control in CONTROLS.values():
        if control.reads_labels:
            assert reason_of(control.name, run)


def test_a_team_that_never_answers_is_absent():
    task, _ = digits_task()
    own = recipe(new_student(training=FEW), objective=LOSS)
    samples = team_samples(task, own)
    silent = ArrayAnnotations(torch.zeros_like(samples.level.annotations.annotations))
    samples = replace(samples, level=replace(samples.level, annotations=silent))
    assert reason_of(TEAM, control_run(task, own, team_samples=samples))


def test_bounds_read_labels():
    assert all(control.reads_labels for control in CONTROLS.values() if control.is_bound)


def test_student_and_team_are_absent_without_a_team() -> None:
    paired = ProbTable.one_hot(digits_task()[1], 10)
    assert accuracy(PAIR, control_run(paired=paired)) == 1
    with pytest.raises(Absent, match="no teacher"):
        answers(PAIR, control_run(reasons={PAIR: "no teacher"}))
