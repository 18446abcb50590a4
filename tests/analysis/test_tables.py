"""Every table equals numbers recomputed from the files with loops, scikit-learn and SciPy."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import plain
import pytest
from helpers.synthetic_run import CONTROLS, FILTERS
from scipy.stats import binomtest, entropy
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from cosup.analysis import load_run, tables
from cosup.analysis.records import Run
from cosup.metrics import expected_calibration_error, paired_comparison
from cosup.seeds import seed_for

Tables = dict[str, pd.DataFrame]
SEED = seed_for(0, "bootstrap")


@pytest.fixture(scope="module")
def run(path: Path) -> Run:
    return load_run(path)


@pytest.fixture(scope="module")
def found(run: Run) -> Tables:
    return tables(run)


@pytest.fixture(scope="module")
def last(path: Path) -> int:
    return len(list((path / "decisions").glob("*.parquet")))


def rows(table: pd.DataFrame, *keys: str) -> dict[object, dict[str, object]]:
    """Return the rows indexed by the values of `keys`."""
    return {tuple(str(row[key]) for key in keys): row for row in table.to_dict("records")}


def same(first: object, second: object) -> None:
    assert first == pytest.approx(second, abs=1e-6, nan_ok=True)


def test_overview(run: Run, found: Tables, path: Path, last: int) -> None:
    table = rows(found["overview"], "kind", "who")
    truth = plain.samples(path, "test")["answer"].tolist()
    said = {("student", "student"): plain.student(path, last)[0]}
    said |= {("control", name): plain.control(path, name)[0] for name in CONTROLS}
    teachers = [entry["name"] for entry in plain.read(path, "stages/prepared")["teachers"]]
    said |= {("teacher", name): plain.annotations(path, "test", name) for name in teachers}
    assert set(table) == set(said)
    right = {who: np.array(labels) == np.array(truth) for who, labels in said.items()}
    answers = {who: np.array(labels) != "" for who, labels in said.items()}
    student, both = right["student", "student"], answers["teacher", teachers[0]]
    floor = right["teacher", teachers[0]][both].mean()
    ceiling = right["control", "ceiling"][both].mean()
    groups = plain.samples(path, "test")["group"].to_numpy()
    assert min(there.mean() for there in answers.values()) < 1, "some teacher abstains"
    for who, row in table.items():
        there = answers[who]
        same(row["coverage"], there.mean())
        same(row["accuracy"], right[who][there].mean())
        own, theirs = student[there], right[who][there]
        one, other = int((own & ~theirs).sum()), int((~own & theirs).sum())
        p_value = binomtest(one, one + other).pvalue if one + other else 1.0
        same(row["p_value"], p_value)
        same(row["gain"], own.mean() - theirs.mean())
        if there.all():
            gain = paired_comparison(own, theirs, groups, seed=SEED)
            same([row["gain_low"], row["gain_high"]], [gain.low, gain.high])
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        pgr = (right[who][both].mean() - floor) / (ceiling - floor) if ceiling > floor else np.nan
        same(row["pgr"], pgr if there[both].all() else np.nan)


def test_the_overview_equals_the_summary(run: Run, found: Tables) -> None:
    table = rows(found["overview"], "kind", "who")
    student = table["student", "student"]
    same([student["low"], student["high"]], run.summary["student"]["accuracy_ci95"])
    same(student["accuracy"], run.summary["student"]["accuracy"])
    for name, numbers in run.summary["controls"].items():
        row = table["control", name]
        same([row["low"], row["high"]], numbers["accuracy_ci95"])
        same(row["pgr"], np.nan if numbers["pgr"] is None else numbers["pgr"])


def test_teachers_inside_and_outside_their_scopes(run: Run, found: Tables, path: Path) -> None:
    shown = rows(found["teachers"], "teacher")
    test = plain.samples(path, "test")
    classes = plain.read(path, "stages/prepared")["classes"]
    for (name,), row in shown.items():
        about = plain.read(path, f"teachers/{name}")
        scope = {classes[i] for i in about["classes"] or range(len(classes))}
        said = plain.annotations(path, "test", name)
        inside, outside = [], []
        for label, truth in zip(said, test["true_label"], strict=True):
            if label:
                (inside if truth in scope else outside).append(label == truth)
        same(row["accuracy"], plain.share(inside + outside))
        same(row["accuracy_inside"], plain.share(inside))
        same(row["accuracy_outside"], plain.share(outside))
        assert (row["samples_inside"], row["samples_outside"]) == (len(inside), len(outside))
        same(row["coverage"], plain.share([label != "" for label in said]))
        assert row["low"] <= row["accuracy"] <= row["high"]


def test_rounds(run: Run, found: Tables, path: Path, last: int) -> None:
    table = found["rounds"].to_dict("records")
    assert [row["round"] for row in table] == list(range(1, last + 1))
    classes, before = plain.read(path, "stages/prepared")["classes"], None
    for row in table:
        decided = plain.decisions(path, row["round"])
        right = [item["annotation"] == item["true_label"] for item in decided]
        kept = [bool(item["kept"]) for item in decided]
        same(row["annotation_accuracy"], plain.share(right))
        same(row["kept"], plain.share(kept))
        same(row["kept_precision"], precision_score(right, kept))
        same(row["kept_recall"], recall_score(right, kept))
        sent = [str(item["assigned_teacher"]) for item in decided]
        inside, specialists = 0, 0
        for name, item in zip(sent, decided, strict=True):
            scope = plain.read(path, f"teachers/{name}")["classes"]
            if scope is not None:
                specialists += 1
                inside += item["true_label"] in {classes[i] for i in scope}
        same(row["assignment_accuracy"], inside / specialists if specialists else np.nan)
        names = plain.read(path, f"stages/round-{row['round']}")["teachers"]
        said = [plain.annotations(path, "student_train", name) for name in names]
        truths = plain.samples(path, "student_train")["true_label"]
        best = np.mean([truth in labels for truth, *labels in zip(truths, *said, strict=True)])
        # Of two classes that float16 makes equally probable, either may be read as the top one.
        assert row["best_choice"] == pytest.approx(best, abs=1.5 / len(truths))
        bits = float(entropy(list(Counter(sent).values()), base=2))
        same([row["entropy"], row["effective_teachers"]], [bits, 2**bits])
        changed = np.nan if before is None else np.mean(np.array(sent) != np.array(before))
        same(row["changed"], changed)
        truth = plain.samples(path, "test")["answer"]
        same(row["student_accuracy"], np.mean(plain.student(path, row["round"])[0] == truth))
        assert not row["soft"]
        before = sent


def test_load_and_flow(run: Run, found: Tables, path: Path, last: int) -> None:
    load, flow = rows(found["load"], "round", "teacher"), Counter()
    for number in range(1, last + 1):
        table = plain.decisions(path, number)
        for name in plain.read(path, f"stages/round-{number}")["teachers"]:
            own = [item for item in table if item["assigned_teacher"] == name]
            row = load[str(number), name]
            right = [item["annotation"] == item["true_label"] for item in own]
            kept = [bool(item["kept"]) for item in own]
            assert row["samples"] == len(own)
            same(row["share"], len(own) / len(table))
            same(row["kept"], plain.share(kept))
            same(row["annotation_accuracy"], plain.share(right))
            same(
                row["kept_accuracy"],
                plain.share([r for r, k in zip(right, kept, strict=True) if k]),
            )
        if number > 1:
            pairs = zip(plain.decisions(path, number - 1), table, strict=True)
            flow.update((str(number - 1), *(str(i["assigned_teacher"]) for i in p)) for p in pairs)
    assert sum(row["share"] for row in load.values()) == pytest.approx(last)
    shown = rows(found["flow"], "round", "teacher", "next_teacher")
    assert {key: row["samples"] for key, row in shown.items()} == flow


def test_assignment(run: Run, found: Tables, path: Path, last: int) -> None:
    shown = rows(found["assignment"], "round", "teacher", "by", "name")
    counts: Counter[tuple[str, ...]] = Counter()
    totals: Counter[tuple[str, ...]] = Counter()
    right: Counter[tuple[str, ...]] = Counter()
    kept: Counter[tuple[str, ...]] = Counter()
    several = len(plain.read(path, "stages/prepared")["domains"]) > 1
    for number in range(1, last + 1):
        for item in plain.decisions(path, number):
            for by, column in (("domain", "domain"), ("class", "true_label")):
                if by == "domain" and not several:
                    continue
                name = str(item[column])
                key = (str(number), str(item["assigned_teacher"]), by, name)
                counts[key] += 1
                totals[str(number), by, name] += 1
                right[key] += item["annotation"] == item["true_label"]
                kept[key] += bool(item["kept"])
    assert set(shown) == set(counts)
    for key, row in shown.items():
        assert row["samples"] == counts[key]
        same(row["share"], counts[key] / totals[key[0], key[2], key[3]])
        same(row["annotation_accuracy"], right[key] / counts[key])
        same(row["kept"], kept[key] / counts[key])


def test_annotation_accuracy(run: Run, found: Tables, path: Path) -> None:
    shown = rows(found["annotation_accuracy"], "teacher", "class")
    truth = plain.samples(path, "student_train")["true_label"].tolist()
    for entry in plain.read(path, "stages/prepared")["teachers"]:
        name, table = entry["name"], plain.decisions(path, entry["level"] + 1)
        said = plain.annotations(path, "student_train", name)
        for label in set(truth):
            row = shown[name, label]
            all_of = [one for one, true in zip(said, truth, strict=True) if true == label]
            own = [one == label for one in all_of if one]
            assert row["samples"] == len(own)
            same(row["coverage"], len(own) / len(all_of))
            same(row["accuracy"], plain.share(own))
            used = [i for i in table if (i["assigned_teacher"], i["true_label"]) == (name, label)]
            assert row["assigned_samples"] == len(used)
            same(row["assigned_accuracy"], plain.share([i["annotation"] == label for i in used]))


def test_filters(run: Run, found: Tables, path: Path, last: int) -> None:
    shown = rows(found["filters"], "round", "filter")
    assert len(shown) == last * (len(FILTERS) + 1)
    for (number, name), row in shown.items():
        table = plain.decisions(path, int(number))
        wrong = [item["annotation"] != item["true_label"] for item in table]
        rejected = [not i["kept"] if name == "all" else i["rejected_by"] == name for i in table]
        assert row["rejected"] == sum(rejected)
        same(row["share"], plain.share(rejected))
        expected = precision_score(wrong, rejected, zero_division=np.nan)
        same(row["precision"], expected)
        same(row["recall"], recall_score(wrong, rejected))
        noise = [r for r, i in zip(rejected, table, strict=True) if i.get("noisy")]
        same(row["noise_caught"], plain.share(noise))


def test_student_beside_teachers(run: Run, found: Tables, path: Path, last: int) -> None:
    shown = rows(found["student_teachers"], "teacher", "where")
    test = plain.samples(path, "test")
    prepared = plain.read(path, "stages/prepared")
    own = plain.student(path, last)[0]
    for entry in prepared["teachers"]:
        scope = plain.read(path, f"teachers/{entry['name']}")["classes"]
        held = {prepared["classes"][i] for i in scope or range(len(prepared["classes"]))}
        said = plain.annotations(path, "test", entry["name"])
        for where in ("all", "inside", "outside"):
            kinds: Counter[str] = Counter()
            for mine, theirs, truth in zip(own, said, test["true_label"], strict=True):
                if not theirs:
                    continue
                if where == "all" or (truth in held) == (where == "inside"):
                    pair = (mine == truth, theirs == truth)
                    error = "same_error" if mine == theirs else "other_error"
                    names = {(1, 1): "both_right", (1, 0): "student_only", (0, 1): "teacher_only"}
                    kinds[names.get(pair, error)] += 1
            size = kinds.total()
            if not size:
                assert (entry["name"], where) not in shown
                continue
            row = shown[entry["name"], where]
            assert row["samples"] == size
            for kind in ("both_right", "student_only", "teacher_only", "same_error", "other_error"):
                same(row[kind], kinds[kind] / size)
            same(row["agreement"], (kinds["both_right"] + kinds["same_error"]) / size)


@pytest.mark.parametrize(("name", "column"), [("classes", "true_label"), ("domains", "domain")])
def test_by_class_and_domain(
    run: Run, found: Tables, path: Path, last: int, name: str, column: str
) -> None:
    if name == "domains" and len(run.domains) == 1:
        assert run.absent["domains"] == "the data has one domain alone"
        return
    test = plain.samples(path, "test")
    floor = plain.read(path, "stages/prepared")["floor"]["teacher"]
    said = {
        "student": plain.student(path, last)[0],
        "first_round": plain.student(path, 1)[0],
        "floor": plain.annotations(path, "test", floor),
        "ceiling": plain.control(path, "ceiling")[0],
    }
    shown = rows(found[name], "name")
    decided = plain.decisions(path, last)
    for (label,), row in shown.items():
        where = [place for place, one in enumerate(test[column]) if one == label]
        assert row["samples"] == len(where)
        answered = [place for place in where if said["floor"][place]]
        for who, labels in said.items():
            there = answered if who == "floor" else where
            right = [labels[place] == test["true_label"][place] for place in there]
            same(row[who], plain.share(right))
        own = [said["student"][place] == test["true_label"][place] for place in answered]
        same(row["gained"], plain.share(own) - row["floor"])
        same(row["to_ceiling"], row["ceiling"] - row["student"])
        own = [item for item in decided if item[column] == label]
        right = [item["annotation"] == item["true_label"] for item in own]
        same(row["assigned_accuracy"], plain.share(right))
        same(row["kept"], plain.share([bool(item["kept"]) for item in own]))


def test_confusion(run: Run, found: Tables, path: Path, last: int) -> None:
    names = plain.read(path, "stages/prepared")["classes"]
    truth, said = plain.samples(path, "test")["true_label"].tolist(), plain.student(path, last)[0]
    matrix = confusion_matrix(truth, said, labels=names)
    table = found["confusion"]
    counted = np.zeros_like(matrix)
    counted[table["true"].cat.codes, table["predicted"].cat.codes] = table["samples"]
    assert table["true"].cat.categories.tolist() == names
    np.testing.assert_array_equal(counted, matrix)
    assert (table["samples"] > 0).all()


def test_calibration(run: Run, found: Tables, path: Path, last: int) -> None:
    table = found["calibration"]
    labels, confidence = plain.student(path, last)
    right = np.array(labels) == plain.samples(path, "test")["answer"].to_numpy()
    own = table[table["who"] == "student"]
    for row in own.to_dict("records"):
        inside = (confidence > row["low"]) & (confidence <= row["high"])
        assert row["samples"] == inside.sum()
        same(row["confidence"], confidence[inside].mean())
        same(row["accuracy"], right[inside].mean())
    assert own["samples"].sum() == len(right)
    error = ((own["confidence"] - own["accuracy"]).abs() * own["samples"]).sum() / len(right)
    probs, truth = run.probs("student", "student").dense(), run.truth
    same(error, expected_calibration_error(probs, truth))
    same(error, run.summary["student"]["calibration_error"])
    expected = {"student", *(f"round {n}" for n in range(1, last + 1))}
    assert set(table["who"]) == expected | {f"control {name}" for name in CONTROLS}


def test_weights_and_cost(run: Run, found: Tables, path: Path, last: int) -> None:
    weights = rows(found["weights"], "round", "name", "step")
    lines = pd.read_json(path / "metrics.jsonl", lines=True)
    assert len(weights) == lines["tag"].str.startswith("student/round_").sum()
    same(weights[str(last), "adaptive_weight", "50"]["value"], 1 / 50)
    cost = rows(found["cost"], "stage")
    stages = {file.stem.replace("-", " ", 1): file for file in (path / "stages").glob("*.json")}
    stages = {name: f for name, f in stages.items() if "seconds" in f.read_text()}
    del stages["summary"]
    assert {name for (name,) in cost} == set(stages)
    total = sum(float(row["seconds"]) for row in cost.values())
    manifest = plain.read(path, "annotations/manifest")
    annotated = sum(entry["samples"] for split in manifest.values() for entry in split.values())
    for (name,), row in cost.items():
        seconds = plain.read(path, f"stages/{stages[name].stem}")["seconds"]
        same([row["seconds"], row["share"]], [seconds, seconds / total])
        same(row["images_per_second"], row["images"] / seconds)
    assert cost["annotate",]["images"] == annotated
    assert cost["round 1",]["images"] == len(plain.samples(path, "student_train"))
