"""``gitops-ml.accepted.yaml``: regressions that somebody accepted, with a bound, a reason and an expiry date.

An entry lets one metric of one experiment pass although its verdict says no, while the value on the head side is
no worse than the bound. It does not lift a floor, and it does not make a missing value good.
"""

import dataclasses
from datetime import date

from gitops_ml.diagnostics import Position

FILE = "gitops-ml.accepted.yaml"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """One accepted regression, and where it stands in the file."""

    experiment: str
    metric: str
    bound: float
    """The worst value of the metric, on the head side, that is accepted; in its unit."""
    reason: str
    author: str
    expires: date
    """The last day on which it holds."""
    position: Position

    def words(self) -> str:
        """Return reason, author, bound and expiry as the report shows them."""
        return f"{self.reason} (by {self.author}, to {self.bound:g} at worst, until {self.expires.isoformat()})"
