"""Runs with a network student have the rounds, records and controls of a head student's run.

They resume with equal numbers when they are killed during a training.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cosup.analysis import load_run, tables
from cosup.cli import call
from cosup.config import load_config
from cosup.runs import backend, card_trainings, side_by_side
from cosup.runs.pipeline import run_one

HERE = Path(__file__).parent
CONFIG = """
run: {name: net}
data:
  source: digits
  rotations: [0, 90]
  limit: 240
  splits: {teacher_train: 0.3, student_train: 0.4, test: 0.3}
teachers:
  hierarchy: {by: domain, levels: [1, 2]}
  model: {name: cifar_resnet8, image_size: 16}
  training: &training {steps: 6, batch_size: 16, lr: 0.01, save_every: 4}
student:
  mode: finetune
  backbone: {name: cifar_resnet8, weights: null, image_size: 16}
  training:
    <<: *training
    optimizer: sgd
    ema: 0.5
    augment: {crop: padded, padding: 1}
    mixing: {mixup: 0.2}
rounds:
  assignment: {name: gate, prior: provenance}
  consistency: [{name: teacher_student, k: 3}, {name: local_global}]
  loss: {name: adaptive_confidence}
  min_kept: 0
controls: [team, labels, best_teacher, self_training, oracle_assignment, loss_oracle, ceiling]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(CONFIG)
    return tmp_path


