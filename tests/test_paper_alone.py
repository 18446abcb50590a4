"""The algorithm runs on torch and NumPy alone."""

import subprocess
import sys
import textwrap

SCRIPT = textwrap.dedent(
    """
    import sys

    ABSENT = {"PIL", "pandas", "pydantic", "ray", "rich", "safetensors", "scipy", "sklearn"}
    ABSENT |= {"timm", "torchvision", "yaml"}
    for name in ABSENT:
        sys.modules[name] = None  # importing it raises ModuleNotFoundError

    import torch
    from torch.nn.functional import one_hot

    import cosup
    from cosup import assignment, consistency, evidence, levels, losses, metrics, protocols
    from cosup import probabilities, rounds
    from cosup.decisions import decide
    from cosup.recipe import Recipe

    class Nearest(protocols.Student):
        # Predicts the class of the nearest mean.

        def __init__(self, objective, seed):
            self.means = None

        def update(self, inputs, targets, weights, guidance=None):
            labels = one_hot(targets.top()[0], targets.num_classes).float() * weights[:, None]
            self.means = labels.T @ inputs / labels.sum(0).clamp_min(1)[:, None]

        def predict(self, inputs):
            return probabilities.ProbTable.compress((-torch.cdist(inputs, self.means)).softmax(1))

        predict_own = predict

        def fit_parts(self, inputs, targets, members):
            students = []
            for rows in members:
                student = Nearest(None, 0)
                student.update(inputs[rows], targets.take(rows), torch.ones(len(rows)))
                students.append(student)
            return Parts(students)

        def state_dict(self):
            return {"means": self.means}

        def load_state_dict(self, state):
            self.means = state["means"]

    class Parts(protocols.PartPredictor):
        def __init__(self, students):
            self.students = students

        def predict(self, part, inputs):
            return self.students[part].predict(inputs)

    torch.manual_seed(0)
    labels = torch.arange(120) % 4
    inputs = one_hot(labels, 4) + 0.2 * torch.randn(120, 4)
    scopes = evidence.Scopes.of([[0, 1], [2, 3]], 4)
    mass = scopes.classes.float() * (one_hot(labels, 4)[:, None] + 0.1)
    annotations = mass / mass.sum(2, keepdim=True)
    truth = evidence.Truth(labels, torch.zeros_like(labels))
    level = levels.Level(0, scopes, levels.ArrayAnnotations(annotations))
    task = levels.Task((level,), inputs, inputs, truth, 4, inputs)
    filters = {
        "teacher_student": consistency.TeacherStudent(),
        "local_global": consistency.LocalGlobal(),
    }
    recipe = Recipe(
        assigner=assignment.DawidSkene(),
        objective=losses.Objective(losses.CrossEntropy()),
        new_student=Nearest,
        filters=consistency.Chain(list(filters), list(filters.values())),
        repeat=2,
    )
    first, last = rounds.run_rounds(task, recipe, seed=0)
    assert last.number == 2
    assert last.kept.count > 60
    assert metrics.accuracy(last.test_probs.top()[0], labels) > 0.8

    guide = last.train_probs.dense()
    made = cosup.decide(guide, annotations, scopes, assigner=assignment.Block())
    assert made.keep.all()
    again = decide(guide.numpy(), annotations.numpy(), scopes, assigner=assignment.Block())
    assert torch.equal(made.targets, again.targets)
    """
)


def test_a_round_runs_where_only_torch_and_numpy_can_be_imported() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
