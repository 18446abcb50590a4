"""Losses over shards, killed anywhere and resumed, end with the files of a run that was not."""

from pathlib import Path

import pytest
from helpers.guided_shards import LOSSES, guided_config, numbers_of, shards_of, write_guided
from helpers.killed_shards import Killed, kill_after
from helpers.tiny_clip import one_vocabulary

from cosup.runs import run_config


def test_a_run_killed_in_its_guide_and_in_its_losses_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the untrained student predicts, while the second loss takes files of shards over
    from the first, and while it decides."""
    write_guided(tmp_path)
    config, cut = guided_config(tmp_path), tmp_path / "cut"
    with one_vocabulary():
        expected = run_config(config, tmp_path / "whole")
        for place, (loss, kind) in enumerate(
            [
                (LOSSES[0], "predictions/untrained"),
                (LOSSES[1], "features"),
                (LOSSES[1], "decisions"),
            ]
        ):
            folder = cut / loss / "shards" / kind
            with monkeypatch.context() as patch:
                kill_after(patch, 1, folder.exists)
                with pytest.raises(Killed):
                    run_config(config, cut, resume=place > 0)
            assert 0 < len(list(folder.rglob("*.parquet"))) < 3
        found = run_config(config, cut, resume=True)
    assert numbers_of(found) == numbers_of(expected)
    assert shards_of(cut) == shards_of(tmp_path / "whole")
    students = [one["student"]["accuracy"] for one in expected["losses"].values()]
    assert len({*students}) == len(LOSSES)
