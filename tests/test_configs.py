"""The shipped configs validate; those for data we cannot ship run on a miniature of it."""

import copy
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from helpers.tiny_clip import one_vocabulary, write_clip
from helpers.wilds_files import write_camelyon17, write_iwildcam
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import ImageNetInfo
from torchvision import models

from cosup import load_student
from cosup.analysis import load_run
from cosup.analysis.figures import tables
from cosup.cli import call
from cosup.config import read_config
from cosup.config.files import shipped_configs
from cosup.models.classifier import build_classifier
from cosup.runs.checks import CONFIG_CHECKS, run_checks

CONFIGS = Path(__file__).parents[1] / "configs"
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
# Small networks of random weights (the pretrained ones need the internet).
TINY = [
    "teachers.model.backbone={name: cifar_resnet8, weights: null, image_size: 16}",
    "teachers.training.steps=5",
    "student.backbone={name: test_vit, weights: null, image_size: 32}",
    "student.training.epochs=1",
]
CIFAR = [
    "teachers.model={name: cifar_resnet8, image_size: 16}",
    "student.backbone={name: cifar_resnet8, weights: null, image_size: 16}",
    "teachers.training.epochs=1",
    "student.training.epochs=1",
]
TRANSFER = [
    "teachers.model={name: cifar_resnet8, image_size: 16}",
    "teachers.training.epochs=1",
    "student.backbone={name: test_vit, weights: null, image_size: 32}",
    "student.training.epochs=1",
    "execution.workers=1",
]
FEW_SHOT = [
    "data.few_shot={novel: given, validation: given, ways: 3, shots: 1, queries: 4, episodes: 10}",
    "teachers.model={name: cifar_resnet8, image_size: 16}",
    "teachers.training.epochs=12",  # it has to name three classes, or no episode can be drawn
    "teachers.training.augment.scale=[0.9, 1.0]",
    "student.backbone={name: cifar_resnet8, weights: null, image_size: 16}",
    "student.training.epochs=1",
    "student.meta.steps=2",
    "student.meta.ways=3",
    "student.meta.queries=4",
    "execution.workers=1",
]
SUMMARY = {
    "run",
    "status",
    "seed",
    "config_hash",
    "measured",
    "team",
    "floor",
    "ceiling",
    "student",
    "rounds",
    "controls",
    "controls_absent",
    "sources",
    "labels",
    "review",
    "agreement",
    "measured_reason",
    "verdict",
    "outcome",
    "next",
    "teachers",
    "data",
    "seconds",
    "peak_rss_mb",
}
STUDENT = {
    "accuracy",
    "accuracy_ci95",
    "pgr",
    "pgr_ci95",
    "pgr_reason",
    "pgr_team",
    "per_domain",
    "per_class",
    "calibration_error",
}
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer"]
CIFAR10 += ["dog", "frog", "horse", "ship", "truck"]


def digit_files(each: int = 12) -> Iterator[tuple[int, Image.Image]]:
    """Real digits, a dozen of each class in turn."""
    pixels, labels = load_digits(return_X_y=True)
    for label in range(10):
        for row in np.flatnonzero(labels == label)[:each]:
            grey = (pixels[row].reshape(8, 8) * 15.9).astype(np.uint8)
            yield label, Image.fromarray(grey).resize((32, 32))


def run(
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    *more: str,
) -> dict[str, Any]:
    """The summary of a run with what every run's has, and `more`."""
    monkeypatch.chdir(tmp_path)
    assert call(["run", str(CONFIGS / config), *overrides]) == 0
    name = config.removesuffix(".yaml")
    summary: dict[str, Any] = json.loads((tmp_path / "outputs" / name / "summary.json").read_text())
    assert set(summary) == SUMMARY | set(more)
    assert summary["run"] == name
    assert summary["status"] == "finished"
    student, controls = summary["student"], summary["controls"]
    assert set(student) == STUDENT
    assert student["accuracy_ci95"][0] <= student["accuracy"] <= student["accuracy_ci95"][1]
    if "ceiling" in controls:
        assert summary["ceiling"]["accuracy"] == controls["ceiling"]["accuracy"]
    assert set(summary["floor"]) == {"teacher", "accuracy", "chosen_on", "coverage", "compared"}
    for accuracy in (student["accuracy"], summary["floor"]["accuracy"]):
        assert 0 <= accuracy <= 1
    return summary


