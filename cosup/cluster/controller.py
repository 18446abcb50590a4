"""What runs in Ray Train's controller: nothing else, so that it imports little."""

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy

__all__ = ["Announcer", "Fixed"]


class Announcer(ControllerCallback):
    """Lets the desk know the controller, which alone can end workers in mid-training."""

    def __init__(self, desk: Any) -> None:
        self.desk = desk

    def after_controller_start(self, train_run_context: Any) -> None:
        """Before anything else."""
        self.desk.controller.remote(ray.get_runtime_context().current_actor)


class Fixed(FixedScalingPolicy):
    """As many workers as are asked for, as long as the desk is open: while the controller waits for
    a place it listens to nobody.

    Ray's own policy also notes the workers down with a detached actor for Ray Data, which would
    outlive the run. An autoscaler sees the placement group anyway.
    """

    def __init__(self, scaling_config: Any, desk: Any) -> None:
        super().__init__(scaling_config)
        self.desk = desk

    def make_decision_for_non_running_worker_group(self) -> Any:
        """As Ray's. Raises where there is nothing more to do, which ends the controller."""
        if ray.get(self.desk.closed.remote()):
            raise RuntimeError("the desk is closed")
        return super().make_decision_for_non_running_worker_group()

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing is noted down."""

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass
