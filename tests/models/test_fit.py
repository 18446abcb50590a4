"""Fitting heads: against scikit-learn on real digits, and that heads stay apart."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from helpers.student_jobs import same
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from cosup.errors import RunError
from cosup.losses.adaptive_confidence import AdaptiveConfidence
from cosup.losses.base import Loss, Metrics, Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.models.fit import fit_heads, fit_together, predict_heads
from cosup.models.head_fit import HeadFit
from cosup.models.heads import HeadBank, text_heads
from cosup.models.optimize import build_optimizer, rate_share
from cosup.models.samples import Draws, Samples, Shuffle, column_scaling, hard_labels, one_hot
from cosup.models.section import HeadSection
from cosup.models.training_section import TrainingSection
from cosup.models.watch import Watched
from cosup.probabilities import ProbTable

PIXELS, DIGITS = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
FEATURES = PIXELS.to(torch.float16)
TARGETS = ProbTable.compress(functional.one_hot(DIGITS, 10).float())
TRAIN, TEST = torch.arange(1200), torch.arange(1200, 1797)


def fit(members: list[Tensor], **changes: object) -> HeadBank:
    settings: dict[str, object] = {
        "head": HeadSection(),
        "training": TrainingSection(steps=60, lr=0.02, standardize=True),
        "objective": Objective(CrossEntropy()),
        "seed": 0,
        "targets": TARGETS,
    }
    on_step = changes.pop("on_step", None)
    made = HeadFit(FEATURES, members=members, **{**settings, **changes})  # type: ignore[arg-type]
    return fit_heads(made, on_step=on_step)  # type: ignore[arg-type]


def test_watching_the_accuracy_changes_nothing() -> None:
    """Of two heads that share a loop the first is watched: its accuracy after the last step is that
    of the fitted head, and both are equal to those that are not watched."""
    settings = {"members": [TRAIN, TRAIN[:600]], "training": TrainingSection(steps=120, lr=0.02)}
    plain = fit(**settings)  # type: ignore[arg-type]
    found: dict[int, float] = {}
    rates: list[float] = []

    def look(step: int, loss: float, metrics: Metrics) -> None:
        rates.append(float(metrics["learning_rate"]))
        if "validation_accuracy" in metrics:
            found[step] = float(metrics["validation_accuracy"])

    watched = Watched(FEATURES[TEST], DIGITS[TEST])
    seen = fit(**settings, watched=watched, on_step=look)  # type: ignore[arg-type]
    for name, value in plain.state_dict().items():
        assert torch.equal(seen.state_dict()[name], value)
    assert list(found) == [50, 100, 120]
    assert found[120] == pytest.approx(accuracy(predict_heads(plain, FEATURES)[0]), abs=2e-3)
    assert found[120] > 0.85
    assert rates[0] == pytest.approx(0.02)
    assert len(rates) == 120
    assert rates[-1] < 0.02 / 50


def accuracy(table: ProbTable) -> float:
    return float((table.top()[0][TEST] == DIGITS[TEST]).float().mean())


def test_a_linear_head_is_as_good_as_logistic_regression() -> None:
    x, y = PIXELS.numpy(), DIGITS.numpy()
    scaled = (x - x[:1200].mean(0)) / np.maximum(x[:1200].std(0), 1e-6)
    oracle = LogisticRegression(max_iter=100).fit(scaled[:1200], y[:1200])
    bank = fit([TRAIN], training=TrainingSection(epochs=15, lr=0.02, standardize=True))
    assert accuracy(predict_heads(bank, FEATURES)[0]) > oracle.score(scaled[1200:], y[1200:]) - 0.03


def test_a_head_goes_to_the_minimum_that_scikit_learn_finds() -> None:
    """Full batches with soft targets of mixed classes: a smooth, bounded problem."""
    rows = torch.arange(100)
    soft = 0.7 * functional.one_hot(DIGITS, 10).float() + 0.03
    training = TrainingSection(steps=600, batch_size=100, lr=0.05, standardize=True)
    bank = fit([rows], targets=ProbTable.compress(soft), training=training)
    ours = bank(FEATURES[rows])[0].softmax(1).detach()
    # Each sample once per class, weighted by its target: the same objective, for scikit-learn.
    x = ((FEATURES[rows].float() - bank.shift[0]) * bank.gain[0]).numpy()
    weight = soft[rows].numpy().flatten()
    oracle = LogisticRegression(C=1e4, max_iter=1000)
    oracle.fit(np.repeat(x, 10, axis=0), np.tile(np.arange(10), 100), sample_weight=weight)
    theirs = torch.from_numpy(oracle.predict_proba(x))
    assert (ours - theirs).abs().mean() < 0.01


@pytest.mark.parametrize("kind", ["linear", "prototype"])
def test_heads_fitted_together_equal_heads_fitted_alone(kind: str) -> None:
    """Of equal batch size: batches are drawn per head, and gradients of a sum don't mix."""
    members = [TRAIN[:600], TRAIN[300:1100], TRAIN[100:300]]
    head = HeadSection(kind=kind)
    together = fit(members, head=head)
    alone = fit(members[:1], head=head)
    torch.testing.assert_close(alone.weight, together.weight[:1], rtol=1e-4, atol=1e-5)
    swapped = fit([members[0], members[2], members[1]], head=head)
    torch.testing.assert_close(swapped.weight[0], together.weight[0], rtol=1e-4, atol=1e-5)


