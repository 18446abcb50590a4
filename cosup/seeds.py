"""Randomness has a name: each stream is seeded by the run's seed and the names of its use."""

import hashlib

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
