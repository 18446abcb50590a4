"""Seeds and random generators, derived from the seed of the run and the names of their use."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_for(run_seed: int, *names: str | int) -> int:
    """Return a seed in [0, 2**31) that depends on the seed of the run and on the names in order."""
    text = "\x1f".join(str(part) for part in (run_seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def torch_generator(run_seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator for this seed and these names."""
    return torch.Generator().manual_seed(seed_for(run_seed, *names))


def numpy_generator(run_seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator for this seed and these names."""
    return np.random.default_rng(seed_for(run_seed, *names))


@contextmanager
def forked_seeds(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch inside, and restore them afterwards.

    For libraries that use no other generator (augmentation, mixing, dropout).
    """
    before = random_states(device)
    reseed(seed, device)
    try:
        yield
    finally:
        restore_random_states(before, device)


def reseed(seed: int, device: torch.device | str = "cpu") -> None:
    """Seed the global generators of Python, NumPy and torch, and of the GPU if it is the device."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (other libraries use it)
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):  # else the current card is seeded
            torch.cuda.manual_seed(seed)


def random_states(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the states of the global generators, as plain types and tensors."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    states = {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.array(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.device(device).type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Restore the states returned by `random_states`."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
