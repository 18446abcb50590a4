"""Probes with hidden layers, as CSL's published code can give them."""

import copy
from pathlib import Path

import pytest
import torch
from helpers.digit_images import digit_images
from helpers.user_errors import key_of, mistakes_of
from torch import Tensor, nn

import cosup
from cosup.config import check_config
from cosup.data.transforms import eval_transform
from cosup.errors import UserError
from cosup.losses.base import Objective
from cosup.losses.cross_entropy import CrossEntropy
from cosup.models.backbone import load_backbone
from cosup.models.fit import fit_heads, predict_heads
from cosup.models.head_fit import HeadFit
from cosup.models.heads import HeadBank, build_heads
from cosup.models.section import BackboneSection, HeadSection
from cosup.models.training_section import TrainingSection
from cosup.probabilities import ProbTable
from cosup.student.exported import ExportedStudent, HeadOnBackbone
from cosup.student.folder import save_head
from cosup.student.reading import check_head


def as_module(bank: HeadBank, head: int = 0) -> nn.Sequential:
    """The same head of torch's layers, in float64."""
    layers: list[nn.Module] = []
    assert bank.bias is not None
    for weight, bias in [*bank.hidden, (bank.weight, bank.bias)]:
        layer = nn.Linear(weight.shape[2], weight.shape[1]).double()
        layer.load_state_dict({"weight": weight[head].detach(), "bias": bias[head].detach()})
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("count", [1, 2])
def test_a_head_is_torchs_layers_and_starts_as_they_do(count: int) -> None:
    bank = build_heads(HeadSection(hidden=count), 2, 60, 7, seed=0)
    assert [tuple(w.shape) for w, _ in bank.hidden] == [(2, 30, 60), (2, 30, 30)][:count]
    x = torch.randn(5, 60)
    for head in range(2):
        expected = as_module(bank, head)(x.double())
        torch.testing.assert_close(bank(x)[head].double(), expected, atol=1e-5, rtol=1e-5)
    for parameter, inputs in ((bank.hidden[0][0], 60), (bank.hidden[0][1], 60), (bank.weight, 30)):
        bound = inputs**-0.5  # torch: uniform, whose deviation is bound / sqrt(3)
        assert parameter.abs().max() <= bound
        assert float(parameter.std()) == pytest.approx(bound / 3**0.5, rel=0.25)


def corners(samples: int) -> tuple[Tensor, Tensor]:
    """Points whose class no linear head can tell: equal signs, or different ones."""
    x = torch.randn(samples, 8, generator=torch.Generator().manual_seed(samples))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def fit(x: Tensor, y: Tensor, hidden: int, steps: int, **changes: object) -> HeadBank:
    settings = {"steps": steps, "batch_size": len(x), "optimizer": "adam", "lr": 0.02, **changes}
    return fit_heads(
        HeadFit(
            x,
            ProbTable.compress(nn.functional.one_hot(y, 2).float()),
            [torch.arange(len(x))],
            HeadSection.model_validate({"hidden": hidden, "start": "random"}),
            TrainingSection.model_validate(settings),
            Objective(CrossEntropy()),
            seed=3,
        )
    )


def test_it_learns_what_a_linear_head_cannot() -> None:
    (x, y), (new, wanted) = corners(600), corners(601)
    right = {}
    for hidden in (0, 1, 2):
        probs = predict_heads(fit(x, y, hidden, 300), new)[0]
        right[hidden] = float((probs.top()[0] == wanted).float().mean())
    assert right[0] < 0.6
    assert right[1] > 0.8
    assert right[2] > 0.8


def test_its_training_is_torchs_in_float64() -> None:
    """Full batches, so that both see the same samples; the decay leaves out the biases."""
    x, y = corners(64)
    decay = {"optimizer": "adamw", "weight_decay": 0.1}
    found = fit(x, y, 2, 12, **decay)
    module = as_module(build_heads(HeadSection(hidden=2, start="random"), 1, 8, 2, seed=3))
    weights = [p for name, p in module.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in module.named_parameters() if name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x.double()), y).backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(found(x)[0].double(), module(x.double()), atol=1e-3, rtol=1e-3)


def test_an_exported_student_has_them(tmp_path: Path) -> None:
    section = BackboneSection(name="test_resnet", weights=None, image_size=32)
    backbone = load_backbone(section)
    head = build_heads(HeadSection(hidden=2), 1, backbone.num_features, 3, seed=0)
    reason = save_head(tmp_path, head, backbone, section, ("a", "b", "c"))
    assert reason is not None
    assert "hidden" in reason
    found = cosup.load_student(tmp_path, "cpu").predict(digit_images())
    alone = ExportedStudent(
        HeadOnBackbone(backbone, head), eval_transform(backbone.input), ("a", "b", "c")
    )
    assert torch.equal(found, alone.predict(digit_images()))


@pytest.mark.parametrize("name", ["hidden_1", "hidden_1_bias", "hidden_2"])
def test_files_without_whole_layers_are_refused(name: str) -> None:
    state = build_heads(HeadSection(hidden=2), 1, 8, 3, seed=0).state_dict()
    check_head(state, Path("student/head.safetensors"), 3)
    for wrong in (None, state[name][:, :1]):
        spoilt = copy.copy(state)
        spoilt.pop(name) if wrong is None else spoilt.update({name: wrong})
        with pytest.raises(UserError):
            check_head(spoilt, Path("student/head.safetensors"), 3)


@pytest.mark.parametrize(
    ("student", "key"),
    [
        ({"head": {"hidden": 1}, "mode": "finetune"}, "student.head.hidden"),
        ({"head": {"hidden": 1, "kind": "prototype"}}, "student.head.hidden"),
        (
            {"head": {"hidden": 1}, "training": {"steps": 5, "optimizer": "lbfgs"}},
            "student.training.optimizer",
        ),
    ],
)
def test_what_has_none_is_refused(student: dict[str, object], key: str) -> None:
    backbone = {"name": "resnet18", "weights": None}
    tree = {"data": {"source": "digits"}, "student": {"backbone": backbone, **student}}
    (error,) = mistakes_of(check_config, tree)
    assert key_of(error) == key
