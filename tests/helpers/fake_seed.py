"""Stands for `cosup.runs.seed_process` in tests: does what the name of the run's directory says."""

import json
import os
import pickle
import signal
import sys
import threading
import time
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace

from cosup.errors import RunError
from cosup.runs.seed_process import end_with_parent


def tell(**content: object) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def wait_for(path: str, count: int) -> None:
    end = time.monotonic() + 120
    while len(list(folder.parent.parent.glob(path))) < count:
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.02)


def stop(*_: object) -> None:
    """End by SIGTERM, wherever it is now."""
    (folder / "stopped").write_text("")
    os._exit(1)


run: SimpleNamespace = pickle.load(sys.stdin.buffer)
threading.Thread(target=end_with_parent, daemon=True).start()
folder = Path(run.directory)
folder.mkdir(parents=True)
if folder.name == "waits":
    signal.signal(signal.SIGTERM, stop)
(folder / "started").write_text(f"{time.monotonic()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}")
tell(name="cosup.fake", level=20, text="here", extra={})
if folder.name != "meets" and (together := folder.parent.parent / "together").exists():
    wait_for("*/*/started", int(together.read_text()))
if folder.name == "fails":
    tell(error=b64encode(pickle.dumps(RunError("the disk is full"))).decode())
    sys.exit(1)
if folder.name == "crashes":
    os.kill(os.getpid(), signal.SIGKILL)
if folder.name == "waits":
    time.sleep(300)
(folder / "stages").mkdir()
(folder / "stages" / "features.json").write_text("{}")
if folder.name == "meets":
    wait_for("*/*/started", 2)
if folder.name == "stays":
    wait_for("*/meets/ended", 1)
(folder / "ended").write_text(str(time.monotonic()))
tell(finished=True)
