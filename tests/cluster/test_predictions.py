"""Actors predict with a network as this process does, to the last bit, and load it once."""

import pytest
import torch
from actor_helpers import NETWORKS, actors, config

from cosup.cluster.predictions import predict_with_pool
from cosup.data.loader import ImageRows
from cosup.data.table import ImageData
from cosup.models.classifier import build_classifier
from cosup.models.compute import Compute
from cosup.student.launcher import predict_images

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("two_threads")]


def test_actors_predict_as_this_process_does(cluster: object, data: ImageData) -> None:
    """In blocks that end within a batch, after another network, and of a shifted set."""
    compute = Compute(torch.device("cpu"), "float32", 1, 16)
    first, second = (build_classifier("cifar_resnet8", 10, None, 16, seed) for seed in (0, 1))
    inputs = ImageRows(data, data.rows("student_train")[3:140])
    with actors(data, config(NETWORKS)) as pool:
        for network in (first, second):
            found = predict_with_pool(lambda: pool, network, inputs, "test", 16, 40)
            expected = predict_images(network, inputs, compute)
            assert len(found) == len(inputs)
            assert found.logs.equal(expected.logs)
        shifted = ImageRows(data.shifted["turned"], data.shifted["turned"].rows("test"))
        found = predict_with_pool(lambda: pool, second, shifted, "shifted-turned", 16, 40)
        assert found.logs.equal(predict_images(second, shifted, compute).logs)
    alike = predict_images(first, inputs, compute).logs
    assert not alike.equal(predict_images(second, inputs, compute).logs)
