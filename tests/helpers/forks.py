"""Start Python processes without import time: forks of a process with the slow imports done.

    python forks.py SCRIPT ARGUMENT ...        as `python SCRIPT ARGUMENT ...`
    python forks.py -m MODULE ARGUMENT ...     as `python -m MODULE ARGUMENT ...`

The script runs in a new process with the caller's environment, folder and standard streams; its
exit status is returned, signals are passed on, and it dies with the caller. Without a fork server
(conftest.py starts one) the script runs in this process. For Ray's workers see
`cluster/forked_worker.py`.
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
"""Environment variable with the path of the server's socket."""
REIMPORT = "COSUP_TEST_REIMPORT"
"""Environment variable that is set if cosup is to be imported again, from PYTHONPATH."""
PRELOADED = (
    "torch._dynamo",  # imported by the first optimizer
    "torch.distributed.nn",
    "sklearn.datasets",
    "pyarrow.dataset",
    "cosup.runs.pipeline",
)
"""Modules to import before forking; not Ray, which reads the environment at import."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


# The caller's side; it imports only the standard library.


def call(arguments: list[str]) -> int:
    """Let the server run the arguments, wait for the end, and return the exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until they can be passed on
    server = socket.socket(socket.AF_UNIX)
    server.connect(os.environ[SERVER])
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    content = json.dumps(order).encode()
    socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(content)
    replies = server.makefile("r")
    pid = int(replies.readline())
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    status = int(replies.readline())
    if status < 0:
        if -status != signal.SIGKILL:  # which has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


# The server's side.


class Server:
    """Fork a process for every caller until standard input ends.

    path: of the socket; its folder is removed at the end.
    """

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

    def serve(self) -> dict[str, Any] | None:
        """Serve callers; return the order in a fork, and None in the server at the end."""
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
            self._report_exits()

    def _fork(self) -> dict[str, Any] | None:
        """Accept a caller and fork; return the order in the fork, with its streams set up."""
        caller, _ = self.listener.accept()
        size, streams, *_ = socket.recv_fds(caller, 8, 3)
        try:
            with caller.makefile("rb") as content:
                order: dict[str, Any] = json.loads(content.read(int.from_bytes(size, "big")))
        except (OSError, ValueError):  # the caller was killed while connecting
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
        os.setpgid(0, 0)  # Ray kills the process group of a worker
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
        """Import the modules once, with the caller's number of threads."""
        if self.preloaded:
            return
        os.environ.update({k: v for k, v in environment.items() if k.startswith("OMP_")})
        gc.disable()  # nothing is garbage now
        for name in PRELOADED:
            importlib.import_module(name)
        os.fsync = lambda handle: None  # as in conftest.py
        gc.freeze()  # so that garbage collection in forks does not copy pages
        gc.enable()
        self.preloaded = True

    def _report_exits(self) -> None:
        while self.callers and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            caller = self.callers.pop(ended[0])
            with suppress(KeyError):
                self.events.unregister(caller)
            with suppress(OSError):
                caller.sendall(b"%d\n" % os.waitstatus_to_exitcode(ended[1]))
            caller.close()


def run(arguments: list[str]) -> None:
    """Run a script or a module as the Python command line does."""
    first, *rest = arguments
    del sys.path[0]  # folder of this file
    found = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [path for path in found if path not in sys.path]
    if os.environ.get(REIMPORT):
        for name in [name for name in sys.modules if name.split(".")[0] == "cosup"]:
            del sys.modules[name]
    if first == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        runpy.run_path(first, run_name="__main__")


def run_and_exit(order: dict[str, Any]) -> None:
    """Run the order and end the process without the slow teardown of imported modules."""
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
    if order := server.serve():
        run_and_exit(order)
    path = Path(arguments[1])
    path.unlink()
    path.parent.rmdir()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
