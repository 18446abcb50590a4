"""Time the search for neighbours (`cosup.nearest`) beside one in float32, on one core.

Usage: python tests/benchmarks/bench_neighbours.py. The one in float32 is `torch.topk` of a matrix
product: its neighbours differ with the sizes of the matrices where cosines are nearly equal.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cosup.nearest import nearest

SAMPLES, REFERENCES, NEIGHBOURS, REPEATS = 1024, 8192, 250, 3


def seconds(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def in_float32(features: Tensor) -> Tensor:
    units = normalize(features.float(), dim=1)
    return (units[:SAMPLES] @ units.T).topk(NEIGHBOURS, dim=1).indices


def main() -> None:
    torch.set_num_threads(1)
    places = torch.arange(REFERENCES)
    for width in (64, 384, 1280):
        features = torch.randn(REFERENCES, width).half()
        own = features[:SAMPLES]
        found = seconds(
            lambda own=own, features=features: nearest(
                own, places[:SAMPLES], [(features, places)], NEIGHBOURS
            )
        )
        plain = seconds(lambda features=features: in_float32(features))
        each = found / (SAMPLES * REFERENCES)
        print(f"{width} features: {each:.2e} s per cosine, {found / plain:.1f} x float32")


if __name__ == "__main__":
    main()
