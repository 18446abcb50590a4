"""Text features are those of open_clip's own zero-shot classifier; they are cached by all that they
depend on; and a prompt that the encoder would cut is refused."""

import copy
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from helpers.tiny_clip import (
    PREPROCESS,
    TEXT,
    VISION,
    architecture,
    one_vocabulary,
    random_clip,
    write_clip,
)
from torch import Tensor

from cosup.errors import UserError
from cosup.files import save_tensors, write_json
from cosup.models import clip_text
from cosup.models.clip_text import check_prompts, prompts_of, text_features
from cosup.models.compute import Compute
from cosup.models.prompts import Prompts
from cosup.models.section import BackboneSection, HeadSection

CLASSES = ("t-shirt", "ankle boot", "bag", "Coat")
ONE = ("a photo of a {}.",)
SEVERAL = ("a photo of a {}.", "{}", "the {}, a kind of {}")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with one_vocabulary():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP; nothing is changed in it."""
    path = tmp_path_factory.mktemp("clip")
    write_clip(path)
    return path


def backbone(folder: Path, weights: str | None = "pretrained") -> BackboneSection:
    return BackboneSection(name=f"open_clip:{folder}", weights=weights)


def features(
    folder: Path,
    store: Path,
    templates: Sequence[str] = ONE,
    names: Sequence[str] = CLASSES,
    weights: str | None = "pretrained",
) -> Tensor:
    prompts = Prompts(tuple(names), tuple(templates))
    return text_features(backbone(folder, weights), prompts, Compute(cache=store))


def theirs(model: Any, tokenizer: Any, templates: Sequence[str]) -> Tensor:
    """[C, D] of open_clip, which counts a template's holes itself."""
    plain = [lambda name, t=t: t.replace("{}", name) for t in templates]
    found: Tensor = open_clip.build_zero_shot_classifier(model, tokenizer, CLASSES, plain)
    return found.T


def files(store: Path) -> list[Path]:
    return sorted(store.rglob("*.safetensors"))


def long_model() -> dict[str, Any]:
    """Its images are read otherwise, its text by a transformer of its own with a bias, all of its
    tokens at once and the last one pooled, as SigLIP's."""
    text = {
        **TEXT,
        "no_causal_mask": True,
        "pool_type": "last",
        "proj_bias": True,
        "norm_kwargs": {"eps": 1e-6},
    }
    vision = {"timm_model_name": "test_vit3", "timm_pool": "", "timm_proj": "none"}
    return {
        **architecture({**vision, "image_size": 160}, text),
        "embed_dim": 96,
        "custom_text": True,
        "init_logit_bias": -10,
    }


