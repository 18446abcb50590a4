"""Event files, read with TensorBoard, have pictures, settings and results after interruptions."""

import json
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing import data_provider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups, metadata

from cosup.report.routes import MOST, routes, routes_picture
from cosup.runs.recorder import open_recorder

CONFIG = """\
run: {name: one, seed: 0, output: outputs}
rounds:
  loss: {name: LOSS, temperature: 0.5}
  repeat: 1
  consistency: [{name: local_global, k: 3}]
  constant: null
controls: [best_teacher, ceiling]
execution: {device: cpu}
"""
SUMMARY: dict[str, Any] = {
    "floor": {"accuracy": 0.5},
    "ceiling": {"accuracy": 0.9},
    "student": {"accuracy": 0.75, "pgr": 0.625},
    "rounds": [{}, {}],
}


def decisions(samples: int = 40, domains: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(samples)

    def column(names: list[str]) -> pd.Categorical:
        return pd.Categorical.from_codes(rng.integers(len(names), size=samples), names)

    return pd.DataFrame(
        {
            "assigned_teacher": column(["a", "b", "c"]),
            "assignment_weight": np.ones(samples, np.float32),
            "domain": column([f"domain {number}" for number in range(domains)]),
            "true_label": column(["cat", "dog"]),
            "annotation": column(["cat", "dog"]),
        }
    )


def begin(folder: Path, loss: str = "cross_entropy") -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.replace("LOSS", loss))


def keep_round(folder: Path, number: int, finished: bool = True) -> None:
    for name in ("decisions", "stages"):
        (folder / name).mkdir(exist_ok=True)
    decisions().to_parquet(folder / "decisions" / f"round-{number}.parquet")
    if finished:
        (folder / "stages" / f"round-{number}.json").write_text("{}")


def whole(folder: Path, loss: str = "cross_entropy") -> Path:
    begin(folder, loss)
    with open_recorder(folder) as recorder:
        for number in (1, 2):
            recorder.scalar("rounds/kept", 0.5, number)
            keep_round(folder, number)
            recorder.assignment(decisions(), number)
        recorder.scalar("control/ceiling/accuracy", 0.9, 0)
        (folder / "summary.json").write_text(json.dumps(SUMMARY))
    return folder


def cut_in_round_2(folder: Path) -> None:
    with open_recorder(folder) as recorder:
        keep_round(folder, 1)
        recorder.assignment(decisions(), 1)
        keep_round(folder, 2, finished=False)
        recorder.assignment(decisions(), 2)
        raise KeyboardInterrupt


