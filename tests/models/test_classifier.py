"""Seeing: logits, maps and embedding by one pass, of every family, are those of the plain pass."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from cosup.errors import UserError
from cosup.models.classifier import Classifier, build_classifier

FAMILIES = {  # the widths of the maps, as timm's own feature_info has them
    "resnet10t": 5,
    "tf_efficientnet_lite0": 5,
    "mobilenetv3_small_050": 5,
    "convnext_atto": 4,
    "test_vit": 6,
    "test_vit3": None,  # attention pooling
    "deit_tiny_distilled_patch16_224": 12,  # two classifiers
    "dla34": 6,  # a 1x1 convolution as classifier
    "levit_128s": 3,
    "sequencer2d_s": 4,  # the pooling is a part of the classifier
    "volo_d1_224": 4,  # the logits are more than one layer's
    "cifar_resnet20": 4,
}


def built(name: str, size: int = 64, **settings: object) -> Classifier:
    fixed = {"levit_128s": 224, "volo_d1_224": 64}
    return build_classifier(name, 5, image_size=fixed.get(name, size), **settings)  # type: ignore


def pixels_of(classifier: Classifier, count: int = 2) -> Tensor:
    size = classifier.input.size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_seeing_gives_the_plain_logits(name: str) -> None:
    classifier = built(name)
    pixels = pixels_of(classifier)
    seen, shapes = classifier.outputs(pixels), classifier.shapes()
    torch.testing.assert_close(seen.logits, classifier.model(pixels), rtol=1e-5, atol=1e-6)
    assert seen.embedding is not None
    assert FAMILIES[name] in (None, len(seen.maps))
    assert [tuple(m.shape) for m in seen.maps] == [(2, *shape) for shape in shapes.maps]
    assert tuple(seen.embedding.shape) == (2, shapes.embedding)
    assert len(shapes.names) == len(shapes.maps)
    widths = [entry["num_chs"] for entry in classifier.model.feature_info]  # type: ignore
    assert [shape[0] for shape in shapes.maps] == widths[: len(shapes.maps)]
    classifier.eval()
    images = torch.randint(256, (2, *pixels.shape[1:]), dtype=torch.uint8)
    embedded = classifier.embed(images)
    torch.testing.assert_close(embedded, classifier.outputs(classifier.pixels(images)).embedding)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv3_small_050"])
def test_the_last_layer_turns_the_embedding_into_the_logits(name: str) -> None:
    classifier = built(name)
    seen = classifier.outputs(pixels_of(classifier))
    last: nn.Linear = classifier.model.get_classifier()  # type: ignore[operator]
    assert seen.embedding is not None
    torch.testing.assert_close(seen.embedding @ last.weight.T + last.bias, seen.logits)


@torch.inference_mode()
def test_maps_are_those_of_timms_own_extractor() -> None:
    classifier = built("resnet10t")
    extractor = timm.create_model("resnet10t", features_only=True).eval()
    extractor.load_state_dict(classifier.model.state_dict(), strict=False)
    pixels = pixels_of(classifier)
    for ours, theirs in zip(classifier.outputs(pixels).maps, extractor(pixels), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_in_training_everything_random_happens_once() -> None:
    """The same seed gives the same logits, statistics and gradients as a plain pass."""
    one = built("tf_efficientnet_lite0", drop_path=0.5).train()
    one.model.drop_rate = 0.5  # type: ignore[assignment]
    two = copy.deepcopy(one)
    pixels = pixels_of(one, 4)
    torch.manual_seed(1)
    seen = one.outputs(pixels)
    torch.manual_seed(1)
    logits = two.model(pixels)
    torch.testing.assert_close(seen.logits, logits)
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    torch.autograd.backward(seen.logits.sum())
    torch.autograd.backward(logits.sum())
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_maps_and_embedding_carry_gradients() -> None:
    classifier = built("cifar_resnet20").train()
    seen = classifier.outputs(pixels_of(classifier))
    assert seen.embedding is not None
    total = torch.stack([m.mean() for m in (*seen.maps, seen.embedding)]).sum()
    torch.autograd.backward(total)
    stem = next(classifier.model.parameters())
    assert stem.grad is not None
    assert stem.grad.abs().sum() > 0


def test_asking_for_shapes_leaves_no_trace() -> None:
    classifier = built("resnet10t").train()
    frozen = classifier.model.get_submodule("layer1")
    frozen.eval()
    before = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
    modes = [module.training for module in classifier.modules()]
    classifier.shapes()
    assert modes == [module.training for module in classifier.modules()]
    assert all(torch.equal(before[k], t) for k, t in classifier.state_dict().items())
    assert not any(module._forward_hooks for module in classifier.modules())


@torch.inference_mode()
def test_a_network_without_intermediates_is_read_by_its_feature_info() -> None:
    """Families of older timm's, and models of the hub."""
    classifier = built("resnet10t")
    wanted = classifier.outputs(pixels := pixels_of(classifier))
    hidden = type("Hidden", (type(classifier.model),), {"forward_intermediates": property()})
    classifier.model.__class__ = hidden
    classifier.linear_logits = None  # as if it had never seen anything
    assert not hasattr(classifier.model, "forward_intermediates")
    seen = classifier.outputs(pixels)
    torch.testing.assert_close(seen.logits, wanted.logits)
    torch.testing.assert_close(seen.embedding, wanted.embedding)
    for ours, theirs in zip(seen.maps, wanted.maps, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_torchvisions_networks_have_an_embedding_but_no_maps() -> None:
    classifier = built("torchvision:mobilenet_v3_small")
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    embedded = classifier.embed(images)
    last = classifier.model.get_submodule(classifier.slot)
    torch.testing.assert_close(last(embedded), classifier(images))
    with pytest.raises(UserError, match="'torchvision:mobilenet_v3_small' gives no feature maps"):
        classifier.outputs(pixels_of(classifier))


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "test_vit", "torchvision:efficientnet_b0"]
)
def test_stochastic_depth_is_that_of_the_deepest_block(name: str) -> None:
    model = built(name, drop_path=0.25).model
    rates = [
        float(getattr(m, "drop_prob", getattr(m, "p", 0)))
        for m in model.modules()
        if type(m).__name__ in ("DropPath", "StochasticDepth")
    ]
    assert 0.15 < max(rates) <= 0.25
    assert min(rates) <= 0.06


@pytest.mark.parametrize("name", ["vgg11", "torchvision:resnet18", "densenet121"])
def test_stochastic_depth_where_there_is_none_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' has no stochastic depth, .*drop_path is 0.1"):
        built(name, drop_path=0.1)


def test_it_compiles_once() -> None:
    """Whole graphs, so that nothing of it is compiled anew in later steps."""
    classifier = built("resnet10t")
    classifier.shapes()
    compiled = torch.compile(
        lambda x: classifier.outputs(x).maps[1], backend="eager", fullgraph=True
    )
    pixels = pixels_of(classifier)
    torch.testing.assert_close(compiled(pixels), classifier.outputs(pixels).maps[1])
