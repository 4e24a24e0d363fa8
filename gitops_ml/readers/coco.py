"""COCO evaluation: the 12 numbers of ``COCOeval.stats`` as JSON, or a mapping with their names.

Needs no pycocotools. ``json.dump(evaluation.stats.tolist(), file)`` is read as AP, AP50, AP75, APs, APm, APl, AR1,
AR10, AR100, ARs, ARm, ARl; ten numbers (keypoints) as AP, AP50, AP75, APm, APl, AR, AR50, AR75, ARm, ARl. -1 means
that the data has no such objects: a missing value, not a score.

    metrics: {read: [{path: out/stats.json, format: coco}]}
"""

from pathlib import Path
from typing import Any

from gitops_ml.readers import text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import Findings, describe, number
from gitops_ml.records import Reading

BOXES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINTS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")


class CocoReader(Reader):
    """One evaluation."""

    rank = 20

    def detect(self, file: Path, head: bytes) -> bool:
        """By the 12 numbers, or the names AP, AP50 and AP75."""
        if file.suffix.lower() != ".json" or len(head) > 20_000:
            return False
        if {"AP", "AP50", "AP75"} <= text.top_level_keys(head):
            return head.count(b"\n{") == 0
        try:
            return _stats(text.loads(text.head_text(head))) is not None
        except (ValueError, RecursionError):
            return False

    def read(self, file: Path, name: str) -> Reading:
        """Return the scores that are there."""
        findings = Findings(name, "coco")
        with findings.guarded():
            data = text.read_json(file)
            found = _stats(data)
            if found is not None:
                data = found
            elif not isinstance(data, dict):
                raise UnreadableError("", f"holds neither 12 nor 10 numbers but: {describe(data)}")
            scores: dict[str, Any] = {}
            for path, value in findings.leaves(data):
                if number(value) == -1:
                    findings.ignore(path, "-1: the data has no such objects")
                else:
                    scores[path] = value
            findings.tree(scores)
        return findings.reading()


def _stats(data: Any) -> dict[str, float] | None:
    if isinstance(data, dict) and len(data) == 1:
        data = data.get("stats")
    names = {len(BOXES): BOXES, len(KEYPOINTS): KEYPOINTS}.get(len(data)) if isinstance(data, list) else None
    if names is None:
        return None
    values = [number(item) for item in data]
    scores = [value for value in values if value is not None and (value == -1 or 0 <= value <= 1 or value != value)]
    return dict(zip(names, scores, strict=True)) if len(scores) == len(names) else None
