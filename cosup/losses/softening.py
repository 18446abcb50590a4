"""Which losses can soften stored annotations.

With more than `DENSE_LIMIT` classes, the less probable ones are stored by their mean alone
(`cosup.probabilities`). They hold most of a softened distribution.
"""

from cosup.errors import UserError
from cosup.probabilities import DENSE_LIMIT, TOP_K
from cosup.settings.losses import LossSettings

__all__ = ["check_softening"]


def check_softening(loss: LossSettings, num_classes: int, key: str, others: str = "") -> None:
    """Raise `UserError` for a loss that softens annotations of more classes than are stored.

    key: of the loss. others: what the user can do besides, for the error.
    """
    found = loss.softens
    if found is None or num_classes <= DENSE_LIMIT:
        return
    setting, value = found
    raise UserError(
        f"softens annotations of {num_classes} classes, of which the {TOP_K} most probable ones "
        f"are stored (all of them up to {DENSE_LIMIT} classes)",
        key=f"{key}.{setting}",
        value=value,
        allowed=f"1{others}",
    )
