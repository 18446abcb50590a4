"""Train a small network in one of several local processes: `python train_rank.py RANK SIZE FOLDER`.

It writes the trained tensors as RANK.pt.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers.student_jobs import CPU, DATA, EVERYTHING, network_job, state

from cosup.models.compute import Compute
from cosup.models.ranks import joined

LONG: dict[str, Any] = {**EVERYTHING, "steps": 24, "save_every": 4}


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(2)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    found = network_job(**LONG).run(DATA, Compute(CPU, ranks=joined(CPU)))
    torch.save(state(found), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
