"""Local-global consistency, against a plain-Python oracle and scipy's Jensen-Shannon distance."""

import math

import numpy as np
import pytest
import torch
from filter_cases import evidence, keep_of, labels_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from cosup.consistency import LocalGlobal
from cosup.consistency.local_global import jensen_shannon
from cosup.errors import UserError
from cosup.evidence import Evidence

CASE = {"seed": st.integers(0, 2**16), "size": st.integers(1, 30)}


@settings(max_examples=40, deadline=None)
@given(**CASE)
def test_rejects_where_the_local_and_the_global_student_differ(seed: int, size: int) -> None:
    found, weights = evidence(seed, size)
    labels = labels_of(found, weights)
    assert found.local_probs is not None
    assert found.global_probs is not None
    pairs = list(zip(found.local_probs.tolist(), found.global_probs.tolist(), strict=True))
    wanted = [
        one.index(max(one)) == two.index(max(two)) and label is not None
        for (one, two), label in zip(pairs, labels, strict=True)
    ]
    assert keep_of(LocalGlobal(), found, weights).tolist() == wanted
    close = [
        jensenshannon(one, two) ** 2 <= 0.1 and label is not None
        for (one, two), label in zip(pairs, labels, strict=True)
    ]
    assert keep_of(LocalGlobal(divergence=0.1), found, weights).tolist() == close


@settings(max_examples=40, deadline=None)
@given(k=st.integers(1, 5), **CASE)
def test_coarser_rejects_labels_outside_its_top_k(seed: int, size: int, k: int) -> None:
    found, weights = evidence(seed, size)
    assert found.coarse_probs is not None
    wanted = [
        label in sorted(range(4), key=lambda c: -row[c])[:k]
        for row, label in zip(found.coarse_probs.tolist(), labels_of(found, weights), strict=True)
    ]
    assert keep_of(LocalGlobal("coarser", k=k), found, weights).tolist() == wanted


def test_divergence_is_scipys_and_reaches_ln_2_for_disjoint_classes() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.dirichlet([0.3] * 6, 20), rng.dirichlet([0.3] * 6, 20)
    ours = jensen_shannon(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    np.testing.assert_allclose(ours, jensenshannon(first, second, axis=1) ** 2, atol=1e-12)
    certain = torch.eye(2)
    assert jensen_shannon(certain[:1], certain[1:]).item() == pytest.approx(math.log(2))
    assert jensen_shannon(certain, certain).tolist() == [0, 0]


def test_a_sample_without_a_local_student_is_consistent() -> None:
    found = Evidence(
        torch.eye(2),
        torch.eye(2)[:, None],
        local_probs=torch.zeros(2, 2),
        global_probs=torch.eye(2).flip(0),
    )
    for each in (LocalGlobal(), LocalGlobal(divergence=0.1)):
        assert keep_of(each, found, torch.ones(2, 1)).all()


def test_needs_are_declared_and_missing_evidence_is_named() -> None:
    assert LocalGlobal().needs == {"local_probs", "global_probs"}
    assert LocalGlobal("coarser").needs == {"coarse_probs"}
    bare = Evidence(torch.eye(2), torch.eye(2)[:, None])
    with pytest.raises(UserError, match="local_probs"):
        keep_of(LocalGlobal(), bare, torch.ones(2, 1))


@pytest.mark.parametrize(
    ("settings_", "key"),
    [
        ({"against": "local"}, "against"),
        ({"divergence": 0.7}, "divergence"),
        ({"divergence": 0.1, "against": "coarser"}, "divergence"),
        ({"k": 0}, "k"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(settings_: dict[str, object], key: str) -> None:
    with pytest.raises(UserError) as caught:
        LocalGlobal(**settings_)  # type: ignore[arg-type]
    assert caught.value.key == (key,)
    assert caught.value.value == settings_[key]