def tags(folder: Path) -> list[tuple[str, int]]:
    """Return the (tag, step) of every entry in the event files, in order, with repetitions."""
    return [
        (value.tag, event.step)
        for path in folder.glob("events.*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]


def status(folder: Path) -> int | None:
    found = EventAccumulator(str(folder)).Reload().summary_metadata
    if metadata.SESSION_END_INFO_TAG not in found:
        return None
    content = found[metadata.SESSION_END_INFO_TAG].plugin_data.content
    return int(metadata.parse_session_end_info_plugin_data(content).status)


def test_the_assignment_of_a_round_is_a_picture(tmp_path: Path) -> None:
    events = EventAccumulator(str(whole(tmp_path / "run"))).Reload()
    pictures = events.Images("assignment")
    assert [picture.step for picture in pictures] == [1, 2]
    png = pictures[0].encoded_image_string
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (pictures[0].width, pictures[0].height)


EXPECTED = sorted(
    [
        (metadata.SESSION_START_INFO_TAG, 0),
        (metadata.SESSION_END_INFO_TAG, 0),
        ("control/ceiling/accuracy", 0),
        *((tag, number) for number in (1, 2) for tag in ("assignment", "rounds/kept")),
        *((f"at_end/{name}", 2) for name in ("student", "pgr", "floor", "ceiling")),
    ]
)


def test_entries_are_recorded_once_after_reopening(tmp_path: Path) -> None:
    run = whole(tmp_path / "run")
    assert sorted(tags(run)) == EXPECTED
    for _ in range(2):
        with open_recorder(run):
            pass
        assert sorted(tags(run)) == EXPECTED
    assert len(list(run.glob("events.*"))) == 1
    assert status(run) == api_pb2.STATUS_SUCCESS


def test_a_repeated_round_is_recorded_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run)
    with pytest.raises(KeyboardInterrupt):
        cut_in_round_2(run)
    assert status(run) == api_pb2.STATUS_FAILURE
    with open_recorder(run) as recorder:
        recorder.assignment(decisions(), 2)
    assert [tag for tag in tags(run) if tag[0] == "assignment"] == [
        ("assignment", 1),
        ("assignment", 2),
    ]
    assert status(run) is None


def test_damaged_decisions_do_not_stop_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = whole(tmp_path / "run")
    (run / "decisions" / "round-1.parquet").write_bytes(b"PAR1 no more")
    with caplog.at_level(logging.WARNING), open_recorder(run):
        pass
    assert "round-1.parquet" in caplog.text
    assert [step for tag, step in tags(run) if tag == "assignment"] == [2]


def test_runs_of_a_folder_are_named_by_differing_settings(
    tmp_path: Path,
) -> None:
    whole(tmp_path / "group" / "first")
    whole(tmp_path / "group" / "second", loss="adaptive_confidence")
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path))
    context = backend_context.Context(TBContext(data_provider=provider))
    request = RequestContext()
    found = context.experiment_from_metadata(
        request,
        "",
        True,
        context.hparams_metadata(request, ""),
        context.hparams_from_data_provider(request, "", None),
    )
    assert {info.name for info in found.hparam_infos if info.differs} == {"rounds.loss.name"}
    names = [info.name.tag for info in found.metric_infos]
    assert names[:5] == [
        *(f"at_end/{n}" for n in ("ceiling", "floor", "pgr", "student")),
        "control/ceiling/accuracy",
    ]
    asked = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS], slice_size=9
    )
    groups = list_session_groups.Handler(request, context, "", asked).run().session_groups
    assert [group.name for group in groups] == ["group/first", "group/second"]
    settings = {key: _plain(value) for key, value in groups[1].hparams.items()}
    assert settings == {
        "run.seed": 0,
        "rounds.loss.name": "adaptive_confidence",
        "rounds.loss.temperature": 0.5,
        "rounds.repeat": 1,
        "rounds.consistency.0.name": "local_global",
        "rounds.consistency.0.k": 3,
        "controls": "best_teacher, ceiling",
    }
    values = {value.name.tag: value.value for value in groups[0].metric_values}
    assert values["at_end/student"] == 0.75
    assert values["at_end/pgr"] == 0.625
    assert values["control/ceiling/accuracy"] == pytest.approx(0.9)


def _plain(value: Any) -> Any:
    return getattr(value, value.WhichOneof("kind"))


def test_shares_of_the_picture_equal_a_crosstab() -> None:
    table = decisions(200, domains=3)
    by, share = routes(table)
    assert by == "domain"
    oracle = pd.crosstab(table["assigned_teacher"], table["domain"], normalize="columns")
    np.testing.assert_allclose(share, oracle)
    assert routes(decisions(200, domains=1))[0] == "true_label"


def test_without_true_labels_the_picture_uses_annotations() -> None:
    table = decisions(50, domains=1)
    table["true_label"] = pd.Categorical([None] * 50, categories=["cat", "dog"])
    assert routes(table)[0] == "annotation"
    table["annotation"] = table["true_label"]  # all samples are abstentions
    assert routes_picture(table, "round 1").png.startswith(b"\x89PNG")


def test_a_picture_of_many_names_in_any_script_is_bounded(recwarn: Any) -> None:
    table = decisions(2000, domains=1)
    names = [rf"$\frac{{<b>漢字 {number}" for number in range(1500)]
    codes = np.arange(2000) % 1500
    table["true_label"] = pd.Categorical.from_codes(codes, names)
    table["assigned_teacher"] = pd.Categorical.from_codes(codes % 300, names[:300])
    picture = routes_picture(table, "round 1")
    assert picture.width < 100 * MOST
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
