"""`CoSupervision` gives the numbers of a run: the same rounds, labels and reliabilities."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cosup import CoSupervision
from cosup.cli import call
from cosup.config import load_config
from cosup.runs.backend import Local
from cosup.runs.context import RunContext
from cosup.runs.directory import RunDirectory
from cosup.runs.prepare import prepare
from cosup.runs.recorder import open_recorder

RECIPES = {
    "fused": [],
    "mean": ["rounds.assignment=mean"],
    "filtered": [
        "rounds.assignment={name: dawid_skene, hard: false}",
        "rounds.consistency=[{name: teacher_student, k: 2}, {name: confidence, threshold: 0.6}]",
        "rounds.loss={name: adaptive_confidence, temperature: 0.3}",
        "rounds.targets=hard",
        "rounds.repeat=2",
        "run.seed=5",
    ],
}
MODELS = {
    "fused": CoSupervision(),
    "mean": CoSupervision("mean"),
    "filtered": CoSupervision(
        {"name": "dawid_skene", "hard": False},
        [{"name": "teacher_student", "k": 2}, {"name": "confidence", "threshold": 0.6}],
        {"name": "adaptive_confidence", "temperature": 0.3},
        targets="hard",
        rounds=2,
        random_state=5,
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_and_arrays_give_the_same_numbers(recipe: str, world: Path) -> None:
    path = world.parent / recipe if RECIPES[recipe] else world
    if RECIPES[recipe]:
        assert call(["run", "config.yaml", "--output", str(path), *RECIPES[recipe]]) == 0
    config = load_config(path / "config.yaml")
    with RunDirectory.open(path, config, resume=True) as run, open_recorder(run.path) as recorder:
        context = RunContext(config, run, recorder, Local())
        prepared = prepare(context)
        task, files, summary = prepared.task, context.files, run.load("summary")
        number = len(summary["rounds"])
        level = task.levels[-1]
        annotations = torch.cat([probs for _, probs in level.annotations.iter_dense()])
        labels, decisions = files.labels.read(), files.round(number).decisions.read()
        test = files.round(number).test.read(prepared.test.split.answers).dense()
    model = MODELS[recipe].set_params(
        steps=40, lr=0.01, classes=list(prepared.data.classes), device="cpu"
    )
    model.fit(task.inputs, annotations, level.scopes, groups=prepared.samples.groups)

    last = model.decisions_[model.decisions_["round"] == number].reset_index(drop=True)
    for column in ("assigned_teacher", "annotation", "student_label", "rejected_by"):
        assert last[column].astype("object").equals(decisions[column].astype("object")), column
    for column in set(last) - {"sample_id", "true_label", "domain"}:
        if pd.api.types.is_numeric_dtype(last[column]):
            np.testing.assert_array_equal(last[column], decisions[column], err_msg=column)
    assert last["kept"].all() == (recipe != "filtered")
    assert (model.labels_ == labels["label"].astype(str)).all()
    found = model.probabilities_.max(1)
    np.testing.assert_allclose(found, labels["probability"], rtol=1e-6)
    for name, row in model.reliability_.iterrows():
        wanted = summary["sources"][name]
        assert row["reliability"] == pytest.approx(wanted["reliability"], rel=1e-9)
        assert [row["low"], row["high"]] == pytest.approx(wanted["reliability_ci95"], rel=1e-9)
        assert row["coverage"] == pytest.approx(wanted["coverage"])
    features = prepared.test.inputs
    np.testing.assert_allclose(model.predict_proba(features), test, atol=1e-3)
