"""Questions to earlier records: how far runs of the same thing lie apart."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from gitops_ml.planning import digest
from gitops_ml.records import Record
from gitops_ml.spec import Track
from gitops_ml.stats import Noise, pool
from gitops_ml.summaries import Metrics, Unusable, summary_value


def learned_noise(
    records: Iterable[Record], tracks: Mapping[str, Sequence[Track]], *, leave_out: Collection[str] = ()
) -> Mapping[str, Mapping[str, Noise]]:
    """Return the run-to-run noise by experiment and metric, from groups of records that differ by their seed only.

    Groups with other parameters, code or data count as well: what is pooled is the spread within each group, on the
    assumption that it is about the same in all. Of several repeats of a seed the newest counts.

    Args:
        records: all that are known; their series need not have been read.
        tracks: what is tracked, by experiment.
        leave_out: keys of the comparison at hand, whose own spread is pooled in there.
    """
    groups: dict[tuple[str, str], dict[int, Record]] = {}
    left_out = set()
    for record in records:
        if record.experiment not in tracks:
            continue
        group = record.experiment, digest({**record.document, "seed": None, "repeat": None})
        if record.key in leave_out:
            left_out.add(group)
        seeds = groups.setdefault(group, {})
        if record.seed not in seeds or seeds[record.seed].repeat < record.repeat:
            seeds[record.seed] = record
    values: dict[str, dict[str, list[list[float]]]] = {}
    for group, seeds in sorted(groups.items(), key=lambda item: item[0]):
        if group in left_out or len(seeds) < 2:
            continue
        name, its = group[0], [Metrics(record) for _, record in sorted(seeds.items())]
        for track in tracks[name]:
            found = [summary_value(track, metrics, tracks[name]) for metrics in its]
            valid = [value for value in found if not isinstance(value, Unusable)]
            values.setdefault(name, {}).setdefault(track.name, []).append(valid)
    pooled = {name: {metric: pool(of) for metric, of in metrics.items()} for name, metrics in values.items()}
    return {
        name: {metric: noise for metric, noise in metrics.items() if noise is not None}
        for name, metrics in pooled.items()
    }
