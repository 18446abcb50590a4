"""Fused: against Dawid-Skene and crowd-kit, and on simulated annotators of real digits."""

import numpy as np
from assignment_cases import Chunks
from test_dawid_skene import _annotators, _evidence

from cosup.assignment import DawidSkene, Fused
from cosup.evidence import Scopes


def test_with_annotators_alone_and_no_shrinking_it_is_dawid_skene() -> None:
    labels, _ = _annotators()
    evidence, scopes = _evidence(labels), Scopes.of([None] * 4, 4)
    ours = Fused("none", student=False, strength=0.0, iterations=8, tolerance=0.0, group_above=1.0)
    ours.fit(Chunks(evidence, 64), scopes)
    theirs = DawidSkene(8, 0.0, smoothing=0.0)
    theirs.fit([evidence], scopes)
    np.testing.assert_allclose(ours.posterior(evidence), theirs.posterior(evidence), atol=1e-5)
