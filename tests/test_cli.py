"""The command line: exit statuses, one line per mistake, and what it calls."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cosup
from cosup.cli import call
from cosup.errors import RunError, UserError, UserErrors

GOOD = """\
data: {source: digits}
student: {backbone: {name: resnet18, weights: null}}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)
    return path


def run_with(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> list[tuple[Any, ...]]:
    """Let `cosup run` call this instead of running; the calls it gets."""
    calls: list[tuple[Any, ...]] = []

    def fake(*arguments: Any) -> None:
        calls.append(arguments)
        if isinstance(outcome, BaseException):
            raise outcome

    monkeypatch.setattr("cosup.runs.run_config", fake)
    monkeypatch.setattr("cosup.runs.describe_run", lambda summary, directory: "the table")
    return calls


def test_validate(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["validate", str(config)]) == 0
    assert capsys.readouterr().out == f"{config}: valid\n"
    assert call(["validate", str(config), "rounds.repeat=0", "run.sed=1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2
    assert all(line.startswith("error: ") for line in captured.err.splitlines())


def test_run_is_given_config_directory_and_flags(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = run_with(monkeypatch, None)
    assert call(["run", str(config), "run.name=x", "run.seed=4", "--resume"]) == 0
    assert call(["run", "--overwrite", "--output", "there", str(config)]) == 0
    (first, second) = calls
    assert (first[0].run.seed, *first[1:]) == (4, Path("outputs/x"), True, False)
    assert second[1:] == (Path("there"), False, True)


def test_print_config_runs_nothing_and_loads_back(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = run_with(monkeypatch, None)
    assert call(["run", str(config), "rounds.repeat=2", "--print-config"]) == 0
    printed = capsys.readouterr().out
    (config.parent / "again.yaml").write_text(printed)
    assert call(["run", "again.yaml", "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert "repeat: 2" in printed
    assert calls == []
    assert sorted(p.name for p in config.parent.iterdir()) == ["again.yaml", "c.yaml"]


def test_a_users_mistake_is_lines_and_exit_2(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistakes = [UserError("no such folder", key="data.root", value="x"), UserError("and more")]
    run_with(monkeypatch, UserErrors(mistakes))
    assert call(["run", str(config)]) == 2
    _, *told = capsys.readouterr().err.splitlines()
    assert told == [f"error: {mistake}" for mistake in mistakes]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RunError("disk full: cannot write f"), "failed: disk full: cannot write f; kept in DIR"),
        (OSError(5, "Input/output error"), "failed: [Errno 5] Input/output error; kept in DIR"),
        (ZeroDivisionError("a\nb"), "failed: ZeroDivisionError: a b; kept in DIR"),
    ],
)
def test_a_failure_is_one_line_that_says_how_to_go_on(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    says: str,
) -> None:
    error.add_note("kept in DIR")
    run_with(monkeypatch, error)
    assert call(["run", str(config), "run.output=my runs", "--overwrite"]) == 1
    go_on = f"resume with: cosup run {config} 'run.output=my runs' --resume"
    assert capsys.readouterr().err.splitlines()[1:] == [f"{says}; {go_on}"]


def test_an_interrupt_is_130_and_says_how_to_go_on(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = KeyboardInterrupt()
    error.add_note("kept in DIR")
    run_with(monkeypatch, error)
    assert call(["run", str(config), "--output", "o"]) == 130
    go_on = f"resume with: cosup run {config} --output o --resume"
    assert capsys.readouterr().err.splitlines()[1:] == [f"interrupted; kept in DIR; {go_on}"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "Missing argument 'CONFIG'"),
        (["rum"], "Did you mean 'run'?"),
        (["run", "c.yaml", "--resum"], "--resume"),
        (["run", "none.yaml"], "config none.yaml: no such file"),
        (["ls", "filter"], "did you mean 'filters'?"),
        (["ls", "keys", "rounds.los"], "did you mean 'rounds.loss'"),
        (["ls", "losses", "rounds"], "cosup ls keys"),
    ],
)
def test_a_misused_command_is_one_line_and_exit_2(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert call(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert says in line


@pytest.mark.parametrize(
    ("kind", "shows"),
    [
        ("assigners", ["gate", "hard: true  (true or false)"]),
        ("consistency", ["teacher_student", "k: 3"]),
        ("filters", ["teacher_student", "k: 3"]),
        ("losses", ["adaptive_confidence", 'form: "code"  (one of code, paper)']),
        ("sources", ["digits", "root: must be given  (text)"]),
        ("teachers", ["linear_pixels", "network", "call:MODULE:FUNCTION", "teachers.external"]),
        ("controls", ["best_teacher", "oracle_assignment", "needs: the true labels", "ceiling"]),
        ("keys", ["run.seed: 0  (a whole number", "student.backbone.name: must be given"]),
        ("", ["assigners", "dawid_skene", "cross_entropy", "unanimity", "image_folder", "configs"]),
    ],
)
def test_ls(capsys: pytest.CaptureFixture[str], kind: str, shows: list[str]) -> None:
    assert call(["ls", *filter(None, [kind])]) == 0
    out = capsys.readouterr().out
    assert [text for text in shows if text not in out] == []


def test_ls_shows_configs_and_runs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = config.parent
    (folder / "configs").mkdir()
    (folder / "configs" / "a.yaml").write_text("# cosup run a\n#\n# A fine thing: yes\n# it is.\n")
    (folder / "outputs" / "one").mkdir(parents=True)
    (folder / "outputs" / "one" / ".cosup-run.json").write_text('{"format": 1, "config_hash": ""}')
    (folder / "outputs" / "stray").mkdir()
    assert call(["ls", "configs"]) == 0
    assert "configs/a.yaml A fine thing" in " ".join(capsys.readouterr().out.split())
    assert call(["ls", "runs"]) == 0
    out = capsys.readouterr().out
    assert "outputs/one  not finished" in out
    assert "stray" not in out


def cpu_seconds_of_children() -> float:
    """Return the CPU time of the processes that have ended, which does not grow by waiting."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_version_and_help_are_quick_and_need_no_torch() -> None:
    script = "import sys, cosup.cli\ncode = cosup.cli.call([sys.argv[1]])\n"
    script += "sys.exit(code or ('torch' in sys.modules) * 9)"
    for argument in ("--version", "--help"):
        before = cpu_seconds_of_children()
        done = subprocess.run(
            [sys.executable, "-c", script, argument], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert cpu_seconds_of_children() - before < 10
    assert cosup.__version__
    assert call(["--version"]) == 0


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    command = f"{sys.executable} -m cosup ls | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.strip() == "configs"
    assert done.stderr == ""
