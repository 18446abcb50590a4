"""Training a network: the loop equals a plain one, learns, resumes bit for bit, and says in one
line what can't work."""

import logging
import math
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import cosup.models.compute as precision_module
from cosup.data.load import load_data
from cosup.data.loader import TrainingBatches
from cosup.data.section import DataSection
from cosup.errors import RunError, UserError
from cosup.losses import CrossEntropy, DecoupledDistillation, Objective
from cosup.losses.features import Connector
from cosup.models.classifier import Classifier, build_classifier, predict_network
from cosup.models.compute import DEFAULT_COMPUTE, Compute, cpu_has_bfloat16
from cosup.models.images import Mixing, training_transform
from cosup.models.loop_state import StateFile
from cosup.models.optimize import build_network_optimizer, build_scheduler
from cosup.models.ranks import Ranks
from cosup.models.train import Batch, Batches, TrainContext, TrainModule, train_network
from cosup.models.training_section import MixupSection, TrainingSection
from cosup.protocols import NetworkOutput
from cosup.stopping import Stopped, stopped_by_signals

TINY = "test_resnet"


def digits() -> tuple[Tensor, Tensor]:
    """Real digits, uint8 [1797, 3, 32, 32], and labels."""
    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float()[:, None] * 255 / 16
    large = functional.interpolate(small, size=32, mode="bilinear").round().to(torch.uint8)
    return large.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(bunch.target).long()


IMAGES, LABELS = digits()


def plain_batches(size: int = 16, weights: bool = False, labels: bool = False) -> Batches:
    """Consecutive digits; step n's batch depends on n alone."""

    def batches(start: int) -> Iterator[Batch]:
        for step in range(start, 10_000):
            rows = torch.arange(step * size, (step + 1) * size) % 1500
            targets = functional.one_hot(LABELS[rows], 10).float()
            weight = (rows % 3 + 1).float() / 3 if weights else None
            yield Batch(IMAGES[rows], targets, weight, LABELS[rows] if labels else None)

    return batches


def tiny(**changes: Any) -> Classifier:
    return build_classifier(TINY, 10, None, 32, **changes)


def vit() -> Classifier:
    """Without batch norm, which makes much of small differences."""
    return build_classifier("test_vit", 10, None, 32)


def training(**changes: Any) -> TrainingSection:
    base = {"steps": 8, "batch_size": 16, "lr": 0.01, "optimizer": "sgd"}
    return TrainingSection.model_validate({**base, **changes})


def train(
    classifier: Classifier,
    setting: TrainingSection,
    batches: Batches | None = None,
    compute: Compute = DEFAULT_COMPUTE,
    **context: Any,
) -> Classifier:
    objective = context.pop("objective", Objective(CrossEntropy()))
    module = context.pop("module", None) or TrainModule(classifier)
    path = context.pop("state", None)
    if path is not None:
        context["states"] = StateFile(path)
    found = TrainContext(compute=compute, **context)
    steps = setting.total_steps(1500)
    batches = batches or plain_batches()
    made = train_network(module, batches, objective, setting, steps, found, classifier.pixels)
    assert made is module
    assert not made.training
    return classifier


