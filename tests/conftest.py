"""Threads of small networks wait asleep: spinning ones slow each other down tenfold on a machine
that does other things too."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