def summary(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return found


def shape(node: Any) -> Any:
    """Return the keys of a summary, without names specific to the run."""
    named = ("per_domain", "per_class", "rejected", "controls")
    if isinstance(node, dict):
        return {k: None if k in named else shape(v) for k, v in node.items()}
    return None


def test_a_network_run_has_the_summary_of_a_head_run(here: Path) -> None:
    """Run several teachers, a gate on features, filters with part students and all controls."""
    assert call(["run", "net.yaml"]) == 0
    found = summary(here / "outputs/net")
    assert [len(item["teachers"]) for item in found["rounds"]] == [1, 2]
    assert set(found["controls"]) == {
        "team",
        "labels",
        "best_teacher",
        "self_training",
        "oracle_assignment",
        "loss_oracle",
        "ceiling",
    }
    assert found["controls_absent"] == {}
    table = pd.read_parquet(here / "outputs/net/decisions/round-2.parquet")
    assert set(table["assigned_teacher"]) <= {"domain_rot0", "domain_rot90"}
    assert not (here / "outputs/net/checkpoints/training").exists()
    head = ["student.mode=head", "student.training={steps: 5}", "run.name=head"]
    linear = ["teachers.model={name: linear_pixels}", "teachers.training={steps: 5}"]
    assert call(["run", "net.yaml", *head, *linear]) == 0
    assert shape(summary(here / "outputs/head")) == shape(found)


def test_every_loss_runs_with_several_teachers(here: Path) -> None:
    """One command runs the ablation, with feature losses and live annotations."""
    losses = "[distillation, dkd, {name: fitnet}, {name: rkd}, {name: reviewkd, ramp: 0}]"
    plain = ["student.training.mixing={}", "controls=[mean_ensemble, ceiling]"]
    plain += ["rounds.consistency=[]", "teachers.hierarchy={by: domain, levels: [2]}"]
    live = ["rounds.live_annotations=true", "rounds.true_label_weight=0.5", "data.limit=120"]
    arguments = [f"rounds.losses={losses}", "rounds.assignment=agreement", *plain, *live]
    assert call(["run", "net.yaml", *arguments]) == 0
    found = summary(here / "outputs/net")
    assert list(found["losses"]) == ["distillation", "dkd", "fitnet", "rkd", "reviewkd"]
    assert len(found["paired"]) == 10
    assert all(one["ceiling"]["accuracy"] is not None for one in found["losses"].values())
    for name in ("fitnet", "rkd", "reviewkd"):
        metrics = pd.read_json(here / f"outputs/net/{name}/metrics.jsonl", lines=True)
        values = metrics.loc[metrics["tag"] == "student/round_1/feature_loss", "value"]
        assert (values > 0).all()
        assert len(values) > 0


def test_label_noise_and_its_rejection_are_recorded(here: Path) -> None:
    """Teacher and student are trained on wrong labels; test and ceiling use true labels."""
    shared = ["data.share_train=true", "data.splits={student_train: 0.6, test: 0.4}"]
    noise = ["data.noise={kind: symmetric, rate: 0.4}", "rounds.true_label_weight=1"]
    controls = "controls=[given_labels, ceiling]"
    assert call(["run", "net.yaml", *shared, *noise, controls]) == 0
    table = pd.read_parquet(here / "outputs/net/decisions/round-2.parquet")
    noisy = (table["given_label"].astype(str) != table["true_label"].astype(str)).to_numpy()
    assert (noisy == table["noisy"]).all()
    assert 0.25 < noisy.mean() < 0.55
    last = summary(here / "outputs/net")["rounds"][-1]
    kept = table["kept"].to_numpy()
    assert last["noise"] == pytest.approx(noisy.mean())
    assert last["noise_rejected"] == pytest.approx((~kept)[noisy].mean())
    assert last["clean_rejected"] == pytest.approx((~kept)[~noisy].mean())


def test_few_shot_episodes_are_of_unseen_classes(here: Path) -> None:
    few = "data.few_shot={novel: 3, validation: 3, ways: 3, shots: 2, queries: 3, episodes: 40}"
    more = ["data.limit=600", "data.splits={teacher_train: 0.3, student_train: 0.3}"]
    meta = "student.meta={steps: 3, ways: 3, shots: 1, queries: 2}"
    rounds = ["teachers.hierarchy={by: class, levels: [1]}", "rounds.assignment=single"]
    rest = ["rounds.consistency=[]", "controls=[best_teacher, ceiling]", "data.rotations=[0]"]
    rest += ["teachers.training.steps=40"]
    assert call(["run", "net.yaml", few, *more, meta, *rounds, *rest]) == 0
    found = summary(here / "outputs/net")
    assert found["measured"] == "over 40 3-way 2-shot episodes of novel classes"
    assert found["floor"]["chosen_on"] == "novel_validation"
    assert set(found["student"]["per_class"]) == {"7", "8", "9"}
    low, high = found["student"]["accuracy_ci95"]
    assert low < found["student"]["accuracy"] < high
    table = pd.read_parquet(here / "outputs/net/decisions/round-1.parquet")
    assert set(table["true_label"].astype(str)) <= {"0", "1", "2", "3"}
    card = (here / "outputs/net/student/README.md").read_text()
    assert ".embed(" in card
    run = load_run(here / "outputs/net")  # the report needs the queries
    assert len(run.test) == 40 * 3 * 3
    assert set(run.test["true_label"]) == {"7", "8", "9"}
    made = tables(run)
    overview = made["overview"].set_index("who")["accuracy"]
    assert overview["student"] == found["student"]["accuracy"]
    assert overview["all"] == found["floor"]["accuracy"]
    assert set(run.thumbnails) >= set(made["examples"]["sample_id"])


def test_a_run_on_two_cards_has_the_numbers_of_a_run_on_one(
    here: Path, forks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teachers and controls train as many at once as there are cards, in processes of their own;
    without a GPU, on the CPU."""
    short = ["controls=[best_teacher, mean_ensemble, ceiling]", "execution.cache=cache"]
    short += ["rounds.consistency=[]", "rounds.assignment=agreement"]
    config = load_config("net.yaml", *short, "student.training.steps=2")
    expected = run_one(config, here / "in-turn")
    together: list[int] = []

    run = side_by_side.run_side_by_side

    def running(tasks: Mapping[str, Any], *given: Any, **others: Any) -> None:
        together.append(len(tasks))
        run(tasks, *given, **others)

    monkeypatch.setattr(side_by_side, "PYTHON", tuple(forks))
    monkeypatch.setattr(backend, "usable_cards", lambda _: ["0", "1"])
    monkeypatch.setattr(card_trainings, "run_side_by_side", running)
    found = run_one(config, here / "together")
    assert together == [3, 2]  # teachers, controls; the student of a round is alone
    left_out = {"seconds", "peak_rss_mb"}
    assert {k: v for k, v in found.items() if k not in left_out} == {
        k: v for k, v in expected.items() if k not in left_out
    }


@pytest.mark.slow
def test_a_run_killed_in_its_trainings_has_the_numbers_of_an_uninterrupted_run(
    here: Path, forks: list[str]
) -> None:
    short = ["rounds.consistency=[{name: teacher_student}]", "controls=[ceiling]"]
    short += ["teachers.hierarchy={by: domain, levels: [2]}", "rounds.assignment=agreement"]
    cache = "execution.cache=cache"
    assert call(["run", "net.yaml", "--output", "whole", *short, cache]) == 0
    done = subprocess.run(
        [*forks, str(HERE / "killer.py"), "states", "net.yaml", "cut", *short, cache],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills = done.stdout.splitlines()
    assert len(kills) >= 4, done.stdout  # two teachers, a round and the ceiling
    assert all(kill.endswith(".state 4") for kill in kills)
    whole, cut = summary(here / "whole"), summary(here / "cut")
    for item in (whole, cut):
        del item["seconds"], item["peak_rss_mb"]
    assert cut == whole
