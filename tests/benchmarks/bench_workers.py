"""Compare students trained by two workers and by one, with the same effective batch.

    apt-get install dataset-fashion-mnist
    python tests/benchmarks/bench_workers.py [--seeds 3] [--train 3000] [--test 4000] [--epochs 3]
        [--model cifar_resnet8] [--workers 2] [--threads 1]

Images are real (Fashion-MNIST), with true labels and SGD. One worker is the local run; several are
Ray Train's, on a cluster started for the benchmark. Target: mean accuracies within 0.5 points.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from cosup.cluster.actor import Setup
from cosup.cluster.room import Allocation
from cosup.cluster.session import connected
from cosup.cluster.storage import RunStorage
from cosup.cluster.trainer import RayLauncher
from cosup.config.schema import Config, ExecutionSection
from cosup.data.load import load_data
from cosup.data.loader import image_batches
from cosup.data.table import ImageData
from cosup.data.transforms import eval_transform
from cosup.losses import CrossEntropy, Objective
from cosup.models.classifier import Classifier, build_classifier, predict_network
from cosup.models.compute import Compute
from cosup.models.training_section import TrainingSection
from cosup.probabilities import ProbTable
from cosup.protocols import Guidance
from cosup.student.jobs import Lesson, NetworkJob

CPU = torch.device("cpu")


def config_of(options: argparse.Namespace) -> Config:
    """Return a config of the images in splits of the requested sizes."""
    total = options.train + options.test + 10
    parts = {
        "teacher_train": 10 / total,
        "student_train": options.train / total,
        "test": options.test / total,
    }
    return Config.model_validate(
        {
            "data": {
                "source": "idx",
                "root": "/usr/share/datasets/fashion-mnist",
                "splits": parts,
                "limit": total,
            },
            "teachers": {"model": {"name": "linear_pixels"}, "training": {"steps": 1}},
            "student": {"backbone": {"name": options.model, "weights": None}},
        }
    )


def job(options: argparse.Namespace, data: ImageData, seed: int) -> NetworkJob:
    """Return the job of training a network on true labels."""
    rows = data.rows("student_train")
    labels = data.truth(rows).labels
    count = len(data.classes)
    lesson = Lesson(rows, ProbTable.one_hot(labels, count), torch.ones(len(rows)), Guidance(labels))
    training = TrainingSection.model_validate(
        {"steps": None, "epochs": options.epochs, "batch_size": 64, "optimizer": "sgd", "lr": 0.05}
    )
    classifier = build_classifier(options.model, count, None, 32, seed)
    every = torch.arange(len(rows))
    steps = training.total_steps(len(rows))
    objective = Objective(CrossEntropy())
    return NetworkJob(classifier, lesson, every, objective, training, steps, seed, "net")


def accuracy(classifier: Classifier, data: ImageData) -> float:
    """Return the accuracy on the test split in percent."""
    rows = data.rows("test")
    batches = image_batches(data, rows, eval_transform(classifier.input), 256, 1)
    table = predict_network(classifier, batches)
    return 100 * float((table.top()[0] == data.truth(rows).labels).double().mean())


def main() -> None:
    """Print the two accuracies of every seed, and their means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--test", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--model", default="cifar_resnet8")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = config_of(options)
    data = load_data(config.data, 0, 1, None)
    setup = Setup(config, data.known(), os.getcwd(), "cpu", "float32", torch.get_num_threads())
    pairs = []
    with connected(ExecutionSection()), tempfile.TemporaryDirectory() as folder:
        storage, allocation = RunStorage(Path(folder)), Allocation(options.workers, 1, 0)
        launcher = RayLauncher(setup, allocation, storage, tries=1, wait=60)
        compute = Compute(CPU, scratch=Path(folder))
        for seed in range(options.seeds):
            alone = job(options, data, seed).run(data, Compute(CPU))
            given = job(options, data, seed)
            [together] = launcher.networks([given], data, compute, None)
            pairs.append((accuracy(alone, data), accuracy(together, data)))
            print(f"seed {seed}: one worker {pairs[-1][0]:.2f} %, several {pairs[-1][1]:.2f} %")
    one, several = (statistics.mean(column) for column in zip(*pairs, strict=True))
    print(
        f"{options.model}, {options.epochs} epochs of {options.train} images, {options.test} test "
        f"images, {options.seeds} seeds: one worker {one:.2f} %, {options.workers} workers "
        f"{several:.2f} %, difference {several - one:+.2f} points (target: at most 0.5)"
    )


if __name__ == "__main__":
    main()
