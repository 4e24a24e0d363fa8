"""What specs say of metrics before a report does."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from gitops_ml.entries import ReportEntry
from gitops_ml.errors import GitError, ServiceError
from gitops_ml.history import Row
from gitops_ml.tools import Tools

if TYPE_CHECKING:
    from gitops_ml.spec import Track


def tracked(found: Iterable[Row], reports: Iterable[ReportEntry], tools: Tools) -> "Mapping[str, Sequence[Track]]":
    """Return what decides first, by experiment, of those rows' experiments that no report has decided yet.

    The specs at the checked out commit say it; an experiment without a valid one there is left out.
    """
    unjudged = {row.experiment for row in found} - {report.experiment for report in reports if report.metric}
    here = tools.repository.head().commit if unjudged else None
    if here is None:
        return {}
    # Reading specs takes longer than the rest of `log`.
    from gitops_ml.globs import compiled
    from gitops_ml.spec import ranked
    from gitops_ml.validation import load

    known = {}
    try:
        tree = tools.repository.tree(here, "HEAD")
        for path in filter(compiled(tools.project.specs), tree.files):
            if tree.files[path].mode != "120000":
                experiment, _ = load(tree.read(tree.files[path].oid), path)
                if experiment is not None and experiment.name in unjudged:
                    known[experiment.name] = ranked(experiment.metrics.track)
    except (GitError, ServiceError):  # a partial clone without what it checks out
        return {}
    return known
