"""Python processes that are up at once: forks of one that has imported what takes seconds.

    python forks.py SCRIPT ARGUMENT ...        as `python SCRIPT ARGUMENT ...`
    python forks.py -m MODULE ARGUMENT ...     as `python -m MODULE ARGUMENT ...`

What this runs is a process of its own, with the caller's environment, folder, standard streams and
exit status; signals are passed on to it, and it dies with this one. Without a server that forks
(conftest.py starts it) it is Python itself. Ray's workers: `cluster/forked_worker.py`.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

SERVER = "COSUP_TEST_FORKS"
"""The environment's variable with the path of the server's socket."""
PRELOADED = (
    "torch._dynamo",  # by the first optimiser
    "torch.distributed.nn",
    "sklearn.datasets",
    "pyarrow.dataset",
    "cosup.runs.pipeline",
)
"""Not Ray, which takes a process's settings from its environment as it is imported."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# The caller's side, which imports next to nothing.


def call(arguments: list[str]) -> int:
    """Have it run, and wait for its end; its exit status."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.environ[SERVER])
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    content = json.dumps(order).encode()
    socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(content)
    said = server.makefile("r")
    pid = int(said.readline())
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    status = int(said.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


# The server's side.


class Server:
    """Forks for every caller, until standard input ends. path: of a socket, in a folder of its own,
    which goes with the server."""

    def __init__(self, path: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        self.ended, ending = socket.socketpair()
        for end in (self.ended, ending):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(ending.fileno(), warn_on_full_buffer=False)
        self.ending = ending
        self.callers: dict[int, socket.socket] = {}
        self.preloaded = False
        self.events = selectors.DefaultSelector()
        for source in (0, self.listener, self.ended):
            self.events.register(source, selectors.EVENT_READ)

    def orders(self) -> dict[str, Any] | None:
        """Serve. In a fork: what it is to run; in the server: None, at the end."""
        while True:
            for key, _ in self.events.select():
                if key.fileobj == 0:
                    for pid in self.callers:
                        os.kill(pid, signal.SIGKILL)
                    return None
                if key.fileobj is self.listener:
                    if order := self._fork():
                        return order
                elif key.fileobj is self.ended:
                    self.ended.recv(4096)
                else:  # the caller has died
                    self.events.unregister(key.fileobj)
                    if key.data in self.callers:
                        os.kill(key.data, signal.SIGKILL)
            self._tell_ends()

    def _fork(self) -> dict[str, Any] | None:
        """In the fork: what it is to run, its surroundings made."""
        caller, _ = self.listener.accept()
        size, streams, *_ = socket.recv_fds(caller, 8, 3)
        try:
            with caller.makefile("rb") as content:
                order: dict[str, Any] = json.loads(content.read(int.from_bytes(size, "big")))
        except (OSError, ValueError):  # it was killed as it called
            for stream in streams:
                os.close(stream)
            caller.close()
            return None
        self._preload(order["environment"])
        if pid := os.fork():
            for stream in streams:
                os.close(stream)
            with suppress(OSError):
                caller.sendall(b"%d\n" % pid)
            self.callers[pid] = caller
            self.events.register(caller, selectors.EVENT_READ, pid)
            return None
        os.setpgid(0, 0)  # Ray kills a worker's whole group
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.events.close()
        for one in (*self.callers.values(), caller, self.listener, self.ended, self.ending):
            one.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        return order

    def _preload(self, environment: dict[str, str]) -> None:
        """Import, once; with as many threads as the callers are to have."""
        if self.preloaded:
            return
        os.environ.update({k: v for k, v in environment.items() if k.startswith("OMP_")})
        for name in PRELOADED:
            importlib.import_module(name)
        gc.freeze()  # or every fork copies what it merely looks at
        self.preloaded = True

    def _tell_ends(self) -> None:
        while self.callers and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            caller = self.callers.pop(ended[0])
            with suppress(KeyError):
                self.events.unregister(caller)
            with suppress(OSError):
                caller.sendall(b"%d\n" % os.waitstatus_to_exitcode(ended[1]))
            caller.close()


def run(arguments: list[str]) -> None:
    """As Python does with these arguments."""
    first, *rest = arguments
    del sys.path[0]  # the folder of this file
    found = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [path for path in found if path not in sys.path]
    if first == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        runpy.run_path(first, run_name="__main__")


def leave(order: dict[str, Any]) -> None:
    """Carry it out and end this process, without taking apart all that was imported."""
    status: object = 0
    try:
        run(order["arguments"])
    except SystemExit as ended:
        status = ended.code or 0
        if not isinstance(status, int):
            sys.stderr.write(f"{status}\n")
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(arguments: list[str]) -> None:
    if arguments[0] != "--serve":
        if SERVER in os.environ:
            sys.exit(call(arguments))
        run(arguments)
        return
    server = Server(arguments[1])
    os.write(1, b"ready\n")
    if order := server.orders():
        leave(order)
    path = Path(arguments[1])
    path.unlink()
    path.parent.rmdir()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