def coca() -> dict[str, Any]:
    tower = {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
    decoder = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return architecture(
        tower,
        {**TEXT, "context_length": 15, "embed_cls": True, "output_tokens": True},
        custom_text=True,
        multimodal_cfg=decoder,
    )


@pytest.mark.parametrize("templates", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("kind", ["clip", "quickgelu", "siglip", "coca"])
def test_features_are_those_of_open_clips_zero_shot_classifier(
    kind: str, templates: Sequence[str], tmp_path: Path
) -> None:
    described = {
        "clip": architecture(),
        "quickgelu": architecture(quick_gelu=True),
        "siglip": long_model(),
        "coca": coca(),
    }
    model = write_clip(tmp_path, described[kind])
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    found = features(tmp_path, tmp_path / "cache", templates)
    torch.testing.assert_close(found, theirs(model, tokenizer, templates), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    assert found.std(0).max() > 1e-3  # the classes are told apart


def test_quickgelu_is_that_of_the_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag may say that they were trained with it, where the architecture doesn't."""
    tag = {"file": str(folder / "open_clip_model.safetensors"), "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", architecture())
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": tag})
    section = BackboneSection(name="open_clip:tiny@openai")
    found = text_features(section, Prompts(CLASSES, ONE), Compute(cache=tmp_path))
    model = open_clip.create_model("tiny", "openai", force_quick_gelu=True).eval()
    expected = theirs(model, open_clip.get_tokenizer("tiny"), ONE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - features(folder, tmp_path)).abs().max() > 1e-4


def test_prompts_in_parts_change_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = features(folder, tmp_path / "a", SEVERAL)
    monkeypatch.setattr(clip_text, "BATCH", 5)
    torch.testing.assert_close(features(folder, tmp_path / "b", SEVERAL), whole)


def test_the_second_time_they_come_out_of_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cosup")
    first = features(folder, tmp_path, SEVERAL)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("cosup")] == [
        "text features: 4 classes, 3 templates"
    ]
    caplog.clear()

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("the encoder ran")

    with monkeypatch.context() as patch:
        patch.setattr(open_clip.CLIP, "encode_text", refuse)
        assert torch.equal(features(folder, tmp_path, SEVERAL), first)
        with pytest.raises(AssertionError, match="the encoder ran"):
            features(folder, tmp_path, ONE)
    assert caplog.text == ""
    (file,) = files(tmp_path)
    content = file.read_bytes()
    for left in (b"", content[:5], content[: len(content) // 2], b"x" * 100):
        file.write_bytes(left)
        assert torch.equal(features(folder, tmp_path, SEVERAL), first)
        assert file.read_bytes() == content
    changed = bytearray(content)
    changed[-1] ^= 1
    file.write_bytes(changed)
    assert torch.equal(features(folder, tmp_path, SEVERAL), first)
    assert str(file) in caplog.text


def test_the_key_is_of_all_that_the_features_depend_on(folder: Path, tmp_path: Path) -> None:
    """And of nothing else: the image encoder may have other weights."""
    state = random_clip(folder).state_dict()

    def keys(key: str) -> int:
        changed = {**state, key: state[key] + 1e-3}
        save_tensors(tmp_path / "w.safetensors", changed)
        features(folder, tmp_path / "cache", weights=str(tmp_path / "w.safetensors"))
        return len(files(tmp_path / "cache"))

    features(folder, tmp_path / "cache")
    assert keys("visual.proj") == 1
    assert keys("ln_final.bias") == 2
    for number, (templates, names) in enumerate(
        [
            (("a photo of the {}.",), CLASSES),
            (ONE, CLASSES[::-1]),
            (ONE, CLASSES[:3]),
            (ONE * 2, CLASSES[:2]),
            (("{}", "a {}"), ("cat", "dog")),
            (("{}",), ("cat", "a cat", "dog", "a dog")),  # the same texts, of other classes
        ]
    ):
        features(folder, tmp_path / "cache", templates, names)
        assert len(files(tmp_path / "cache")) == 3 + number


@pytest.mark.parametrize(
    "change",
    [{"quick_gelu": True}, {"text_cfg": {**TEXT, "heads": 4}}],
    ids=["activation", "heads"],
)
def test_settings_without_tensors_are_of_the_key_too(
    change: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    """One file of weights fits them all, and gives other features with each."""
    file = str(folder / "open_clip_model.safetensors")
    write_json(tmp_path / "open_clip_config.json", {"model_cfg": {**architecture(), **change}})
    first = features(folder, tmp_path / "cache")
    other = features(tmp_path, tmp_path / "cache", weights=file)
    assert (first - other).abs().max() > 1e-4
    assert len(files(tmp_path / "cache")) == 2


def checked(folder: Path, **head: Any) -> Prompts:
    section = HeadSection.model_validate({"kind": "prototype", "init": "text", **head})
    check_prompts(backbone(folder), section, CLASSES)
    return prompts_of(backbone(folder), section, CLASSES)


def test_a_prompt_of_exactly_the_context_is_read_and_one_longer_is_refused(folder: Path) -> None:
    """16 tokens: start, end, and 14 words."""
    fits = " ".join(["cat"] * 13) + " {}"
    assert checked(folder, templates=fits, class_names=["a", "b", "c", "d"]).templates == (fits,)
    for more, words in (("cat ", 17), ("cat " * 60, 76), ("cat!? " * 300, 616)):
        with pytest.raises(UserError) as caught:
            checked(folder, templates=["{}", more + fits], class_names=["a", "b", "c", "d"])
        text = str(caught.value)
        assert text.startswith(f"templates: the prompt '{more}")
        assert f"is {words} tokens long with its start and end" in text
        assert text.endswith(f"the text encoder of open_clip:{folder} reads 16")
    with pytest.raises(UserError, match="is 17 tokens long"):
        features(folder, Path("none"), [fits], ["a", "two words"])


def test_the_same_length_as_open_clip_counts(folder: Path) -> None:
    """Whatever is in a prompt: the cut is where open_clip's tokenizer cuts."""
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    for text in (
        "!" * 40,
        "! " * 14,
        "!? " * 7,
        "東京 " * 5,
        "supercalifragilistic " * 3,
        "é" * 14,
    ):
        whole = len(tokenizer.encode(text + "x")) + 2
        if whole <= 16:
            checked(folder, templates=text + "{}", class_names=["x", "y", "z", "v"])
            continue
        with pytest.raises(UserError, match=f"is {whole} tokens long"):
            checked(folder, templates=text + "{}", class_names=["x", "y", "z", "v"])


class FakeTokenizer:
    """Words to numbers as the tokenizers of other CLIPs put them in a row of some length."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, texts: list[str], context_length: int) -> Tensor:
        return torch.tensor([self.row(len(text.split()), context_length) for text in texts])

    def row(self, words: int, length: int) -> list[int]:
        if self.kind == "siglip":  # T5: no start; the end token is the padding
            row = [7] * min(words, length - 1) + [1]
            return row + [1] * (length - len(row))
        if self.kind == "siglip2":  # Gemma: no start; an end token, then padding
            row = [7] * min(words, length - 1) + [1]
            return row + [0] * (length - len(row))
        if self.kind == "clipa":  # BERT: a start; the end token is wiped out
            row = [101] + [7] * min(words, length - 2) + [0]
            return row + [0] * (length - len(row))
        assert self.kind == "worldwide"  # MetaCLIP 2: start, end, padding, and a last class token
        row = [5, *([7] * min(words, length - 3)), 6]
        return row + [1] * (length - 1 - len(row)) + [4]


@pytest.mark.parametrize(
    ("kind", "most"), [("siglip", 15), ("siglip2", 15), ("clipa", 14), ("worldwide", 13)]
)
def test_other_tokenizers_cut_is_seen_too(
    kind: str, most: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda *_, **__: FakeTokenizer(kind))
    names = {"class_names": ["a", "b", "c", "d"]}
    checked(folder, templates="w " * (most - 1) + "{}", **names)
    for more in (1, 2, 60):
        with pytest.raises(UserError, match=f"is {16 + more} tokens long"):
            checked(folder, templates="w " * (most - 1 + more) + "{}", **names)


def test_a_tokenizer_in_the_folder_is_used(tmp_path: Path) -> None:
    """As most of the hub's newer CLIPs bring one (`hf_tokenizer_name`), by transformers."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ("[PAD]", "[END]", "[UNK]", "a", "photo", "of", "cat", "dog")
    level = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    own = tokenizers.Tokenizer(level)
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [END]", special_tokens=[("[END]", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]"
    ).save_pretrained(tmp_path)
    text = {
        **TEXT,
        "vocab_size": 8,
        "context_length": 6,
        "hf_tokenizer_name": "its/own",
        "pool_type": "last",
        "no_causal_mask": True,
    }
    model = write_clip(tmp_path, architecture(text=text, custom_text=True))
    section = HeadSection(kind="prototype", init="text", templates="a photo of a {}")
    check_prompts(backbone(tmp_path), section, ("cat", "dog"))
    prompts = prompts_of(backbone(tmp_path), section, ("cat", "dog"))
    with torch.inference_mode():
        tokens = torch.tensor([[3, 4, 5, 3, 6, 1], [3, 4, 5, 3, 7, 1]])
        expected = model.encode_text(tokens, normalize=True)  # type: ignore[operator]
    found = text_features(backbone(tmp_path), prompts, Compute(cache=tmp_path / "cache"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    longer = section.model_copy(update={"templates": "a photo of of a {}"})
    with pytest.raises(UserError, match=r"is 7 tokens long.* reads 6"):
        check_prompts(backbone(tmp_path), longer, ("cat", "dog"))


def test_a_tokenizer_that_cannot_be_had_is_explained(tmp_path: Path) -> None:
    text = {**TEXT, "hf_tokenizer_name": "its/own"}
    write_json(tmp_path / "open_clip_config.json", {"model_cfg": architecture(text=text)})
    section = HeadSection(kind="prototype", init="text")
    with pytest.raises(UserError, match=r"^init: .*\(its tokenizer\)' cannot be") as it:
        check_prompts(backbone(tmp_path, None), section, CLASSES)
    assert "\n" not in str(it.value)


def test_what_is_wrong_with_the_backbone_is_said_so(tmp_path: Path) -> None:
    section = HeadSection(kind="prototype", init="text")
    for name, words in (
        ("open_clip:ViT-B-23", "unknown open_clip model 'ViT-B-23'"),
        (f"open_clip:{tmp_path}", "backbone '.*' no file|backbone '.*': no file"),
    ):
        with pytest.raises(UserError, match=f"^init: {words}"):
            check_prompts(BackboneSection(name=name), section, CLASSES)


def without(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}


def test_weights_without_a_text_encoder_that_fits_are_one_line(
    folder: Path, tmp_path: Path
) -> None:
    state = random_clip(folder).state_dict()
    image = {key: t for key, t in state.items() if key.startswith("visual.")}
    other = architecture(text={**TEXT, "width": 64})
    deeper = architecture(text={**TEXT, "layers": 2})
    for number, (tensors, words) in enumerate(
        [
            (image, ["positional_embedding", "missing"]),
            (without(state, "text_projection"), ["text_projection", "missing"]),
            ({**state, "more": torch.zeros(1)}, ["more", "not in the model"]),
            (write_clip(tmp_path / "wide", other).state_dict(), ["width changed"]),
            (write_clip(tmp_path / "deep", deeper).state_dict(), ["resblocks.1", "not in the mo"]),
        ]
    ):
        file = tmp_path / f"{number}.safetensors"
        save_tensors(file, tensors)
        with pytest.raises(UserError) as caught:
            features(folder, tmp_path / "cache", weights=str(file))
        text = str(caught.value)
        assert f"weights '{file}': hold no text encoder that fits open_clip:{folder}" in text
        assert [word for word in words if word not in text] == [], text
        assert "\n" not in text
        assert len(text) < 600
    assert not (tmp_path / "cache").exists()  # nothing half-written


def test_an_error_that_says_nothing_is_none_the_less_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(open_clip, "load_checkpoint", silent)
    with pytest.raises(UserError, match=r"no text encoder that fits .* \(AssertionError\)$"):
        features(folder, tmp_path)


def test_the_image_encoders_weights_are_not_looked_at(folder: Path, tmp_path: Path) -> None:
    """Of distributed training, too; the image encoder may be of another size, or missing."""
    expected = features(folder, tmp_path / "cache")
    state = random_clip(folder).state_dict()
    for number, (tensors, prefix) in enumerate(
        [(state, "module."), (without(state, "visual."), ""), (without(state, "visual.ln"), "")]
    ):
        file = tmp_path / f"{number}.pt"
        torch.save({"state_dict": {prefix + k: t for k, t in tensors.items()}}, file)
        found = features(folder, tmp_path / str(number), weights=str(file))
        assert torch.equal(found, expected)


def test_random_weights_are_warned_of_and_the_same_every_time(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = features(folder, tmp_path / "a", weights=None)
    assert torch.equal(torch.rand(1), expected)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == [f"open_clip:{folder} has random weights: its text features are meaningless"]
    assert torch.equal(features(folder, tmp_path / "b", weights=None), first)
    assert (features(folder, tmp_path / "a") - first).abs().max() > 0.1


@pytest.mark.parametrize("change", [{"widht": 3}, {"heads": 3}, {"heads": 0}])
def test_a_text_encoder_that_cannot_be_built_is_explained(
    change: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    described = json.loads((folder / "open_clip_config.json").read_text())
    described = copy.deepcopy(described)
    described["model_cfg"]["text_cfg"].update(change)
    write_json(tmp_path / "open_clip_config.json", described)
    with pytest.raises(UserError, match="cannot build its text encoder") as caught:
        features(tmp_path, tmp_path / "cache", weights=None)
    assert "\n" not in str(caught.value)
    assert described["preprocess_cfg"] == PREPROCESS
