"""What ``ci`` leaves behind: the report on the ledger, the comment, the statuses, files for later jobs."""

from collections.abc import Callable, Iterator
from pathlib import Path

from gitops_ml import markdown, reports
from gitops_ml.ci import CIContext, CIKind, Event, EventKind, Steps
from gitops_ml.commands._ci_console import MAX_SUMMARY_BYTES, Console
from gitops_ml.commands._ci_plan import Planned, decided_lines
from gitops_ml.commands.comment import ledger_tree, publish_images, set_statuses
from gitops_ml.commands.report import folder_for, matrices_of, push
from gitops_ml.comparison import Comparison
from gitops_ml.comparison_json import comparison_to_json
from gitops_ml.errors import ServiceError, UserError
from gitops_ml.forges.base import Forge, State
from gitops_ml.policy import Ruling
from gitops_ml.records import json_bytes
from gitops_ml.tools import Tools
from gitops_ml.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Everything that is to be said about an event."""

    event: Event
    steps: Steps
    planned: Planned
    comparison: Comparison
    identity: str
    report_url: str | None
    local: bool
    context: CIContext | None

    @property
    def run_url(self) -> str | None:
        """The page of this run, by which it is known when it is over."""
        return self.context.whole_run_url if self.context else None


def publish(what: Publication, tools: Tools, console: Console, forge: Callable[[], Forge]) -> dict[str, str]:
    """Report, comment and set statuses as the steps say, and return the step's outputs.

    What the forge refuses is said and stays in the job summary: it never changes the verdict.
    """
    outputs: dict[str, str] = {}
    url = what.report_url
    if what.steps.report:
        with console.group("Report"):
            written = tools.repository.state / "comparison.json"
            write(written, json_bytes(comparison_to_json(what.comparison, curves=True)))
            outputs["report-json"] = str(written)
            for experiment in what.comparison.experiments:
                folder = folder_for(experiment)
                files = reports.build(experiment, matrices_of(experiment, tools))
                tools.results.keep({f"{folder}/{name}": content for name, content in files.items()})
            pushed = push(what.comparison, tools)
            url = url or _on_ledger(what, pushed)
    if url:
        outputs["report-url"] = url
    console.summary(markdown.summary(what.comparison, report_url=url, budget_bytes=MAX_SUMMARY_BYTES // 2))
    failures = []
    if what.steps.comment and what.event.change is not None:
        try:
            outputs["comment-url"] = _comment(what, tools, forge(), url)
        except ServiceError as error:
            failures.append(f"the comment could not be posted: {error}")
    if what.steps.status:
        try:
            set_statuses(what.comparison, forge(), url)
            _other_statuses(what, forge(), url)
        except ServiceError as error:
            failures.append(f"the status could not be set: {error}")
    for failure in failures:
        tools.note(failure)
    console.summary("".join(f"- {markdown.prose(failure)}\n" for failure in failures))
    return outputs


def _comment(what: Publication, tools: Tools, forge: Forge, url: str | None) -> str:
    marker = markdown.marker(what.identity)
    lines = list(decided_lines(what.planned))
    shown = [f"- {markdown.prose(line)}" for line in lines[:20]]
    if what.run_url and what.planned.decision.names(Ruling.AT_WORK):
        shown.append(f"- [the run that started them]({what.run_url})")
    if len(lines) > 20:
        shown.append(f"- and {len(lines) - 20} more, in the job's log")
    first = "\n".join(shown) + "\n\n" if shown else ""
    if not what.comparison.experiments:
        first += f"{markdown.prose(what.steps.why)}\n\n"
        plan = markdown.plan_table(what.planned.held)
        first += plan if len(plan.encode()) <= 20_000 else "The plan is too long to be shown here.\n"
        first += "\n"
    assert what.event.change is not None
    limit = min(markdown.COMMENT_BYTES, forge.max_comment_bytes) - len(first.encode())
    if what.comparison.experiments:
        matrices = {e.name: matrices_of(e, tools) for e in what.comparison.experiments}
        images = publish_images(
            what.comparison,
            forge,
            matrices,
            how=tools.project.images,
            ledger=None if what.local else ledger_tree(tools),
        )
        rest = markdown.summary(what.comparison, images=images, report_url=url, budget_bytes=limit - len(marker) - 1)
    else:
        rest = ""
    # The local forge has one change, whatever number the CI knows.
    number = 0 if what.local else what.event.change
    body = f"{marker}\n{first}{rest}"
    reference = forge.upsert_comment(number, marker=marker, body=body, commit=what.comparison.head.commit)
    tools.say(f"comment {reference.action}: {reference.url}")
    return reference.url


def _other_statuses(what: Publication, forge: Forge, url: str | None) -> None:
    """Set the statuses of experiments that were not compared, so that a required one is never left open."""
    for name, state, text in _states(what):
        forge.set_status(what.comparison.head.commit, context=f"gitops-ml/{name}", state=state, text=text, url=url)
    for entry in what.planned.decision.experiments:
        if entry.ruling is Ruling.AT_WORK:
            context, text = f"gitops-ml/{entry.name}", "; ".join(entry.reasons)
            forge.set_status(
                what.comparison.head.commit, context=context, state=State.PENDING, text=text, url=what.run_url
            )


def _states(what: Publication) -> Iterator[tuple[str, State, str]]:
    waits = {
        Ruling.WAIT: (State.PENDING, "waits for an approval"),
        Ruling.REFUSE: (State.FAILURE, "refused by policy"),
        Ruling.LEAVE: (State.PENDING, "planned, not trained"),
    }
    if what.event.kind is EventKind.MERGE_QUEUE:
        waits[Ruling.LEAVE] = (State.FAILURE, "no result for this content: update the change and train it")
    for entry in what.planned.decision.experiments:
        if entry.ruling in waits:
            yield entry.name, *waits[entry.ruling]


def _on_ledger(what: Publication, commit: str | None) -> str | None:
    """Return where the report stands on the forge, by the ledger's commit: a branch's link goes stale."""
    context = what.context
    if context is None or commit is None or not what.comparison.experiments:
        return None
    page = f"{folder_for(what.comparison.experiments[0])}/report.md"
    if len(what.comparison.experiments) > 1:
        page = "README.md"
    inside = "blob" if context.kind is CIKind.GITHUB else "-/blob"
    return f"{context.server_url}/{context.repository}/{inside}/{commit}/{page}"


def write(file: Path, content: bytes) -> None:
    """Write a file, with its folder."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error
