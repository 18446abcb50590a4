"""Randomness has a name: each stream is seeded by the run's seed and the names of its use."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_for(run_seed: int, *names: str | int) -> int:
    """A seed in [0, 2**31) that depends on the run's seed and on every name, in order."""
    text = "\x1f".join(str(part) for part in (run_seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def torch_generator(run_seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the stream with these names."""
    return torch.Generator().manual_seed(seed_for(run_seed, *names))


def numpy_generator(run_seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream with these names."""
    return np.random.default_rng(seed_for(run_seed, *names))


@contextmanager
def forked_seeds(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch within, and give them back as they
    were: for libraries that draw from nothing else (augmentation, mixing, dropout)."""
    before = random_states(device)
    reseed(seed, device)
    try:
        yield
    finally:
        restore_random_states(before, device)


def reseed(seed: int, device: torch.device | str = "cpu") -> None:
    """Seed the global generators of Python, NumPy, torch's CPU and, where it is one, the GPU."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the libraries' own generator)
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(seed)


def random_states(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The states of the global generators, in plain types and tensors alone."""
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
    """The inverse of `random_states`."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
