"""The networks for CIFAR: the published sizes and arithmetic, timm's interface, real images."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from timm.optim._optim_factory import create_optimizer_v2
from torch import Tensor
from torch.nn import functional

from cosup.errors import UserError
from cosup.models.cifar import CIFAR_NETWORKS, CifarNet
from cosup.models.classifier import build_classifier, load_checkpoint
from cosup.models.networks import build_network

PUBLISHED = {  # with 100 classes; pre-activation nets: see the hand count
    "cifar_resnet8": 464 + 4_672 + 14_528 + 57_728 + 6_500,  # stem, stages, classifier, by hand
    "cifar_resnet20": 278_324,
    "cifar_resnet56": 861_620,
    "cifar_resnet32x4": 7_433_860,
    "cifar_vgg8": 3_965_028,
    "cifar_vgg13": 9_462_180,
    "cifar_shufflenet_v1": 949_258,
    "cifar_preact_resnet18": 11_218_340,
    "cifar_preact_resnet34": 21_326_500,
    "cifar_selcl_resnet18": 11_218_340 - 2 * 512 + 2 * 64,  # a norm of the stem, none at the end
    "cifar_selcl_resnet34": 21_326_500 - 2 * 512 + 2 * 64,
}
MAPS = {
    "resnet": [(16, 32), (16, 32), (32, 16), (64, 8)],
    "resnet32x4": [(32, 32), (64, 32), (128, 16), (256, 8)],
    "vgg": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)],
    "shufflenet_v1": [(24, 32), (240, 16), (480, 8), (960, 4)],
    "preact_resnet": [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)],
    "selcl_resnet": [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)],
}
FAMILIES = ["cifar_resnet20", "cifar_vgg8", "cifar_shufflenet_v1", "cifar_preact_resnet18"]


def weights_of(name: str, classes: int = 100) -> int:
    with torch.device("meta"):  # without drawing them
        return sum(p.numel() for p in CIFAR_NETWORKS[name](classes).parameters())


@pytest.mark.parametrize("name", list(CIFAR_NETWORKS))
def test_the_number_of_weights_is_the_published_one(name: str) -> None:
    assert weights_of(name) == PUBLISHED[name]


@pytest.mark.parametrize(("depth", "blocks"), [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_preactivation_weights_counted_by_hand(depth: int, blocks: tuple[int, ...]) -> None:
    count = 3 * 64 * 9 + 2 * 512 + 513 * 10
    before = 64
    for width, number in zip((64, 128, 256, 512), blocks, strict=True):
        for block in range(number):
            inputs = before if block == 0 else width
            count += 2 * inputs + 9 * inputs * width + 2 * width + 9 * width * width
            count += inputs * width if inputs != width else 0
        before = width
    assert weights_of(f"cifar_preact_resnet{depth}", 10) == count
    assert depth == 2 + 2 * sum(blocks)
    if depth == 18:
        assert count == 11_172_170  # as printed for it on CIFAR-10 throughout the literature


@pytest.mark.parametrize("name", list(CIFAR_NETWORKS))
def test_maps_are_those_that_distillers_pair(name: str) -> None:
    family = max((f for f in MAPS if name.startswith(f"cifar_{f}")), key=len)
    shapes = build_classifier(name, 10).shapes()
    assert shapes.maps == tuple((width, side, side) for width, side in MAPS[family])
    assert shapes.embedding == MAPS[family][-1][0]
    with torch.device("meta"):
        info = build_network(name, None, None).model.feature_info
    assert [(e["num_chs"], 32 // e["reduction"]) for e in info] == MAPS[family]  # type: ignore


def bn(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Batch norm with its running statistics, written out."""
    mean, var, gain, shift = (
        state[f"{name}.{key}"].view(1, -1, 1, 1)
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * gain + shift


def perturbed(name: str) -> CifarNet:
    """In float64, with statistics and biases that a mistake would show."""
    torch.manual_seed(0)
    model = CIFAR_NETWORKS[name](5).double().eval()
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_var", "running_mean")):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        elif key.endswith("bias"):
            tensor.copy_(torch.randn_like(tensor) / 10)
    return model


def conv(x: Tensor, state: dict[str, Tensor], name: str, **settings: int) -> Tensor:
    weight = state[f"{name}.weight"]
    return functional.conv2d(
        x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2, **settings
    )


def resnet_oracle(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    x = bn(conv(x, state, "stem.0"), state, "stem.1").relu()
    for stage in range(3):
        for block in range(3):
            at = f"stages.{stage}.{block}"
            stride = 2 if stage and not block else 1
            out = bn(conv(x, state, f"{at}.conv1", stride=stride), state, f"{at}.bn1").relu()
            out = bn(conv(out, state, f"{at}.conv2"), state, f"{at}.bn2")
            if stride == 2:
                shortcut = conv(x, state, f"{at}.shortcut.0", stride=2)
                x = bn(shortcut, state, f"{at}.shortcut.1")
            x = (out + x).relu()
    return x


def preact_oracle(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    x = conv(x, state, "stem")
    for stage in range(4):
        for block in range(2):
            at = f"stages.{stage}.{block}"
            stride = 2 if stage and not block else 1
            active = bn(x, state, f"{at}.bn1").relu()
            out = conv(active, state, f"{at}.conv1", stride=stride)
            out = conv(bn(out, state, f"{at}.bn2").relu(), state, f"{at}.conv2")
            x = out + (conv(active, state, f"{at}.shortcut", stride=2) if stride == 2 else x)
    return bn(x, state, "final.0").relu()


def vgg_oracle(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    for group, name in enumerate(("stem.0", *(f"stages.{k}.1" for k in range(4)))):
        if 1 <= group <= 3:
            x = functional.max_pool2d(x, 2)
        number = int(name[-1]) + 1
        x = bn(conv(x, state, name), state, f"{name[:-1]}{number}").relu()
    return x


def shuffle_oracle(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    x = bn(conv(x, state, "stem.0"), state, "stem.1").relu()
    for stage, units in enumerate((4, 8, 4)):
        for unit in range(units):
            at = f"stages.{stage}.{unit}"
            groups, stride = (1 if stage == unit == 0 else 3), (1 if unit else 2)
            out = bn(conv(x, state, f"{at}.conv1", groups=groups), state, f"{at}.bn1").relu()
            width = out.shape[1]
            part = width // groups
            order = [group * part + j for j in range(part) for group in range(groups)]
            out = conv(out[:, order], state, f"{at}.conv2", groups=width, stride=stride)
            out = conv(bn(out, state, f"{at}.bn2").relu(), state, f"{at}.conv3", groups=3)
            out = bn(out, state, f"{at}.bn3")
            rest = functional.avg_pool2d(x, 3, 2, 1) if stride == 2 else x
            x = (torch.cat([out, rest], 1) if stride == 2 else out + rest).relu()
    return x


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_the_arithmetic_is_that_of_the_paper(name: str) -> None:
    oracle = {"r": resnet_oracle, "v": vgg_oracle, "s": shuffle_oracle, "p": preact_oracle}
    model = perturbed(name)
    state = model.state_dict()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    pooled = oracle[name[6]](x, state).mean((2, 3))
    expected = pooled @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model.forward_head(model.forward_features(x), True), pooled)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [8, 28, 64])
def test_other_image_sizes_train(name: str, size: int) -> None:
    classifier = build_classifier(name, 3, image_size=size).train()
    logits = classifier(torch.randint(256, (2, 3, size, size), dtype=torch.uint8))
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in classifier.parameters())


def test_vgg_pools_large_images_once_more() -> None:
    shapes = build_classifier("cifar_vgg13", 3, image_size=64).shapes()
    assert [m[1] for m in shapes.maps] == [64, 32, 16, 8, 4]


@torch.inference_mode()
def test_intermediates_are_chosen_as_timm_does() -> None:
    model = CIFAR_NETWORKS["cifar_preact_resnet18"](3).eval()
    x = torch.randn(1, 3, 16, 16)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x))
    assert len(maps) == 5
    two = model.forward_intermediates(x, indices=2, intermediates_only=True, norm=True)
    assert len(two) == 2
    assert torch.equal(two[0], maps[3])
    assert torch.equal(two[1], last)
    first = model.forward_intermediates(
        x, indices=[0, -4], stop_early=True, intermediates_only=True
    )
    assert all(torch.equal(a, b) for a, b in zip(first, maps[:2], strict=True))


