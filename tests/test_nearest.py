"""The search for neighbours takes no more memory for few samples than for many."""

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch.profiler import ProfilerActivity, profile

from cosup.nearest import AT_ONCE, nearest


def test_few_samples_are_compared_with_a_part_of_many_others_at_a_time() -> None:
    features = torch.randn(150_000, 64, generator=torch.Generator().manual_seed(0))
    own, places = torch.arange(2), torch.arange(len(features))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        found = nearest(features[own], own, [(features, places)], 3)
    largest = max(event.self_cpu_memory_usage for event in seen.events())
    assert 0 < largest <= AT_ONCE * 8  # all others in float64 are 77 MB
    oracle = NearestNeighbors(n_neighbors=4, metric="cosine").fit(features.double().numpy())
    expected = oracle.kneighbors(features[own].double().numpy(), return_distance=False)
    assert np.array_equal(found.positions.numpy(), expected[:, 1:])  # the first is the sample