def test_a_head_sees_its_own_members_alone() -> None:
    zeros, ones = (torch.where(DIGITS[:1200] == c)[0] for c in (0, 1))
    tables = predict_heads(fit([zeros, ones, TRAIN[:20]]), FEATURES)
    assert (tables[0].top()[0][zeros] == 0).all()
    assert (tables[1].top()[0][ones] == 1).all()
    assert accuracy(tables[0]) < 0.35  # of ten classes it has heard of one


def test_the_same_seed_gives_the_same_head_bit_by_bit() -> None:
    first, again, other = fit([TRAIN]), fit([TRAIN]), fit([TRAIN], seed=1)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


@pytest.mark.parametrize("hard", [True, False])
def test_weights_of_zero_leave_samples_out(hard: bool) -> None:
    wrong = torch.cat([DIGITS[:600], (DIGITS[600:] + 1) % 10])
    targets = ProbTable.compress(functional.one_hot(wrong, 10).float())
    weights = (torch.arange(1797) < 600).float()
    bank = fit([TRAIN], targets=targets, weights=weights, hard=hard)
    assert accuracy(predict_heads(bank, FEATURES)[0]) > 0.85


def test_hard_targets_are_the_most_probable_class_and_abstentions_teach_nothing() -> None:
    table = ProbTable.compress(torch.tensor([[0.4, 0.6], [0.0, 0.0], [1.0, 0.0]]))
    labels = hard_labels(table)
    assert labels.tolist() == [1, -1, 0]
    assert one_hot(labels, 2).tolist() == [[0, 1], [0, 0], [1, 0]]


def test_prototypes_start_at_class_means() -> None:
    """After one step of next to no rate: already far better than chance."""
    training = TrainingSection(steps=1, lr=1e-9)
    bank = fit([TRAIN], head=HeadSection(kind="prototype"), training=training)
    unit = functional.normalize(FEATURES[TRAIN].float(), dim=1)
    mean = functional.normalize(unit[DIGITS[TRAIN] == 3].mean(0), dim=0)
    torch.testing.assert_close(bank.weight[0, 3], mean, atol=1e-4, rtol=1e-3)
    assert accuracy(predict_heads(bank, FEATURES)[0]) > 0.8