def test_the_learning_rate_falls_with_depth_where_asked() -> None:
    model = CIFAR_NETWORKS["cifar_preact_resnet18"](3)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=1.0, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    named = {key: scale[id(p)] for key, p in model.named_parameters()}
    assert named["stem.weight"] < named["stages.0.0.conv1.weight"]
    assert named["stages.0.1.conv1.weight"] < named["stages.3.0.conv1.weight"]
    assert named["fc.weight"] == 1


def test_published_checkpoints_load_in_order(tmp_path: object) -> None:
    """Tian et al.'s name their tensors otherwise, in this order, under `model`."""
    trained = build_classifier("cifar_resnet20", 5, seed=1)
    names = {"stem.0.": "conv1.", "stem.1.": "bn1.", ".shortcut.": ".downsample."}
    names |= {f"stages.{k}.": f"layer{k + 1}." for k in range(3)}
    state = {}
    for key, tensor in trained.model.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        state[key] = tensor
    assert "layer2.0.downsample.1.running_var" in state
    path = f"{tmp_path}/resnet20.pth"
    torch.save({"epoch": 240, "model": state, "best_acc": 0.7}, path)
    classifier = build_classifier("cifar_resnet20", 5, seed=2)
    load_checkpoint(classifier, path)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(classifier(images), trained(images))
    start = build_classifier("cifar_resnet20", 9, weights=path)
    assert torch.equal(start.embed(images), trained.embed(images))


