"""Write random run directories of any size and shape in the format of real runs.

Predictions are right with a fixed probability: 0.4 for a generalist, 0.8 for a specialist inside
its scope, 0.5 + 0.1 K for the student after round K, and 0.5, 0.6, ... for the controls.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from cosup.analysis.decisions import decisions_table, noise_measures, round_measures
from cosup.config import config_hash, dump_config, load_config
from cosup.consistency import Kept
from cosup.evidence import Scopes, Truth
from cosup.files import save_tensors, write_json
from cosup.layout import MARKER
from cosup.levels import Assignment
from cosup.probabilities import ProbTable
from cosup.rounds import Outcome
from cosup.runs.summary import TestSplit, control_numbers, student_numbers
from cosup.seeds import seed_for
from cosup.teachers.store import AnnotationStore

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SHARD = 4096
FILTERS = ("teacher_student", "local_global", "abstained")
RECIPE = ("run.name=made", "rounds.choose=null", "rounds.loss={name: adaptive_confidence}")
FEW_SHOT = (
    "data.few_shot={novel: 3, ways: 3, shots: 1, queries: 2, episodes: 4}",
    "data.splits={teacher_train: 0.3, student_train: 0.7}",
    "student={mode: finetune, backbone: {name: cifar_resnet8, weights: null, image_size: 16}}",
    "teachers.model={name: cifar_resnet8, image_size: 16}",
    "teachers.training={steps: 10}",
    "rounds.consistency=[]",
)
CONTROLS = ("best_teacher", "mean_ensemble", "oracle_assignment", "ceiling")


@dataclass(frozen=True)
class Shape:
    """Size and properties of a synthetic run.

    levels: number of teachers per level, each on a block of the classes. labels: whether true
    labels of student_train are known. noise: share of wrong given labels. ways: of few-shot
    episodes, 0 for none. rounds: number of finished rounds; None for a finished run.
    """

    classes: Sequence[str] = ("cat", "dog", "<b>owl</b>", "猫")
    domains: Sequence[str] = ("photo", "sketch")
    levels: Sequence[int] = (1, 2)
    train: int = 120
    test: int = 80
    labels: bool = True
    noise: float = 0.0
    ways: int = 0
    rounds: int | None = None
    abstains: float = 0.05
    controls: Sequence[str] = CONTROLS
    overrides: Sequence[str] = field(default=())


class _Teacher:
    """Attributes of a teacher that the store needs."""

    identity = reads = "made"

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        # All classes: the manifest lists, per teacher, the classes outside its support.
        self.support = torch.ones(size, dtype=torch.bool)


def make_run(path: Path, shape: Shape = Shape(), seed: int = 0) -> Path:
    """Write the run and return its directory."""
    _Writer(path, shape, seed).write()
    return path


class _Writer:
    def __init__(self, path: Path, shape: Shape, seed: int) -> None:
        self.path, self.shape = path, shape
        self.rng = torch.Generator().manual_seed(seed)
        size = len(shape.classes)
        self.truth = Truth(
            self._draw(size, shape.train), self._draw(len(shape.domains), shape.train)
        )
        self.kinds = self._draw(size, shape.test)
        self.labels, self.answers = self.kinds, list(shape.classes)
        self.test_classes = list(shape.classes)
        self.groups = torch.arange(shape.test) // 2
        if shape.ways:
            self._episodes()
        self.domains = self._draw(1 if shape.ways else len(shape.domains), shape.test)
        self.split = TestSplit(
            self.labels,
            self.domains,
            self.groups,
            tuple(self.test_classes),
            ("all",) if shape.ways else tuple(shape.domains),
            self.kinds if shape.ways else None,
        )
        self.given = None
        if shape.noise:
            wrong = torch.rand(shape.train, generator=self.rng) < shape.noise
            other = (self.truth.labels + self._draw(size - 1, shape.train) + 1) % size
            self.given = torch.where(wrong, other, self.truth.labels)
        self.known = self.truth
        if not shape.labels:
            self.known = Truth(torch.full((shape.train,), -1), self.truth.domains)
        self.levels = [self._level(number, count) for number, count in enumerate(shape.levels)]
        self.answered: dict[str, ProbTable] = {}

    def write(self) -> None:
        self.path.mkdir(parents=True)
        more = FEW_SHOT if self.shape.ways else ()
        controls = f"controls=[{', '.join(self.shape.controls)}]"
        config = load_config(CONFIG, *RECIPE, controls, *more, *self.shape.overrides)
        (self.path / "config.yaml").write_text(dump_config(config))
        write_json(self.path / MARKER, {"format": 1, "config_hash": config_hash(config)})
        write_json(self.path / "environment.json", {"packages": {"cosup": "0"}, "python": "3"})
        for part in ("data", "features", "teachers", "annotate"):
            self._finish(part, {"seconds": 2.0})
        self._teachers()
        self._samples()
        rounds = self._rounds()
        self._scalars(len(rounds))
        if self.shape.rounds is None:
            self._end(rounds)

    def _draw(self, bound: int, count: int) -> Tensor:
        return torch.randint(bound, (count,), generator=self.rng)

    def _episodes(self) -> None:
        """Draw episodes with two queries per way, of classes that were not trained."""
        ways, size = self.shape.ways, 2 * self.shape.ways
        self.test_classes = [f"novel {number}" for number in range(ways + 2)]
        self.answers = [f"way {number + 1}" for number in range(ways)]
        place = torch.arange(self.shape.test)
        self.groups, self.labels = place // size, place % size // 2
        episodes = int(self.groups.max()) + 1
        order = torch.rand(episodes, ways + 2, generator=self.rng).argsort(1)
        self.kinds = order[self.groups, self.labels]

    def _level(self, number: int, count: int) -> Scopes:
        blocks = np.array_split(np.arange(len(self.shape.classes)), count)
        scopes = [None] if count == 1 else [block.tolist() for block in blocks]
        names = [f"level{number}_{place}" for place in range(count)]
        domains = len(self.shape.domains)
        return Scopes.of(scopes, len(self.shape.classes), None, domains, names)

    def _probs(self, labels: Tensor, right: float, support: Tensor) -> ProbTable:
        """Draw probabilities; the most probable class is the label with probability `right`."""
        size = len(support)
        chosen = torch.where(
            (torch.rand(len(labels), generator=self.rng) < right) & support[labels.clamp_min(0)],
            labels.clamp_min(0),
            support.nonzero()[:, 0][self._draw(int(support.sum()), len(labels))],
        )
        logits = torch.randn(len(labels), size, generator=self.rng)
        logits[torch.arange(len(labels)), chosen] += 3
        return ProbTable.compress(logits.masked_fill(~support, -torch.inf).softmax(1))

    def _teachers(self) -> None:
        shape, size = self.shape, len(self.shape.classes)
        sizes = {"student_train": shape.train, "test": 0 if shape.ways else shape.test}
        store = AnnotationStore(self.path / "annotations", "made", size, sizes, SHARD)
        for level, scopes in enumerate(self.levels):
            for name, support in zip(scopes.names, scopes.classes, strict=True):
                teacher = _Teacher(name, size)
                for split, labels in (("student_train", self.truth.labels), ("test", self.kinds)):
                    for shard in range(store.shards(split)):
                        right = 0.4 if len(scopes) == 1 else 0.8
                        table = self._probs(labels[store.rows(split, shard)], right, support)
                        abstains = torch.rand(len(table), generator=self.rng) < shape.abstains
                        table = ProbTable.compress(table.dense() * ~abstains[:, None])
                        store.write(split, teacher, shard, table)
                scope = None if bool(support.all()) else support.nonzero()[:, 0].tolist()
                about = {"name": name, "kind": "linear_pixels", "level": level, "steps": 10}
                about |= {"classes": scope, "domains": None, "identity": "made", "recipe": "made"}
                write_json(self.path / "teachers" / f"{name}.json", about)
                if shape.ways:
                    answers = self._probs(
                        self.labels, 0.6, torch.ones(shape.ways, dtype=torch.bool)
                    )
                    self._save(f"teacher-{name}", answers)
                else:
                    answers = store.level("test", [name]).table(name)
                self.answered[name] = answers
        self.store = store

    def _samples(self) -> None:
        shape, split = self.shape, self.split
        known = [shape.classes[i] if i >= 0 else None for i in self.known.labels.tolist()]
        ids = [f"t{i:06d}" for i in range(shape.train)] + [f"m{i:06d}" for i in range(shape.test)]
        names = pd.CategoricalDtype(list(dict.fromkeys([*shape.classes, *self.test_classes])))
        answers = pd.CategoricalDtype(list(dict.fromkeys([*shape.classes, *self.answers])))
        domains = [*shape.domains, *(["all"] if shape.ways else [])]
        places = [shape.domains[i] for i in self.truth.domains.tolist()]
        places += [split.domain_names[i] for i in self.domains.tolist()]
        table = pd.DataFrame(
            {
                "split": pd.Categorical(["student_train"] * shape.train + ["test"] * shape.test),
                "sample_id": ids,
                "true_label": [*known, *(self.test_classes[i] for i in self.kinds.tolist())],
                "domain": pd.Categorical(places, categories=list(dict.fromkeys(domains))),
                "group": [*range(shape.train), *self.groups.tolist()],
                "answer": [*known, *(self.answers[i] for i in self.labels.tolist())],
            }
        ).astype({"true_label": names, "answer": answers})
        table.to_parquet(self.path / "samples.parquet", index=False)
        self.ids = ids[: shape.train]
        teachers = [
            {"name": name, "level": level, "steps": 10, "accuracy": 0.5, "chosen_by": 0.5}
            for level, scopes in enumerate(self.levels)
            for name in scopes.names
        ]
        record = {
            "classes": list(shape.classes),
            "domains": list(shape.domains),
            "measured": "on the test split",
            "measured_classes": self.test_classes,
            "measured_domains": list(split.domain_names),
            "answers": self.answers,
            "teachers": teachers,
            "floor": {"teacher": teachers[0]["name"], "chosen_on": "student_train"},
            "samples": {"teacher_train": 50, "student_train": shape.train, "test": shape.test},
            "features": shape.train + shape.test,
        }
        self._finish("prepared", record)

    def _rounds(self) -> list[dict[str, Any]]:
        found, guide = [], None
        total = len(self.levels) if self.shape.rounds is None else self.shape.rounds
        for number, scopes in enumerate(self.levels[:total], start=1):
            outcome = self._outcome(number, scopes, guide)
            guide = outcome.train_probs
            table = decisions_table(
                outcome,
                scopes,
                self.ids,
                self.known,
                tuple(self.shape.classes),
                tuple(self.shape.domains),
                given=self.given,
            )
            file = self.path / "decisions" / f"round-{number}.parquet"
            file.parent.mkdir(exist_ok=True)
            table.to_parquet(file, index=False)
            folder = f"round-{number}"
            self._save(f"{folder}/train", outcome.train_probs)
            self._save(f"{folder}/test", outcome.test_probs)
            numbers = {
                "round": number,
                "level": number - 1,
                "teachers": list(scopes.names),
                "assigner": "gate",
                **round_measures(
                    outcome,
                    scopes,
                    self.known,
                    self.store.level("student_train", list(scopes.names)),
                ),
                **noise_measures(outcome.kept.keep, self.known, self.given),
                "student_accuracy": self.split.accuracy(outcome.test_probs),
                "seconds": 3.0,
            }
            self._finish(folder, numbers)
            found.append(numbers)
        return found

    def _outcome(self, number: int, scopes: Scopes, guide: ProbTable | None) -> Outcome:
        """Assign 90 % of the samples to covering teachers; reject wrong ones more often."""
        size, everything = self.shape.train, torch.ones(len(self.shape.classes), dtype=torch.bool)
        held = scopes.hold(self.truth).float().argmax(1)
        lost = torch.rand(size, generator=self.rng) < 0.1
        teacher = torch.where(lost, self._draw(len(scopes), size), held)
        weights = torch.nn.functional.one_hot(teacher, len(scopes)).float()
        targets = ProbTable.empty(size, len(everything))
        for place, name in enumerate(scopes.names):
            own = (teacher == place).nonzero()[:, 0]
            part = self.store.level("student_train", [name]).table(name).take(own)
            for whole, found in zip(
                targets.tensors().values(), part.tensors().values(), strict=False
            ):
                whole[own] = found
        label, confidence = targets.top()
        wrong = (label != self.truth.labels).float()
        reason = torch.full((size,), -1)
        for place in (1, 0):
            reason[torch.rand(size, generator=self.rng) < 0.02 + 0.4 * wrong] = place
        reason[confidence == 0] = 2
        ways = torch.ones(len(self.answers), dtype=torch.bool)
        return Outcome(
            number,
            number - 1,
            guide,
            Assignment(weights, targets),
            Kept(reason < 0, reason, FILTERS),
            self._probs(self.truth.labels, 0.5 + 0.1 * number, everything),
            self._probs(self.labels, 0.5 + 0.1 * number, ways),
            {},
            {},
        )

    def _scalars(self, rounds: int) -> None:
        lines = [
            {"tag": f"student/round_{number}/{name}", "value": 1 / step, "step": step, "time": 0.0}
            for number in range(1, rounds + 1)
            for step in (1, 50, 100)
            for name in ("loss", "adaptive_weight")
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.path / "metrics.jsonl").write_text(text)

    def _end(self, rounds: list[dict[str, Any]]) -> None:
        """Write the controls and the summary."""
        ways, controls = torch.ones(len(self.answers), dtype=torch.bool), {}
        for place, name in enumerate(self.shape.controls):
            controls[name] = self._probs(self.labels, min(0.5 + 0.1 * place, 1), ways)
            self._save(f"control-{name}", controls[name])
            self._finish(f"control-{name}", {"seconds": 1.0})
        floor = self.answered[self.levels[0].names[0]]
        last = self.path / "checkpoints" / f"round-{len(rounds)}" / "test.safetensors"
        student = ProbTable.from_tensors(len(self.answers), load_file(last))
        bootstrap = seed_for(0, "bootstrap")
        summary = {
            "run": "made",
            "status": "finished",
            "seed": 0,
            "measured": "on the test split",
            "floor": {"teacher": self.levels[0].names[0], "accuracy": self.split.accuracy(floor)},
            "student": student_numbers(
                self.split, student, floor, controls.get("ceiling"), bootstrap
            ),
            "rounds": rounds,
            "controls": control_numbers(self.split, controls, floor, bootstrap),
            "seconds": {"total": 20.0},
            "peak_rss_mb": 1000.0,
        }
        write_json(self.path / "summary.json", summary)
        self._finish("summary", summary)

    def _save(self, name: str, table: ProbTable) -> None:
        save_tensors(self.path / "checkpoints" / f"{name}.safetensors", table.tensors())

    def _finish(self, stage: str, payload: dict[str, Any]) -> None:
        write_json(self.path / "stages" / f"{stage}.json", payload)


__all__ = ["CONTROLS", "FILTERS", "Shape", "make_run"]