def cifar_files(root: Path, hundred: bool) -> None:
    """Python batches as torchvision reads them: 90 images to train with, 30 to test."""
    parts: dict[str, list[tuple[int, Image.Image]]] = {}
    for number, item in enumerate(digit_files()):
        train = "train" if hundred else f"data_batch_{1 + number % 5}"
        test = "test" if hundred else "test_batch"
        parts.setdefault(test if number % 4 == 0 else train, []).append(item)
    root.mkdir(parents=True)
    for name, items in parts.items():
        planes = [np.asarray(image.convert("RGB")).transpose(2, 0, 1) for _, image in items]
        labels = [label for label, _ in items]
        batch = {
            "data": np.stack(planes).reshape(-1, 3 * 32 * 32),
            "fine_labels" if hundred else "labels": labels,
        }
        (root / name).write_bytes(pickle.dumps(batch))
    meta, key = ("meta", "fine_label_names") if hundred else ("batches.meta", "label_names")
    (root / meta).write_bytes(pickle.dumps({key: CIFAR10}))


@pytest.fixture(scope="module", autouse=True)
def vocabulary() -> Iterator[None]:
    with one_vocabulary():
        yield


@pytest.mark.parametrize("path", shipped_configs().values(), ids=lambda path: path.stem)
def test_every_config_validates_and_says_how_to_run_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there are no data, and no weights made by a run
    draft = read_config(path)
    assert draft.errors == ()
    _, mistakes = run_checks(draft, CONFIG_CHECKS)
    missing = {"data.root", "data.path", "student.backbone", "data.shifted.other_traps.source.root"}
    assert {".".join(error.key) for error in mistakes.errors} <= missing
    head = path.read_text().split("\n\n")[0]
    assert f"cosup run configs/{path.name}" in head


@pytest.mark.slow
def test_imagenet_runs_on_a_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = ("teacher_train", "student_train", "test")
    for number, (label, image) in enumerate(digit_files(6)):
        folder = tmp_path / "data/imagenet" / splits[number % 3] / f"n{label:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(folder / f"{number}.JPEG")
    # Teachers learn little from crops of a few digits: among three classes the filter keeps none.
    learned = [
        "student.training.epochs=4",
        "student.training.lr=0.01",
        "teachers.training.lr=0.01",
        "teachers.training.batch_size=8",
        "rounds.consistency.0.k=10",
    ]
    summary = run("imagenet_csl.yaml", tmp_path, monkeypatch, [*TINY, *learned], "published")
    assert summary["published"]["student"]["epochs"] == 4
    rounds = summary["rounds"]
    assert [len(item["teachers"]) for item in rounds] == [1, 2, 4, 8]
    assert {item["assigner"] for item in rounds} == {"block"}
    student = load_student(tmp_path / "outputs/imagenet_csl/student", "cpu")
    files = sorted((tmp_path / "data/imagenet/test").glob("*/*"))
    found = student.predict([Image.open(file) for file in files]).argmax(1)
    right = [student.classes[k] == file.parent.name for k, file in zip(found, files, strict=True)]
    assert np.mean(right) == pytest.approx(summary["student"]["accuracy"])  # equally scaled images


