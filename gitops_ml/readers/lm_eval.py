"""EleutherAI's lm-evaluation-harness: ``results*.json``, with its standard errors.

Needs nothing. ``"acc,none"`` of the task ``piqa`` is ``piqa/acc``; a filter other than ``none`` stays in the name:
``gsm8k/exact_match,strict-match``. The standard error is the sampling error over the test set, not the noise
between seeds, and is kept beside the value together with the number of examples. A group of tasks is read like
a task.

    metrics: {read: ["out/**/results*.json"]}
"""

from pathlib import Path
from typing import Any

from gitops_ml.readers import text
from gitops_ml.readers.base import Reader, UnreadableError
from gitops_ml.readers.findings import Findings, Repeated, describe, number
from gitops_ml.records import Reading

_BOOKKEEPING = ("alias", "sample_len", "sample_count", "name")


class LmEvalReader(Reader):
    """One results file."""

    rank = 10

    def detect(self, file: Path, head: bytes) -> bool:
        """By its name and keys: long configs may push ``versions`` out of the first bytes."""
        if file.suffix.lower() != ".json" or not file.name.startswith("results"):
            return False
        keys = text.top_level_keys(head)
        return "results" in keys and ("configs" in keys or "versions" in keys or "group_subtasks" in keys)

    def read(self, file: Path, name: str) -> Reading:
        """Return one final value per task, metric and filter."""
        findings = Findings(name, "lm-eval")
        with findings.guarded():
            data = text.read_json(file)
            results = data.get("results") if isinstance(data, dict) else None
            if not isinstance(results, dict):
                raise UnreadableError("results", "is missing or no mapping: these are no results of lm-eval")
            samples = data.get("n-samples")
            for task, found in results.items():
                if isinstance(found, dict):
                    _add_task(findings, str(task), found, _count(samples, task))
                elif isinstance(found, Repeated):
                    findings.problem(str(task), "the key stands there more than once; none of its values is used")
                else:
                    findings.ignore(str(task), describe(found))
            config = data.get("config")
            for key in ("model", "model_args", "batch_size", "limit") if isinstance(config, dict) else ():
                findings.param(key, config.get(key))
            others = sorted(str(key) for key in data if key not in ("results", "n-samples"))
            if others:
                findings.ignore(", ".join(others)[:300], "no metrics")
        return findings.reading()


def _add_task(findings: Findings, task: str, found: dict[str, Any], count: int | None) -> None:
    for key, raw in found.items():
        metric, _, chosen = str(key).partition(",")
        if metric in _BOOKKEEPING or metric.endswith("_stderr"):
            continue
        name = f"{task}/{metric}" if chosen in ("", "none") else f"{task}/{metric},{chosen}"
        value = number(raw)
        if isinstance(raw, Repeated):
            findings.problem(name, "the key stands there more than once; none of its values is used")
        elif value is None:
            findings.ignore(name, describe(raw))
        else:
            error = number(found.get(f"{metric}_stderr,{chosen}" if chosen else f"{metric}_stderr"))
            findings.scalar(
                name, value, stderr=error if error is not None and 0 <= error < 1e300 else None, count=count
            )


def _count(samples: Any, task: Any) -> int | None:
    entry = samples.get(task) if isinstance(samples, dict) else None
    effective = entry.get("effective") if isinstance(entry, dict) else None
    return effective if type(effective) is int and 0 < effective < 2**53 else None