@pytest.mark.parametrize("learn_scale", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_the_scale_of_prototypes_is_learnt_where_it_is_asked_for(
    learn_scale: bool, given: bool
) -> None:
    """The prototypes move either way; of given heads, too, whatever was done with them before."""
    head = HeadSection(kind="prototype", learn_scale=learn_scale)
    init = None
    if given:
        init = fit([TRAIN], head=HeadSection(kind="prototype", learn_scale=True), steps=0)
        init.log_scale.requires_grad_(not learn_scale)
    training = TrainingSection(steps=30, lr=0.02)
    start = fit([TRAIN, TRAIN[:300]], head=head, training=training, init=init, steps=0)
    bank = fit([TRAIN, TRAIN[:300]], head=head, training=training, init=init)
    assert start.log_scale.exp().tolist() == pytest.approx([16.0, 16.0])
    moved = (bank.log_scale - start.log_scale).abs()
    assert (moved > 0.01).all() if learn_scale else (moved == 0).all()
    assert ((bank.weight - start.weight).abs().amax((1, 2)) > 0.1).all()


@pytest.mark.parametrize("count", [1, 3])
def test_no_steps_leave_given_prototypes_as_they_are(count: int) -> None:
    prototypes = torch.randn(10, 64)
    init = text_heads(HeadSection(kind="prototype", init="text", scale=50.0), prototypes)
    head = HeadSection(kind="prototype", init="text")
    bank = fit(count * [TRAIN], head=head, init=init, training=TrainingSection(steps=0))
    assert torch.equal(bank.weight, prototypes.expand(count, -1, -1))
    assert bank.log_scale.exp().tolist() == pytest.approx(count * [50.0])
    assert not any(p.requires_grad for p in bank.parameters())


def test_prototypes_learn_from_any_start() -> None:
    """A random start ends near where the class means' does, and starts far below it."""
    training = TrainingSection(steps=60, lr=0.05)
    reached = {}
    for start in ("random", "class_means"):
        head = HeadSection.model_validate({"kind": "prototype", "init": start})
        for steps in (0, 60):
            bank = fit([TRAIN], head=head, training=training, steps=steps)
            reached[start, steps] = accuracy(predict_heads(bank, FEATURES)[0])
    assert reached["random", 0] < 0.3
    assert reached["class_means", 0] > 0.8
    assert min(reached["random", 60], reached["class_means", 60]) > 0.85


def test_init_goes_on_from_given_heads_and_leaves_them_alone() -> None:
    start = fit([TRAIN])
    before = start.weight.clone()
    training = TrainingSection(steps=1, lr=1e-9)
    on = fit([TRAIN[:50], TRAIN], init=start, training=training)
    torch.testing.assert_close(on.weight, start.weight.expand(2, -1, -1), atol=1e-6, rtol=0)
    assert torch.equal(on.shift[0], start.shift[0])
    assert torch.equal(start.weight, before)


def test_features_are_on_the_device_once_for_all_fits_of_a_loop() -> None:
    """`meta` stands for a GPU: a copy for each control would fill it. The inputs of a loop are
    those of its first fit."""
    device = torch.device("meta")
    samples = [Samples(FEATURES, TARGETS, None, False, device) for _ in range(3)]
    rows = torch.arange(12).view(2, 6)
    assert samples[0].inputs(rows).device == samples[0].inputs(rows).device == device
    assert [one.features.device.type for one in samples] == ["meta", "cpu", "cpu"]
    for one in samples:
        assert one.supervision(rows)[0].device == device


def test_column_scaling_is_mean_and_deviation_of_the_members() -> None:
    rows = torch.arange(100, 900)
    shift, gain = column_scaling(FEATURES, rows)
    part = FEATURES[rows].double()
    torch.testing.assert_close(shift.double(), part.mean(0), atol=1e-5, rtol=1e-5)
    deviation = part.std(0, correction=0)
    torch.testing.assert_close(gain[deviation > 0].double(), 1 / deviation[deviation > 0])
    assert (gain[deviation == 0] == 0).all()


def test_a_pass_holds_every_sample_once() -> None:
    shuffle = Shuffle(torch.tensor([3, 5, 8, 9]), torch.Generator().manual_seed(0))
    drawn = torch.cat([shuffle.draw(3) for _ in range(8)]).view(6, 4)
    assert all(sorted(one.tolist()) == [3, 5, 8, 9] for one in drawn)


def test_a_loss_that_is_not_finite_stops_and_says_where() -> None:
    @dataclass
    class Broken(Loss):
        def __call__(
            self, logits: Tensor, targets: Tensor, progress: float
        ) -> tuple[Tensor, Metrics]:
            return logits.sum(-1) / (0.0 if progress > 0.5 else 1.0), {}

    with pytest.raises(RunError, match="step 7 of 11"):
        fit([TRAIN], objective=Objective(Broken()), steps=11)


def test_a_rate_that_is_absurd_but_does_not_overflow_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fit([TRAIN])
    assert caplog.text == ""
    fit([TRAIN], training=TrainingSection(steps=20, lr=1e30, schedule="constant"))
    assert "the loss rose from 2.3" in caplog.text
    assert "1e+30" in caplog.text


def test_steps_are_counted_and_reported() -> None:
    seen: list[int] = []
    fit([TRAIN], steps=7, on_step=lambda step, loss, metrics: seen.append(step))
    assert seen == list(range(1, 8))
    seen.clear()
    training = TrainingSection(epochs=2, batch_size=500)
    fit([TRAIN], training=training, on_step=lambda step, loss, metrics: seen.append(step))
    assert len(seen) == 6


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        fit([TRAIN, TRAIN[:0]])
    with pytest.raises(ValueError, match="1797 rows of features, 9 targets"):
        fit([TRAIN], targets=ProbTable.compress(torch.ones(9, 10)))
    with pytest.raises(ValueError, match="9 classes, the targets 10"):
        fit([TRAIN], init=HeadBank(torch.zeros(1, 9, 64), torch.zeros(1, 9)))


def test_predictions_dont_depend_on_the_batch_size() -> None:
    bank = fit([TRAIN, TRAIN[:100]])
    whole, parts = predict_heads(bank, FEATURES), predict_heads(bank, FEATURES, rows_per_pass=100)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.dense(), other.dense(), atol=2e-3, rtol=0)
    torch.testing.assert_close(whole[0].dense(), bank(FEATURES)[0].softmax(1), atol=2e-3, rtol=0)
    assert [len(table) for table in predict_heads(bank, FEATURES[:0])] == [0, 0]


