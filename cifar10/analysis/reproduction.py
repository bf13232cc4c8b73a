"""Whether a run was reproduced: the same weights, or scores within the spread of its recipe."""

from collections.abc import Sequence
from dataclasses import dataclass

from cifar10.analysis.score_spread import ScoreSpread
from cifar10.data.class_names import printable
from cifar10.runs.run_claims import Difference


@dataclass(frozen=True)
class Verdict:
    """Whether a run was reproduced, and why."""

    is_reproduced: bool
    reason: str

    def __str__(self) -> str:
        return f"{'yes' if self.is_reproduced else 'no'}: {printable(self.reason)}"


def may_differ(differences: Sequence[Difference]) -> bool:
    """Return whether other weights may be due to code, versions or machine."""
    return any(difference.matters for difference in differences)


def judge(
    then: float, now: float, spread: ScoreSpread, differences: Sequence[Difference], epoch: str | None
) -> Verdict:
    """Return the verdict on other weights: a failure if nothing explains them, or if the scores are too far apart.

    Args:
        then: Accuracy of the recorded weights.
        now: Accuracy of the new ones.
        spread: Of the recipe.
        differences: Between the two trainings.
        epoch: Where their histories part, if they do.
    """
    since = f"; they part in {epoch}" if epoch else ""
    if not may_differ(differences):
        reason = (
            f"code, versions, kind of processor and threads are the same, and the weights are others{since}. So these "
            "weights do not come from the settings, the seed and the data that the run names"
        )
        return Verdict(False, reason)
    points, limit = 100 * abs(now - then), 100 * spread.limit
    if points > limit:
        reason = (
            f"the accuracies are {points:.2f} points apart, more than {limit:.2f} by chance ({spread.origin}){since}"
        )
        return Verdict(False, reason)
    explained = ", ".join(difference.what for difference in differences if difference.matters)
    reason = (
        f"the accuracies are {points:.2f} points apart, at most {limit:.2f} by chance ({spread.origin}). The weights "
        f"are others, which differences of {explained} can explain{since}"
    )
    return Verdict(True, reason)