def domainnet(root: Path) -> None:
    """Real digits, a domain per angle, with lists as DomainNet has them."""
    for angle, domain in enumerate(DOMAINS):
        lists: dict[str, list[str]] = {"train": [], "test": []}
        for number, (label, image) in enumerate(digit_files(4)):
            path = f"{domain}/digit_{label}/{number}.png"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            image.rotate(15 * angle).save(root / path)
            lists["test" if number % 4 == 0 else "train"].append(f"{path} {label}")
        for part, lines in lists.items():
            (root / f"{domain}_{part}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_domainnet_runs_on_a_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domainnet(tmp_path / "data/domainnet")
    kept = "rounds.consistency.0.k=9"  # random features are all alike: three keep none
    summary = run("domainnet_csl.yaml", tmp_path, monkeypatch, [*TINY, kept])
    assert set(summary["student"]["per_domain"]) == set(DOMAINS)


@pytest.mark.slow
def test_cpl_and_its_baselines_run_on_a_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domainnet(tmp_path / "data/domainnet")
    write_clip(tmp_path / "clip")
    clip = f"student.backbone={{name: 'open_clip:{tmp_path}/clip'}}"
    network = ["teachers.model={name: cifar_resnet8, image_size: 16}", "teachers.training.epochs=1"]
    linear = ["teachers.model={name: linear_pixels, size: 4}", "teachers.training={steps: 5}"]
    # The others differ from these, or from office_home_cpl, in their loss alone.
    for name in ("_zero_shot", "_auxconf_lp", "_fine_tuned"):
        tiny = [clip, *(network if name == "_zero_shot" else linear)]
        more = [] if name == "_zero_shot" else ["student.training.epochs=1"]
        if name != "_fine_tuned":
            more += ["rounds.consistency.0.k=9"]  # random features are all alike: three keep none
        summary = run(f"domainnet_cpl{name}.yaml", tmp_path, monkeypatch, [*tiny, *more])
        samples = summary["data"]["samples"]
        assert samples["teacher_train"] == 6 * 30  # all of the training lists
        assert samples["student_train"] == samples["test"] == 6 * 5
        assert set(summary["student"]["per_domain"]) == set(DOMAINS)
        teachers = 1 if name == "_fine_tuned" else 6
        assert {len(item["teachers"]) for item in summary["rounds"]} == {teachers}
        student = load_student(tmp_path / f"outputs/domainnet_cpl{name}/student", "cpu")
        image = Image.new("RGB", (32, 32))
        assert student.predict([image]).shape == (1, 10)
        if name != "_fine_tuned":
            assert student.model.head.kind == ("linear" if "lp" in name else "prototype")


@pytest.mark.slow
def test_learnt_prompts_run_on_a_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they give is exported as prototypes, which are not the text features they replace."""
    domainnet(tmp_path / "data/domainnet")
    clip = write_clip(tmp_path / "clip")
    tiny = [
        f"student.backbone={{name: 'open_clip:{tmp_path}/clip'}}",
        "student.training={steps: 3}",
        "student.head={kind: prototype, init: prompts, context: 4}",
        "teachers.model={name: linear_pixels, size: 4}",
        "teachers.training={steps: 5}",
        "rounds.first_guide=crowd",
        "rounds.consistency=[]",
        "controls=[ceiling]",
    ]
    summary = run("domainnet_cpl_auxconf_tp.yaml", tmp_path, monkeypatch, tiny)
    assert set(summary["controls"]) == {"ceiling"}
    head = load_student(tmp_path / "outputs/domainnet_cpl_auxconf_tp/student", "cpu").model.head
    assert head.kind == "prototype"
    texts = [f"a photo of a digit {label}." for label in range(10)]
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}/clip")(texts)
    with torch.no_grad():
        plain = clip.encode_text(tokens, normalize=True)
    assert head.weight[0].shape == plain.shape
    assert head.weight[0].norm(dim=1).allclose(torch.ones(10), atol=1e-5)
    assert not head.weight[0].allclose(plain, atol=1e-2)


@pytest.mark.slow
def test_cpl_on_office_home_runs_on_a_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data/office_home"
    domains = ["Art", "Clipart", "Product", "Real World"]
    for angle, domain in enumerate(domains):
        for number, (label, image) in enumerate(digit_files(4)):
            path = root / domain / f"Digit_{label}" / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.convert("RGB").rotate(15 * angle).save(path)
    (root / "ImageInfo.csv").write_text("Image size,file name\n")  # beside the folders of domains
    write_clip(tmp_path / "clip")
    tiny = [
        f"student.backbone={{name: 'open_clip:{tmp_path}/clip'}}",
        "student.training.epochs=1",
        "teachers.model={name: linear_pixels, size: 4}",
        "teachers.training={steps: 5}",
        "rounds.consistency.0.k=9",  # random features are all alike: three keep none
    ]
    summary = run("office_home_cpl.yaml", tmp_path, monkeypatch, tiny)
    assert set(summary["student"]["per_domain"]) == set(domains)
    assert {len(item["teachers"]) for item in summary["rounds"]} == {4}
    samples = summary["data"]["samples"]
    assert [samples[name] for name in ("teacher_train", "student_train", "test")] == [80, 40, 40]


@pytest.mark.slow
def test_cifar100_runs_on_a_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_files(tmp_path / "data/cifar-100-python", hundred=True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    summary = run("cifar100_distillation.yaml", tmp_path, monkeypatch, CIFAR)
    assert summary["measured"] == "on the test split"
    assert set(summary["controls"]) == {"best_teacher", "ceiling"}
    samples = summary["data"]["samples"]
    # The teacher's samples are the student's, and the set's own test images measure.
    assert (samples["student_train"], samples["test"]) == (90, 30)
    assert samples["teacher_train"] == 90
    assert "noise" not in summary["rounds"][0]


@pytest.mark.slow
def test_the_losses_of_the_paper_run_on_a_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that the config names in its head, by the recipe `cifar_v1`."""
    cifar_files(tmp_path / "data/cifar-100-python", hundred=True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    monkeypatch.chdir(tmp_path)
    path = CONFIGS / "cifar100_distillation.yaml"
    head = path.read_text().split("\n\n")[0]
    (losses,) = re.findall(r"rounds.losses=\[(.*)\]\" run.seeds", head)
    (fitnet,) = re.findall(r"\{name: fitnet.*?\}", head)
    (recipe,) = re.findall(r"^#   (student.training.augment.*)$", head, re.MULTILINE)
    chosen = f"rounds.losses=[{losses}, {fitnet}, bkd]"
    small = [*CIFAR, "student.training.batch_size=32", "controls=[]", "data.limit=60"]
    assert call(["run", str(path), chosen, *recipe.split(), *small]) == 0
    summary = json.loads((tmp_path / "outputs/cifar100_distillation/summary.json").read_text())
    assert len(summary["losses"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symmetric, rate: 0.2", "asymmetric, rate: 0.4, map: cifar10"])
def test_noisy_cifar10_runs_on_a_miniature(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar_files(tmp_path / "data/cifar-10-batches-py", hundred=False)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    overrides = [*CIFAR, f"data.noise={{kind: {kind}}}", "rounds.consistency.0.k=9"]
    if kind.startswith("symmetric"):  # by file, as published
        torch.manual_seed(0)
        student, teacher = (
            build_classifier("cifar_resnet8", 10, image_size=16, seed=n) for n in range(2)
        )
        plain = {k: v for k, v in student.model.state_dict().items() if not k.startswith("fc.")}
        torch.save(plain, tmp_path / "student.pt")
        torch.save(teacher.model.state_dict(), tmp_path / "teacher.pt")
        files = "{name: cifar_resnet8, image_size: 16, checkpoint: teacher.pt}"
        own = "{name: cifar_resnet8, weights: student.pt, image_size: 16}"
        overrides = [
            f"data.noise={{kind: {kind}}}",
            "rounds.consistency.0.k=9",
            f"teachers={{hierarchy: {{by: class, levels: [1]}}, model: {files}}}",
            f"student.backbone={own}",
            "student.training.epochs=1",
            "controls=[given_labels]",
        ]
    summary = run("cifar_noisy_labels.yaml", tmp_path, monkeypatch, overrides)
    others = set() if kind.startswith("symmetric") else {"best_teacher", "ceiling"}
    assert set(summary["controls"]) == {"given_labels", *others}
    (only,) = summary["rounds"]
    # Both rates are a fifth of all: the usual map touches five of the ten classes. Four standard
    # deviations of 90 draws.
    assert abs(only["noise"] - 0.2) < 4 * (0.2 * 0.8 / 90) ** 0.5
    assert 0 < only["kept"] < 1
    assert only["rejected"].keys() == {"neighbours"}
    assert set(summary["student"]["per_class"]) == set(CIFAR10)


@pytest.mark.slow
def test_mini_imagenet_runs_on_a_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data/mini-imagenet"
    (root / "images").mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, (label, image) in enumerate(digit_files()):
        name = f"n{label:08d}{number:08d}.jpg"
        image.convert("RGB").save(root / "images" / name)
        part = "train" if label < 4 else "val" if label < 7 else "test"
        lists[part].append(f"{name},n{label:08d}")
    for part, lines in lists.items():
        (root / f"{part}.csv").write_text("\n".join(["filename,label", *lines]) + "\n")
    summary = run("mini_imagenet_few_shot.yaml", tmp_path, monkeypatch, FEW_SHOT)
    again = ["student.meta.teacher=meta_centroids", "controls=[]", "run.output=again"]
    assert call(["run", str(CONFIGS / "mini_imagenet_few_shot.yaml"), *FEW_SHOT, *again]) == 0
    other = json.loads((tmp_path / "again/mini_imagenet_few_shot/summary.json").read_text())
    assert other["measured"] == summary["measured"]
    assert other["status"] == "finished"
    assert summary["measured"] == "over 10 3-way 1-shot episodes of novel classes"
    assert set(summary["student"]["per_class"]) == {"n00000007", "n00000008", "n00000009"}
    assert set(summary["controls"]) == {"best_teacher", "ceiling"}
    assert summary["data"]["classes"] == 4
    assert summary["data"]["samples"]["test"] == 0


@pytest.mark.slow
def test_imagenet_transfer_runs_on_a_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synsets = ImageNetInfo().label_names()[:10]
    for number, (label, image) in enumerate(digit_files(4)):
        split = "test" if number % 4 == 0 else "student_train"
        folder = tmp_path / "data/imagenet" / split / synsets[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(folder / f"{number}.JPEG")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet.r160_in1k").state_dict(), tmp_path / "trained.pt")
    teacher = "{name: test_resnet.r160_in1k, use: pretrained, weights: trained.pt, image_size: 32}"
    more = [one for one in TRANSFER if not one.startswith("teachers")]
    overrides = [f"teachers.model={teacher}", *more, "student.training.batch_size=16"]
    overrides += ["student.training.accumulate=2"]
    summary = run("imagenet_transfer.yaml", tmp_path, monkeypatch, overrides)
    assert summary["teachers"][0]["steps"] == 0
    assert set(summary["controls"]) == {"best_teacher", "ceiling"}
    assert summary["data"]["samples"]["teacher_train"] == 30
    assert summary["data"]["samples"]["test"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["iwildcam", "camelyon17"])
def test_wilds_runs_on_a_miniature(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data" / dataset
    (write_iwildcam if dataset == "iwildcam" else write_camelyon17)(root, 150)
    source = f"{{name: wilds, root: {root}, dataset: {dataset}, part: test}}"
    weak = "{name: cifar_resnet8, weights: null, image_size: 16}"
    overrides = [
        f"data.root={root}",
        f"data.dataset={dataset}",
        f"data.shifted.other_traps.source={source}",
        f"teachers.model={{name: linear_features, backbone: {weak}}}",
        "teachers.training={steps: 5}",
        "student.backbone={name: test_vit, weights: null, image_size: 32}",
        "student.training={steps: 5}",
        "execution.workers=1",
    ]
    monkeypatch.chdir(tmp_path)
    assert call(["run", str(CONFIGS / "wilds_shifted.yaml"), *overrides]) == 0
    path = tmp_path / "outputs/wilds_shifted/summary.json"
    summary: dict[str, Any] = json.loads(path.read_text())
    sets = summary["shifted"]
    assert set(sets) == {"other_traps", "noise", "blur", "contrast", "jpeg"}
    measured = summary["data"]["samples"]["test"]
    assert {sets[name]["samples"] for name in sets if name != "other_traps"} == {measured}
    for numbers in sets.values():
        assert set(numbers["controls"]) == {"best_teacher", "labels", "ceiling"}
        assert set(numbers["student"]) == STUDENT
    where = {"iwildcam": "location 4", "camelyon17": "hospital 2"}[dataset]
    assert set(sets["other_traps"]["student"]["per_domain"]) >= {where}


@pytest.mark.slow
def test_inaturalist_transfer_runs_on_a_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data/inaturalist"
    parts: dict[str, list[tuple[int, str, int]]] = {"train": [], "val": []}
    for number, (label, image) in enumerate(digit_files(4)):
        path = f"train_val2018/Digits/{label}/{number}.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(root / path)
        parts["val" if number % 4 == 0 else "train"].append((number, path, label))
    categories = [{"id": label, "name": f"Digit {label}"} for label in range(10)]
    for part, items in parts.items():
        tree = {
            "images": [{"id": number, "file_name": path} for number, path, _ in items],
            "annotations": [
                {"id": number, "image_id": number, "category_id": label}
                for number, _, label in items
            ],
            "categories": categories,
        }
        (root / f"{part}2018.json").write_text(json.dumps(tree))
    summary = run("inaturalist_transfer.yaml", tmp_path, monkeypatch, TRANSFER)
    assert set(summary["controls"]) == {"best_teacher", "ceiling"}
    assert set(summary["student"]["per_class"]) == {f"Digit {label}" for label in range(10)}
    assert summary["data"]["samples"]["test"] == 10


WNIDS = ["n01440764", "n01443537", "n01484850", "n02123045", "n02123159"]
WNIDS += ["n07747607", "n07753592", "n12267677", "n13133613", "n15075141"]
OF_IMAGENET = [0, 1, 2, 281, 282, 950, 954, 988, 998, 999]
"""Some of ImageNet's classes, and their places among the thousand."""


@pytest.mark.slow
def test_openai_w2s_runs_on_a_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AlexNet's download is replaced by a random start; its answers are those of torchvision."""
    for number, (label, image) in enumerate(digit_files(3)):
        folder = tmp_path / "data/imagenet/val" / WNIDS[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(folder / f"{number}.JPEG", quality=95)
    build, presets = models.get_model, models.get_model_weights("alexnet").DEFAULT
    torch.manual_seed(1)
    alexnet = build("alexnet").eval()
    # A narrow one is read and written faster.
    alexnet.classifier = torch.nn.Sequential(torch.nn.Linear(9216, 8), torch.nn.Linear(8, 1000))

    def offline(name: str, weights: object = None, **settings: object) -> torch.nn.Module:
        assert name == "alexnet"
        assert weights in (None, presets)
        return copy.deepcopy(alexnet)

    monkeypatch.setattr(models, "get_model", offline)
    student = ["student.backbone={name: test_vit, weights: null, image_size: 32}"]
    summary = run("imagenet_openai_w2s.yaml", tmp_path, monkeypatch, student)
    assert summary["data"]["samples"]["student_train"] == 24
    assert summary["data"]["samples"]["test"] == 6
    found = load_run(tmp_path / "outputs/imagenet_openai_w2s")
    (teacher,) = found.teacher_names
    said = found.answered("teacher", teacher).label
    for place, sample in enumerate(found.test["sample_id"]):
        image = Image.open(tmp_path / "data/imagenet/val" / sample).convert("RGB")
        with torch.no_grad():
            logits = alexnet(presets.transforms()(image)[None])[0]
        assert int(said[place]) == int(logits[OF_IMAGENET].argmax())
    own = found.answered("student", "student").label
    (row,) = tables(found)["student_teachers"].query("where == 'all'").to_dict("records")
    assert row["samples"] == 6
    assert row["agreement"] == pytest.approx((own == said).mean())