def test_the_pixels_are_normalised_as_cifars() -> None:
    spec = build_network("cifar_resnet20", None, None).input
    assert (spec.size, spec.crop_pct) == (32, 1.0)
    assert spec.mean == (0.4914, 0.4822, 0.4465)
    assert spec.std == (0.2470, 0.2435, 0.2616)


def test_they_learn_real_digits() -> None:
    digits = load_digits()
    images = torch.from_numpy(digits.images[:64] * 15).to(torch.uint8)
    images = images[:, None].expand(-1, 3, -1, -1)
    labels = torch.from_numpy(digits.target[:64]).long()
    for name in ("cifar_resnet20", "cifar_vgg8"):
        classifier = build_classifier(name, 10, image_size=8).train()
        optimizer = torch.optim.SGD(classifier.parameters(), lr=0.05, momentum=0.9)
        losses = []
        for _ in range(12):
            loss = functional.cross_entropy(classifier(images), labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.5 * math.log(10), (name, losses)


@pytest.mark.parametrize(
    ("name", "weights", "drop_path", "wanted"),
    [
        ("cifar_resnet20", "pretrained", 0.0, "no published weights.*allowed: weights: null"),
        ("cifar_resnet21", None, 0.0, "did you mean 'cifar_resnet20'"),
        ("cifar_vgg8", None, 0.1, "'cifar_vgg8' has no stochastic depth, .*drop_path is 0.1"),
        ("cfar_resnet20", None, 0.0, "did you mean .*cifar_resnet20"),
    ],
)
def test_mistakes_are_one_line(
    name: str, weights: str | None, drop_path: float, wanted: str
) -> None:
    with pytest.raises(UserError, match=wanted) as caught:
        build_network(name, weights, None, drop_path)
    assert "\n" not in str(caught.value)