def test_decay_falls_on_weights_alone() -> None:
    training = TrainingSection(steps=1, weight_decay=0.1)
    for kind, count in (("linear", 1), ("prototype", 1)):
        bank = fit([TRAIN], head=HeadSection(kind=kind)).requires_grad_(True)
        decayed, plain = build_optimizer(bank, training).param_groups
        assert [p.data_ptr() for p in decayed["params"]] == [bank.weight.data_ptr()]
        assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
        assert len(plain["params"]) == count


def test_the_rate_follows_torchs_cosine() -> None:
    training = TrainingSection(steps=40, lr=1.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    for step in range(40):
        assert rate_share(training, step, 40) == pytest.approx(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    warm = TrainingSection(steps=40, warmup=0.25, schedule="constant")
    shares = [rate_share(warm, step, 40) for step in range(12)]
    assert shares == pytest.approx([(step + 1) / 11 for step in range(10)] + [1.0, 1.0])


def test_fits_of_one_choice_are_fitted_together_as_each_alone() -> None:
    """Equal to the last bit, whether they share batches or not: a choice changes no result."""
    weights = (torch.arange(len(FEATURES)) % 3).float()
    soft = ProbTable.compress(0.7 * functional.one_hot(DIGITS, 10).float() + 0.03)
    first = HeadFit(
        FEATURES,
        TARGETS,
        [TRAIN, TRAIN[::3]],
        HeadSection(),
        TrainingSection(steps=20, lr=0.02, standardize=True),
        Objective(CrossEntropy()),
        seed=3,
    )
    fits = [
        first,
        replace(first, members=[TRAIN[:500], TRAIN[::3]]),
        replace(first, targets=soft, objective=Objective(AdaptiveConfidence())),
        replace(first, weights=weights, hard=True),
        replace(first, labels=DIGITS, objective=Objective(CrossEntropy(), 1.0, 0.5)),
        replace(first, seed=4),
    ]
    alone = [fit_heads(each).state_dict() for each in fits]
    together = [bank.state_dict() for bank in fit_together(fits)]
    assert [each.same_batches(first) for each in fits] == [True, False, True, True, True, False]
    assert all(same(*pair) for pair in zip(alone, together, strict=True))
    assert not same(together[0], together[2]), "different fits give different heads"


def test_a_schedule_that_a_training_ends_early_hardly_falls() -> None:
    """The published cosine over 20 epochs of ImageNet, of which a teacher takes 1,000 steps."""
    training = TrainingSection(steps=1000, lr=1e-4, schedule_steps=100_100)
    for step in (0, 400, 999):
        wanted = 0.5 * (1 + np.cos(np.pi * step / 100_100))
        assert rate_share(training, step, 1000) == pytest.approx(wanted, rel=1e-12)
    assert rate_share(training, 999, 1000) > 0.9997
    short = TrainingSection(steps=40, schedule_steps=10)
    assert rate_share(short, 20, 40) == rate_share(TrainingSection(steps=40), 20, 40)


def test_independent_samples_are_drawn_in_proportion_to_their_chances() -> None:
    rows, chances = torch.tensor([5, 6, 7, 9]), torch.tensor([1.0, 0.0, 2.0, 0.0])
    draws = Draws(rows, torch.Generator().manual_seed(0), chances)
    found = draws.draw(30_000)
    counts = torch.bincount(found, minlength=10)
    assert set(found.tolist()) == {5, 7}
    assert abs(float(counts[7]) / 30_000 - 2 / 3) < 4 * (2 / 9 / 30_000) ** 0.5
    equal = Draws(rows, torch.Generator().manual_seed(0)).draw(4)
    assert len(set(equal.tolist())) < 4  # with replacement


def test_heads_learn_from_independent_samples() -> None:
    passes = fit([TRAIN])
    settings = {"steps": 60, "lr": 0.02, "standardize": True, "sampling": "independent"}
    drawn = fit([TRAIN], training=TrainingSection.model_validate(settings))
    again = fit([TRAIN], training=TrainingSection.model_validate(settings))
    assert same(drawn.state_dict(), again.state_dict())
    assert not same(passes.state_dict(), drawn.state_dict())
    right = predict_heads(drawn, FEATURES[TEST])[0].top()[0] == DIGITS[TEST]
    assert right.float().mean() > 0.8