def weights_of(classifier: Classifier) -> list[Tensor]:
    return [t.clone() for t in classifier.model.state_dict().values()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_loop_is_a_plain_one() -> None:
    """Against a loop written out with torch alone: weights, clipping, schedule, momentum."""
    setting = training(weight_decay=0.1, clip=0.5, warmup=0.25, min_lr=0.001)
    made = train(vit(), setting, plain_batches(weights=True))
    other = vit().train()
    # timm's ViT names what it wants no decay of.
    plain_names = {"model.pos_embed", "model.cls_token"}
    named = list(other.named_parameters())
    free = {name for name, p in named if p.dim() <= 1 or name in plain_names}
    groups = [
        {"params": [p for name, p in named if name not in free], "weight_decay": 0.1},
        {"params": [p for name, p in named if name in free], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    stream = plain_batches(weights=True)(0)
    for step in range(8):
        rate = 0.01 * (step + 1) / 3
        if step >= 2:
            rate = 0.001 + 0.5 * (0.01 - 0.001) * (1 + math.cos(math.pi * (step - 2) / 6))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = next(stream)
        assert batch.weights is not None
        logits = other.model(other.pixels(batch.images))
        losses = functional.cross_entropy(logits, batch.targets, reduction="none")
        optimizer.zero_grad()
        torch.autograd.backward((losses * batch.weights).sum() / batch.weights.sum())
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
    for mine, plain in zip(weights_of(made), weights_of(other), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 8),
        ("multistep", [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    setting = training(schedule=schedule)
    optimizer = build_network_optimizer(tiny(), setting)
    scheduler = build_scheduler(optimizer, setting, 8)
    rates = []
    for step in range(8):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"] / 0.01)
    assert rates == pytest.approx(expected)


def test_it_learns_real_digits_and_predicts_them() -> None:
    setting = training(steps=40, batch_size=32, lr=0.01, optimizer="adamw")
    classifier = train(tiny(), setting, plain_batches(32))
    table = predict_network(classifier, torch.split(IMAGES[1500:], 100))
    label, _ = table.top()
    assert (label == LABELS[1500:]).float().mean() > 0.7
    alone = predict_network(classifier, torch.split(IMAGES[1500:], 7))
    torch.testing.assert_close(alone.dense(), table.dense(), atol=2e-3, rtol=0)
    with torch.no_grad():
        expected = classifier(IMAGES[1500:1510]).softmax(1)
    torch.testing.assert_close(table.dense(slice(10)), expected, atol=2e-3, rtol=0)
    assert len(predict_network(classifier, [])) == 0


class Killed(Exception):
    """Raised in the middle of a training."""


EVERYTHING = {
    "momentum": 0.9,
    "ema": 0.9,
    "clip": 1.0,
    "warmup": 0.2,
    "accumulate": 2,
    "drop_path": 0.3,
    "save_every": 3,
    "mixing": {"mixup": 0.4, "cutmix": 1.0},
    "augment": {
        "crop": "padded",
        "flip": 0.5,
        "erase": 0.5,
        "auto_augment": "rand-m9-mstd0.5-inc1",
    },
}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    section = DataSection.model_validate({"source": "digits", "limit": 300})
    data = load_data(section, 0, 1, None)
    rows = data.rows("student_train")
    truth = data.truth(rows).labels
    setting = training(optimizer=optimizer, **EVERYTHING)

    def fresh() -> Classifier:
        return tiny(drop_path=0.3)

    def batches(start: int) -> Iterator[Batch]:
        transform = training_transform(setting.augment, fresh().input)
        for images, at in TrainingBatches(data, rows, transform, 16, 8, seed=5)(start):
            yield Batch(images, functional.one_hot(truth[at], 10).float(), None, truth[at])

    objective = Objective(CrossEntropy(), 1.0, 0.5)
    whole = weights_of(train(fresh(), setting, batches, seed=1, objective=objective))
    other = weights_of(train(fresh(), setting, batches, seed=2, objective=objective))
    assert not equal(whole, other)
    state = tmp_path / "net.state"

    def killer(at: int) -> Any:
        def report(step: int, loss: float, metrics: Any) -> None:
            if step == at:
                raise Killed

        return report

    for at in (5, 7):
        with pytest.raises(Killed):
            train(
                fresh(), setting, batches, seed=1, state=state, report=killer(at),
                objective=objective,
            )  # fmt: skip
        assert state.exists()
    seen: list[int] = []
    torch.manual_seed(99)  # whatever state the new process is in
    random.seed(99)
    before = torch.get_rng_state()
    resumed = train(
        fresh(),
        setting,
        batches,
        seed=1,
        state=state,
        objective=objective,
        report=lambda step, *_: seen.append(step),
    )
    assert seen == [7, 8]
    assert equal(weights_of(resumed), whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_warning_signal_saves_the_state_after_the_step(tmp_path: Path) -> None:
    """A scheduler ends the job soon: no step since the last save is to be lost."""
    setting, state = training(steps=6, save_every=100), tmp_path / "net.state"
    whole, seen = weights_of(train(tiny(), setting)), []

    def report(step: int, *_: Any) -> None:
        seen.append(step)
        if step == 2:
            signal.raise_signal(signal.SIGUSR1)

    with pytest.raises(Stopped), stopped_by_signals():
        train(tiny(), setting, state=state, report=report)
    resumed = train(tiny(), setting, state=state, report=report)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert equal(weights_of(resumed), whole)


def test_a_damaged_or_foreign_state_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setting, state = training(steps=3, save_every=2), tmp_path / "net.state"
    whole = weights_of(train(tiny(), setting, state=state, identity="a"))
    content = state.read_bytes()
    for broken in (content[:-500], b"", b"nonsense" * 100):
        state.write_bytes(broken)
        with caplog.at_level(logging.WARNING):
            again = train(tiny(), setting, state=state, identity="a")
        assert "is not readable" in caplog.text
        assert equal(weights_of(again), whole)
        caplog.clear()
    steps: list[int] = []
    state.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        train(tiny(), setting, state=state, identity="b", report=lambda s, *_: steps.append(s))
    assert steps[0] == 1
    assert "belongs to another training" in caplog.text
    state.write_bytes(content)
    steps.clear()
    train(
        tiny(), setting, state=state, identity="a", objective=Objective(CrossEntropy(), 2.0),
        report=lambda s, *_: steps.append(s),
    )  # fmt: skip
    assert steps[0] == 1


def test_a_full_disk_is_a_run_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match="disk full"):
        train(tiny(), training(save_every=1), state=tmp_path / "net.state")


def test_averaged_weights_are_the_average() -> None:
    """Against the recursion worked by hand over the weights after each step."""
    trail: list[list[Tensor]] = []
    classifier = tiny()
    start = weights_of(classifier)
    train(classifier, training(steps=4), report=lambda *_: trail.append(weights_of(classifier)))
    average = [t.clone() for t in start]
    for weights in trail:
        for place, tensor in enumerate(weights):
            if tensor.is_floating_point():
                average[place] = 0.8 * average[place] + 0.2 * tensor
            else:
                average[place] = tensor
    found = weights_of(train(tiny(), training(steps=4, ema=0.8)))
    for mine, expected in zip(found, average, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def test_accumulated_parts_are_the_whole_batch() -> None:
    """Without batch norm, parts make no difference, even of unequal weight."""

    results = [
        weights_of(train(vit(), training(accumulate=parts), plain_batches(weights=True)))
        for parts in (1, 4)
    ]
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_layer_decay_and_other_parameters() -> None:
    classifier = vit()
    module = TrainModule(classifier, _Distance(nn.Linear(4, 4)))
    setting = training(optimizer="adamw", layer_decay=0.5, weight_decay=0.05)
    groups = build_network_optimizer(module, setting).param_groups
    scale = {id(p): g.get("lr_scale", 1.0) for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert len(scale) == len(list(module.parameters()))
    model: Any = classifier.model
    assert scale[id(model.head.weight)] == 1.0
    assert scale[id(model.patch_embed.proj.weight)] < scale[id(model.blocks[-1].mlp.fc1.weight)] < 1
    assert decay[id(model.pos_embed)] == decay[id(model.head.bias)] == 0
    assert decay[id(model.head.weight)] == 0.05
    for name, parameter in module.connector.named_parameters():  # type: ignore[union-attr]
        assert scale[id(parameter)] == 1.0
        assert decay[id(parameter)] == (0.05 if name.endswith("weight") else 0)


class _Distance(Connector):
    """The students' logits shall be the teacher's, after a layer of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, progress: float) -> Tensor:
        """[B]."""
        difference: Tensor = self.layer(student.logits) - teacher.logits
        return difference.square().mean(1)


def test_live_teachers_see_the_same_pixels_and_connectors_learn() -> None:
    asked: list[tuple[Tensor, Tensor]] = []

    def live(pixels: Tensor, teacher: Tensor) -> NetworkOutput:
        asked.append((pixels, teacher))
        wanted = functional.one_hot(teacher, 10).float() * 0.8 + 0.02
        return NetworkOutput(wanted.log())

    def batches(start: int) -> Iterator[Batch]:
        for batch in plain_batches()(start):
            yield Batch(batch.images, batch.targets, teacher=torch.arange(16) % 10)

    layer = nn.Linear(10, 10)
    before = layer.weight.detach().clone()
    classifier = tiny()
    module = TrainModule(classifier, _Distance(layer))
    metrics: list[dict[str, Tensor]] = []
    train(
        classifier, training(steps=3), batches, module=module, live=live,
        report=lambda step, loss, found: metrics.append(found),
    )  # fmt: skip
    assert not torch.equal(layer.weight, before)
    assert all("feature_loss" in found for found in metrics)
    first = next(plain_batches()(0)).images.float()
    torch.testing.assert_close(asked[0][0], first, atol=1e-2, rtol=0)
    # Live annotations take the targets' place: the loss is the one of theirs.
    losses: list[float] = []
    train(
        tiny(), training(steps=1), batches, live=live, live_annotations=True,
        report=lambda step, loss, found: losses.append(loss),
    )  # fmt: skip
    plain = tiny().train()
    target = functional.one_hot(torch.arange(16) % 10, 10).float() * 0.8 + 0.02
    expected = functional.cross_entropy(plain(first.to(torch.uint8)), target)
    assert losses[0] == pytest.approx(float(expected.detach()), rel=1e-4)


class _Episode(nn.Module):
    """Logits of the second half of the images alone."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(
        self, x: Tensor, teacher: NetworkOutput | None, progress: float
    ) -> tuple[Tensor, None]:
        return self.classifier.model(x)[len(x) // 2 :], None


def test_modules_whose_logits_have_other_rows_than_images() -> None:
    def batches(start: int) -> Iterator[Batch]:
        for batch in plain_batches()(start):
            yield Batch(batch.images, batch.targets[8:], torch.ones(8))

    classifier = tiny()
    before = weights_of(classifier)
    train(classifier, training(steps=2), batches, module=_Episode(classifier))
    assert not equal(weights_of(classifier), before)
    with pytest.raises(UserError, match=r"training.accumulate: 2: "):
        train(tiny(), training(accumulate=2), batches, module=_Episode(tiny()))


@pytest.mark.parametrize("section", [{"mixup": 0.5}, {"cutmix": 0.5}, {"mixup": 1, "cutmix": 1}])
def test_mixing_gives_the_shares_of_what_it_mixed(section: dict[str, float]) -> None:
    """Each image is of one constant value, so its pixels tell what was mixed."""
    np.random.seed(0)  # noqa: NPY002
    values = torch.randn(8)
    for _ in range(10):
        pixels = values[:, None, None, None].expand(-1, 3, 16, 16).clone()
        mixed, shares = Mixing(MixupSection.model_validate(section))(pixels)
        torch.testing.assert_close(shares.sum(1), torch.ones(8))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ values, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"^batch_size: .* 7"):
        Mixing(MixupSection(mixup=0.5))(torch.zeros(7, 3, 8, 8))


def test_fewer_samples_than_a_batch_are_mixed_in_pairs() -> None:
    """A filter may leave any number of them."""
    mixing = {"mixup": 0.5}
    assert training(batch_size=128).batch_for(17) == 17
    assert training(batch_size=128, mixing=mixing).batch_for(17) == 16
    assert training(batch_size=128, mixing=mixing, accumulate=4).batch_for(31) == 24
    assert training(batch_size=16, mixing=mixing).batch_for(17) == 16


def test_mixed_labels_count_in_their_shares() -> None:
    """With true labels alone as targets, the mixed label loss is the mixed target loss."""
    setting = training(mixing={"mixup": 0.5})
    found = []
    for objective, labels in (
        (Objective(CrossEntropy(), 1.0), False),
        (Objective(CrossEntropy(), 0.0, 1.0), True),
    ):
        made = train(tiny(), setting, plain_batches(labels=labels), objective=objective)
        found.append(weights_of(made))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_bfloat16_trains_and_warns_where_it_is_slow(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(precision_module, "CPUINFO", tmp_path / "cpuinfo")
    assert cpu_has_bfloat16()  # can't be asked
    (tmp_path / "cpuinfo").write_text("flags : fpu sse avx512_bf16")
    assert cpu_has_bfloat16()
    (tmp_path / "cpuinfo").write_text("flags : fpu sse avx2")
    precision_module._warn_if_slow.cache_clear()
    half, losses = Compute(precision="bfloat16"), list[float]()
    with caplog.at_level(logging.WARNING):
        made = train(
            tiny(), training(), compute=half, report=lambda s, loss, _: losses.append(loss)
        )
    assert caplog.text.count("bfloat16 is emulated") == 1
    assert all(t.dtype == torch.float32 for t in made.parameters())
    assert all(math.isfinite(loss) for loss in losses)
    with half.autocast():
        assert made.model(torch.zeros(2, 3, 32, 32)).dtype == torch.bfloat16


MISTAKES = [
    ({"optimizer": "sdg"}, {}, r"training.optimizer: unknown optimizer 'sdg'; did you mean .*sgd"),
    ({"mixing": {"mixup": 0.5}}, {"loss": "dkd"}, r"training.mixing: .*'dkd'"),
    ({"mixing": {"cutmix": 0.5}}, {"size": 5}, r"training.batch_size: .*even"),
    ({"batch_size": 1}, {"size": 1}, r"batch_size: 1: network 'test_resnet' gets one image"),
    ({"batch_size": 4, "accumulate": 4}, {"size": 4}, r"batch_size: 4: in 4 parts network"),
]


@pytest.mark.parametrize(("changes", "how", "message"), MISTAKES)
def test_mistakes_are_one_line(changes: dict[str, Any], how: dict[str, Any], message: str) -> None:
    loss = DecoupledDistillation() if how.get("loss") else CrossEntropy()
    with pytest.raises(UserError, match=message) as caught:
        train(tiny(), training(**changes), plain_batches(how.get("size", 16)),
              objective=Objective(loss))  # fmt: skip
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_names_step_and_rate() -> None:
    with pytest.raises(
        RunError, match=r"not finite at step \d+ of 8; a smaller training.lr \(1e\+30\)"
    ):
        train(tiny(), training(lr=1e30))


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def call(*_: Any, **__: Any) -> None:
        raise TorchDynamoException("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: call)
    classifier = tiny()
    with pytest.raises(UserError, match=r"training.compile: true.*\(no C\+\+ compiler.*\)"):
        train(classifier, training(compile=True))
    classifier(IMAGES[:2])  # undone


def test_the_module_can_be_wrapped_as_a_launcher_does() -> None:
    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module
            self.calls = 0

        def forward(self, *args: Any) -> Any:
            self.calls += 1
            return self.module(*args)

    made: list[Wrapped] = []

    @contextmanager
    def wrapped(module: nn.Module) -> Iterator[nn.Module]:
        made.append(Wrapped(module))
        yield made[0]

    plain = weights_of(train(tiny(), training()))
    compute = Compute(ranks=Ranks(wrapped=wrapped))
    assert equal(weights_of(train(tiny(), training(), compute=compute)), plain)
    assert made[0].calls == 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_trains_on_a_gpu_and_resumes(tmp_path: Path) -> None:
    compute, state = Compute(torch.device("cuda")), tmp_path / "net.state"
    half = Compute(compute.device, "bfloat16")
    setting = training(steps=60, batch_size=32, lr=0.005, optimizer="adamw", save_every=40, ema=0.9)
    made = train(tiny(), setting, plain_batches(32), compute=half)
    label, _ = predict_network(made, torch.split(IMAGES[1500:], 100), half).top()
    assert (label == LABELS[1500:]).float().mean() > 0.8

    def report(step: int, *_: Any) -> None:
        if step >= 50:
            raise Killed

    short = training(**{**EVERYTHING, "steps": 60, "save_every": 40, "lr": 0.001})
    batches = plain_batches()
    whole = weights_of(train(tiny(), short, batches, compute=compute))
    with pytest.raises(Killed):
        train(tiny(), short, batches, compute=compute, state=state, report=report)
    again = weights_of(train(tiny(), short, batches, compute=compute, state=state))
    for first, second in zip(whole, again, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
