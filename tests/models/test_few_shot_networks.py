"""The few-shot networks: the published blocks and arithmetic, timm's interface, real images."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cosup.config.load import check_config
from cosup.models.classifier import build_classifier
from cosup.models.few_shot_networks import FEW_SHOT_NETWORKS
from cosup.models.networks import build_network

BLOCKS = {
    "few_shot_resnet12": (1, 1, 1, 1),
    "few_shot_resnet18": (1, 2, 2, 1),
    "few_shot_resnet36": (2, 3, 5, 2),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_weights_counted_by_hand(name: str) -> None:
    assert set(BLOCKS) == set(FEW_SHOT_NETWORKS)
    count, before, convolutions = 512 * 64 + 64, 3, 0
    for width, number in zip((64, 128, 256, 512), BLOCKS[name], strict=True):
        for block in range(number):
            inputs = before if block == 0 else width
            count += 9 * inputs * width + 2 * 9 * width * width + 3 * 2 * width
            count += inputs * width + 2 * width if block == 0 else 0
            convolutions += 3
        before = width
    found = FEW_SHOT_NETWORKS[name](64)
    assert sum(p.numel() for p in found.parameters()) == count
    assert convolutions == int(name.removeprefix("few_shot_resnet"))


def test_the_maps_are_halved_four_times() -> None:
    network = build_network("few_shot_resnet18", None, None)
    assert network.input.size == 84
    assert network.num_features == 512
    shapes = build_classifier("few_shot_resnet18", 10, image_size=80).shapes()
    assert shapes.maps == ((64, 40, 40), (128, 20, 20), (256, 10, 10), (512, 5, 5))


def bn(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, var, gain, shift = (
        state[f"{name}.{key}"].view(1, -1, 1, 1)
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * gain + shift


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.1 * x)


def test_the_arithmetic_is_the_published_one() -> None:
    """ResNet-18 in float64, written out from its weights."""
    torch.manual_seed(0)
    network = FEW_SHOT_NETWORKS["few_shot_resnet18"](5).double().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    state = network.state_dict()
    x = pixels = torch.randn(2, 3, 21, 16, dtype=torch.float64)
    for stage, count in zip(
        ("stem", "stages.0", "stages.1", "stages.2"), (1, 2, 2, 1), strict=True
    ):
        for block in range(count):
            key, out = f"{stage}.{block}", x
            for number in (1, 2, 3):
                out = functional.conv2d(out, state[f"{key}.conv{number}.weight"], padding=1)
                out = bn(out, state, f"{key}.bn{number}")
                out = leaky(out) if number < 3 else out
            if block == 0:
                shortcut = functional.conv2d(x, state[f"{key}.downsample.0.weight"])
                x = leaky(out + bn(shortcut, state, f"{key}.downsample.1"))
                x = functional.max_pool2d(x, 2)
            else:
                x = leaky(out + x)
    embedding = x.mean((2, 3))
    worked = embedding @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(network(pixels), worked)


def test_a_config_names_them() -> None:
    config = check_config(
        {
            "data": {"source": "digits"},
            "teachers": {"model": {"name": "few_shot_resnet12"}},
            "student": {
                "mode": "finetune",
                "backbone": {"name": "few_shot_resnet36", "weights": None},
            },
        }
    )
    assert config.teachers.setups[0].model.traits.is_network
