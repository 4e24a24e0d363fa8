"""Two checkpoints on one test set, example by example.

What this tells is about these two checkpoints, not about the recipes that made them: another seed differs by more.
So it is said beside the verdict and decides nothing.
"""

import math
from collections.abc import Sequence

from gitops_ml import stats
from gitops_ml.distributions import normal_quantile
from gitops_ml.errors import UserError
from gitops_ml.records import Predictions

BOOTSTRAP_MAX = 10_000
"""Examples above which the mean's interval is the normal one: the bootstrap would find the same, in minutes."""
_CAVEAT = "these two checkpoints on this test set; another training may differ by more"


def paired_sentence(base: Predictions, head: Predictions, confidence: float, *, keys: Sequence[str]) -> str:
    """Return what the examples that both sides predicted say about the two checkpoints.

    Args:
        base: one score per example, of the baseline's only trial.
        head: the same of the change's.
        confidence: of the interval for scores and errors.
        keys: the two trials' keys; they seed the bootstrap, so that a rerun says the same.
    """
    if base.kind != head.kind:
        return f"the predictions cannot be paired: the baseline's hold `{base.kind}`, the change's `{head.kind}`"
    known = dict(zip(base.ids, base.scores, strict=True))
    pairs = [(known[name], score) for name, score in zip(head.ids, head.scores, strict=True) if name in known]
    if not pairs:
        return "the predictions cannot be paired: no example stands on both sides"
    only = len(head.ids) + len(base.ids) - 2 * len(pairs)
    left = f", {only} more stand on one side only" if only else ""
    examples = f"{len(pairs)} examples{left}"
    if head.kind == "correct":
        head_alone = sum(1 for before, after in pairs if after > before)
        base_alone = sum(1 for before, after in pairs if after < before)
        p = min(1.0, 2 * min(stats.mcnemar_p(head_alone, base_alone), stats.mcnemar_p(base_alone, head_alone)))
        return (
            f"{examples}: {head_alone} are right only here, {base_alone} only on the baseline "
            f"(McNemar, p = {p:.2g}); {_CAVEAT}"
        )
    befores, afters = zip(*pairs, strict=True)
    mean = sum(after - before for before, after in pairs) / len(pairs)
    noun = "absolute error" if head.kind == "error" else "score"
    try:
        if len(pairs) > BOOTSTRAP_MAX:
            low, high = _normal_interval([after - before for before, after in pairs], mean, confidence)
            method = "normal"
        else:
            low, high = stats.bootstrap_interval(afters, befores, confidence, keys=keys)
            method = "paired bootstrap"
    except UserError as error:
        interval = str(error)
    else:
        interval = f"{100 * confidence:g} % interval {low:+.4g} to {high:+.4g}, {method}"
    return f"{examples}: the mean {noun} differs by {mean:+.4g} ({interval}); {_CAVEAT}"


def _normal_interval(differences: Sequence[float], mean: float, confidence: float) -> tuple[float, float]:
    sd = stats.moments(differences).sd
    assert sd is not None
    half = normal_quantile((1 - confidence) / 2) * sd / math.sqrt(len(differences))
    return mean - half, mean + half
