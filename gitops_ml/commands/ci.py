"""``gitops-ml ci``: all of it, by what the CI event says.

    gitops-ml ci                                   # in one job: validate, plan, run, compare, report, comment, status
    gitops-ml ci --job plan --out plan             # three jobs: no credentials,
    gitops-ml ci --job run --plan plan --out raw   # the cloud's but no forge token that writes,
    gitops-ml ci --job publish --from raw --digest D     # the forge's, and nothing of the repository is run
    gitops-ml ci --job publish --from-job NAME     # the same on GitLab, where that job's files are fetched by the API
    gitops-ml ci --job pending                     # beside `run`, with the forge's token: say that training began

What was left at work in a cloud for an older head is ended by the new head's job that trains, or by ``reconcile``.

Settings and policy come from the target branch's tip as it is now, never from the change. On another CI than GitHub's
and GitLab's the event is given by options.

Outputs: ``verdict``, ``report-url``, ``comment-url``, ``report-json``, ``cost-usd``; of ``--job plan`` also ``run``
(whether the next job has something to do); of ``--job run`` also ``digest``, and ``going-on`` (how many trainings it
has left at work, see ``--detach``).
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from gitops_ml import ci, markdown, planning
from gitops_ml.acceptance import Acknowledgement
from gitops_ml.baselines import InvalidSpecError
from gitops_ml.ci import COMMANDS_HELP, Event, EventKind, Spend, Steps, Verb, command_in, steps_for
from gitops_ml.commands import _ci_handover, _ci_publish
from gitops_ml.commands._ci_console import Console
from gitops_ml.commands._ci_detach import Detach, at_work, job_limit_s, to_be_left
from gitops_ml.commands._ci_identity import kept_fresh, refuse_beside_training
from gitops_ml.commands._ci_places import (
    NotHereError,
    asked_at,
    end_all,
    of_change,
    place_of,
    places,
    unwanted_after_all,
)
from gitops_ml.commands._ci_plan import Planned, Target, decided_lines, plan_change, settled, target_project
from gitops_ml.commands._ci_reconcile import NO_RESULT, Part, reconcile
from gitops_ml.commands._jobs import Known, backend_names, known_jobs
from gitops_ml.commands._noise import noise
from gitops_ml.commands._predictions import predictions
from gitops_ml.commands.compare import acknowledgements
from gitops_ml.commands.run import carry_out
from gitops_ml.commands.validate import findings_at
from gitops_ml.comparison import Comparison, GateResult, compare
from gitops_ml.diagnostics import Severity
from gitops_ml.errors import DeniedError, ExitCode, ServiceError, UserError, worst
from gitops_ml.forges.base import Forge, State
from gitops_ml.handover import Writer, live_in, take
from gitops_ml.planning import Plan, Relation
from gitops_ml.policy import PERMISSIONS, Approval, Ruling, objection_to, policy_from
from gitops_ml.records import Origin, Record, json_bytes, json_document
from gitops_ml.tools import Tools

_JOBS = ("all", "plan", "pending", "run", "publish")
_ROUNDS = 3
_LONGEST_RUN = timedelta(days=35)
"""A run of GitHub's takes no longer, with all that it waits for."""
_CANCEL = (
    "what trains for this change and for nobody else is ended, also what was left at work in a cloud; what it has cost "
    "is told by the next `gitops-ml reconcile`"
)
MAX_PLAN_BYTES = 64 * 2**20
_CANCELLED = "cancelled before there was a result; push again, or comment /gitops-ml run"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--job", choices=_JOBS, default="all", help="which part (all)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="leave the plan or what is handed over in DIR")
    parser.add_argument("--plan", metavar="DIR", type=Path, help="run: what `--job plan --out DIR` left")
    handed_over = parser.add_mutually_exclusive_group()
    handed_over.add_argument("--from", dest="source", metavar="DIR", type=Path, help="publish: what `--job run` left")
    handed_over.add_argument(
        "--from-job",
        metavar="NAME",
        help=f"publish, on GitLab: fetch what this job of the pipeline left, `{_ci_handover.FOLDER}` and "
        f"`{_ci_handover.DOTENV}` with its `--dotenv`; if it left nothing, nobody has approved anything",
    )
    parser.add_argument("--digest", metavar="SHA256", help="publish: the `digest` that `--job run` said itself")
    parser.add_argument(
        "--cancelled",
        action="store_true",
        help="publish: the job that trained was cancelled; keep what it left, end what is pending, say no more",
    )
    parser.add_argument("--forge", metavar="NAME", help="github, gitlab or local (default: the CI's, else local)")
    parser.add_argument("--remote", default="origin", help="where the target branch is (default: origin)")
    parser.add_argument("--id", dest="identity", default="default", help="keeps several comments apart")
    parser.add_argument("--report-url", metavar="URL", help="where the full report stands (default: on the ledger)")
    parser.add_argument("--jobs", type=int, metavar="N", help="train at most N at a time (default: what fits)")
    parser.add_argument(
        "--detach",
        choices=[str(how) for how in Detach],
        default=str(Detach.AUTO),
        help="leave trainings of a cloud at work and end, `reconcile` brings the results: `auto` (default) where "
        "`budget.max_duration` may exceed the job's limit",
    )
    parser.add_argument(
        "--job-limit",
        type=int,
        metavar="MINUTES",
        help="after which the CI ends this job (default: what GitLab says, else 360)",
    )
    parser.add_argument("--dotenv", metavar="FILE", type=Path, help="also write the outputs as KEY=value lines")
    parser.add_argument(
        "--approved-by-environment",
        action="store_true",
        help="this job runs in a protected environment, whose reviewers have approved it",
    )
    event = parser.add_argument_group("the event, where the CI's variables do not say it")
    event.add_argument("--event", choices=[str(kind) for kind in EventKind])
    event.add_argument("--head", metavar="COMMIT", help="the commit that was pushed")
    event.add_argument("--target", metavar="BRANCH", help="where the change wants to go (default: main)")
    event.add_argument("--branch", metavar="BRANCH", help="the branch that was pushed")
    event.add_argument("--before", metavar="COMMIT", help="where the branch stood before the push")
    event.add_argument("--change", metavar="N", type=int, help="number of the pull or merge request")
    event.add_argument("--fork", action=argparse.BooleanOptionalAction, help="whether the change comes from a fork")
    event.add_argument("--draft", action="store_true", default=None)
    event.add_argument("--comment", metavar="TEXT", help="the comment's text")
    event.add_argument("--author", metavar="NAME", help="who wrote the comment or put on the label")
    event.add_argument("--label", metavar="NAME")


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Do what the event asks for."""
    console = Console(tools=tools, dotenv=tools.cwd / args.dotenv if args.dotenv else None)
    try:
        with kept_fresh(tools.environ, tools.note), contextlib.ExitStack() as until_done:
            return Flow(args, tools, console, until_done).run()
    except InvalidSpecError as error:
        console.annotate(error.diagnostics)
        console.outputs({"verdict": "invalid"})
        return error.exit_code


def event_for(args: argparse.Namespace, tools: Tools) -> Event:
    """Return the event of the CI's variables, with what the options say instead.

    Raises:
        UserError: neither says what happened.
    """
    found = ci.event(tools.environ)
    if found is None:
        if args.event is None:
            raise UserError(
                "this is no CI that gitops-ml knows; say what happened, such as `--event change --head SHA --no-fork`"
            )
        _refuse_half_an_event(args)
        found = Event(kind=EventKind(args.event), target="main")
    given = {
        name: value
        for name in ("head", "target", "branch", "before", "change", "fork", "draft", "comment", "author", "label")
        if (value := getattr(args, name)) is not None
    }
    if args.event is not None:
        given["kind"] = EventKind(args.event)
    for name in ("head", "before"):
        if name in given:
            given[name] = tools.repository.resolve(given[name]) or given[name]
    return dataclasses.replace(found, **given)


# What has to be said of an event where no CI says it; without, something else would be meant by it.
_TO_SAY: Mapping[EventKind, Mapping[str, str]] = {
    EventKind.PUSH: {"head": "COMMIT", "branch": "BRANCH"},
    EventKind.CHANGE: {"head": "COMMIT"},
    EventKind.LABEL: {"head": "COMMIT", "label": "NAME", "author": "NAME"},
    EventKind.COMMENT: {"change": "N", "comment": "TEXT", "author": "NAME"},
    EventKind.AFTER_RUN: {"head": "COMMIT"},
}


def _refuse_half_an_event(args: argparse.Namespace) -> None:
    kind = EventKind(args.event)
    missing = [f"`--{name} {what}`" for name, what in _TO_SAY.get(kind, {}).items() if getattr(args, name) is None]
    if missing:
        raise UserError(f"this is no CI that gitops-ml knows, so `--event {kind}` needs {', '.join(missing)}")


class Flow:
    """One event on its way through the jobs."""

    def __init__(
        self,
        args: argparse.Namespace,
        tools: Tools,
        console: Console,
        until_done: contextlib.ExitStack,
    ) -> None:
        """``until_done``: what is to be removed at the end."""
        self._args = args
        self._until_done = until_done
        self._tools = tools
        self._console = console
        self._job: str = args.job
        context = ci.context(tools.environ)
        self._context = context
        self._forge_name = args.forge or (context.kind.value if context else "local")
        self.local = self._forge_name == "local"
        self._forge: Forge | None = None
        self._live: set[str] = set()
        """Keys of jobs that were left at work."""
        self.origin = Origin(kind="ci", run_url=context.run_url if context else None)
        self._outputs: dict[str, str] = {"verdict": "nothing", "cost-usd": "0"}

    def run(self) -> int:
        event = self._resolved(event_for(self._args, self._tools))
        self.origin = dataclasses.replace(self.origin, change=event.change)
        steps = steps_for(event, ledger_branch="gitops-ml/reports")
        self._tools.say(steps.why)
        code: int = ExitCode.OK
        if steps.help:
            code = self._help(event, steps)
        elif event.head is None and not steps.nothing and not steps.reconcile:
            raise UserError(f"the event {event.name or event.kind} names no commit; `--head` does")
        elif steps.reconcile:
            code = self._reconcile(event)
        elif steps.cancel and self._job in ("plan", "publish"):
            self._cancel_elsewhere(event)
        elif not steps.nothing:
            if not steps.cancel:
                self.prepare(event)
            try:
                code = self._cancel(event) if steps.cancel else self._go(event, steps)
            except UserError as error:
                self._end_pending(event, NO_RESULT)
                self._console.summary(f"- {markdown.prose(str(error))}\n")
                if isinstance(error, DeniedError):
                    self._outputs["verdict"] = "denied"
                    self._console.outputs(self._outputs)
                if not isinstance(error, ServiceError):
                    self._answer(event, str(error)[:2000])
                raise
        self._console.outputs(self._outputs)
        return code

    def _reconcile(self, event: Event) -> int:
        """Do on schedule what ``reconcile`` does, in as many jobs as everything else."""
        part = {"all": Part.ALL, "run": Part.COLLECT, "publish": Part.PUBLISH}.get(self._job)
        if part is not None:
            self._fetch()
            code, outputs = reconcile(self, self._args, self._tools, default=event.default or "main", part=part)
            self._outputs |= outputs
            return code
        if self._job == "plan":
            self._outputs["run"] = json.dumps(any(name != "local" for name in backend_names(self._tools)))
            if self._args.out:
                document = {"schema": "gitops-ml/ci-plan/v1", "keys": []}
                _ci_publish.write(self._tools.cwd / self._args.out / "plan.json", json_bytes(document))
        return ExitCode.OK

    def forge(self) -> Forge:
        if self._forge is None:
            self._forge = self._tools.forge(self._forge_name)
        return self._forge

    # Before

    def _fetch(self) -> None:
        """Fetch what the job that trained has left, if it was named, and go on as if it lay here."""
        if self._job != "publish" or self._args.from_job is None:
            return
        folder = self._until_done.enter_context(tempfile.TemporaryDirectory(prefix="gitops-ml-"))
        found = _ci_handover.fetched(self.forge(), self._args.from_job, Path(folder), self._tools.note)
        source, digest = found or (None, None)
        # Its environment's reviewers approved what it trained: nothing, if it did not come so far.
        approved = self._args.approved_by_environment and found is not None
        given = {**vars(self._args), "source": source, "digest": digest, "approved_by_environment": approved}
        self._args = argparse.Namespace(**given)

    def _resolved(self, event: Event) -> Event:
        """Ask the forge for what the event does not say."""
        if event.kind is EventKind.COMMENT and event.change is not None:
            command = command_in(event.comment)
            if command is None or command.verb is Verb.HELP:
                return event
            change = self.forge().change(0 if self.local else event.change)
        elif event.kind is EventKind.AFTER_RUN and event.head is not None:
            found = self.forge().change_for(event.head)
            if found is None:
                return Event(kind=EventKind.OTHER, name=f"{event.name}: no open change has this head any more")
            change = found
        else:
            return event
        if not change.open:
            return Event(kind=EventKind.OTHER, name=f"{event.name}: the change is closed")
        return of_change(event, change)

    def prepare(self, event: Event) -> None:
        """Bring the head's objects here, and take the target's settings in place of the work tree's."""
        tools, repository = self._tools, self._tools.repository
        assert event.head is not None
        if repository.resolve(event.head) is None:
            ref = f"refs/pull/{event.change}/head" if self._forge_name == "github" and event.change else None
            ref = f"refs/merge-requests/{event.change}/head" if self._forge_name == "gitlab" and event.change else ref
            if ref is None and event.branch is not None and event.fork is False:
                ref = f"refs/heads/{event.branch}"
            if ref is None or repository.fetch(self._args.remote, ref, whole=True) != event.head:
                raise NotHereError(
                    f"the commit {event.head[:12]} is not here; check it out with its history (fetch-depth: 0)"
                )
        found = [one for one in findings_at(event.head, tools) if one.severity is Severity.ERROR]
        if found:
            raise InvalidSpecError(found)
        target = event.target or "main"
        self._tip, project = target_project(target, event.head, tools, remote=self._args.remote)
        if event.default not in (None, target):
            # Whoever may push a branch may make one with a policy of their own, and open a change to that.
            _, project = target_project(event.default, event.head, tools, remote=self._args.remote)
        tools.project = project

    def _approval(self, event: Event) -> tuple[Approval | None, tuple[str, ...]]:
        """Return the approval that the event is, with the experiments that it names."""
        assert event.head is not None
        if event.kind is EventKind.COMMENT:
            command = command_in(event.comment)
            assert command is not None
            if command.verb not in (Verb.RUN, Verb.RERUN):
                return None, command.experiments
            sha = command.sha or self._told(event)
            if sha is None:
                raise DeniedError(
                    f"the command names no commit, and there is no plan that it could mean; to train what stands there "
                    f"now comment `/gitops-ml {command.verb} --sha {event.head}`"
                )
            return self._by(event, "command", sha, command.experiments), command.experiments
        if event.kind is EventKind.LABEL:
            return self._by(event, "label", event.head, ()), ()
        if self._args.approved_by_environment:
            return Approval(how="environment", head=event.head), ()
        return None, ()

    def _told(self, event: Event) -> str | None:
        """Return the commit of our last comment, which is what the command's author looked at.

        A comment that a later run than this one wrote is not: then the change was pushed to after the command.
        """
        assert event.change is not None
        number = 0 if self.local else event.change
        told = self.forge().told(number, marker=markdown.marker(self._args.identity))
        if told is None or (self._context is not None and told.run_id > self._context.run_id > 0):
            return None
        return told.commit

    def _by(self, event: Event, how: str, head: str, experiments: tuple[str, ...]) -> Approval:
        permission = self.forge().permission(event.author).name.lower() if event.author else "none"
        return Approval(how=how, by=event.author, permission=permission, head=head, experiments=experiments)

    # The steps

    def _help(self, event: Event, steps: Steps) -> int:
        self._tools.say(COMMANDS_HELP)
        self._answer(event, steps.why)
        return ExitCode.OK

    def _answer(self, event: Event, text: str) -> None:
        """Answer a command or a label in one comment of its own, which the next answer replaces."""
        if (
            event.kind not in (EventKind.COMMENT, EventKind.LABEL)
            or event.change is None
            or self._job not in ("all", "publish")
        ):
            return
        marker = markdown.marker(f"{self._args.identity}.answer")
        body = f"{marker}\n{markdown.prose(text)}\n\n{markdown.fence(COMMANDS_HELP.splitlines())}\n"
        number = 0 if self.local else event.change
        self.forge().upsert_comment(number, marker=marker, body=body)

    def _cancel(self, event: Event) -> int:
        """End what is at work for this change alone, at whatever head, and left at work or not."""
        names = self._names_to_cancel(event)
        everywhere = self._places(event)
        self.prepare(next(everywhere))
        live = {
            known.job.key: known
            for known in known_jobs(self._tools)
            if not known.status.state.final and (not names or known.job.experiment in names)
        }
        ours = self._ours(event, live)
        gone = self._ended(event, {key: live[key] for key in ours})
        self._tools.say(f"{len(gone)} training{'' if len(gone) == 1 else 's'} ended")
        return ExitCode.OK

    def _ours(self, event: Event, live: Mapping[str, Known]) -> Collection[str]:
        """Return those jobs that were asked for by the change, or are in its plan, whoever started them."""
        if not live:
            return ()
        self._tools.results.refresh()
        try:
            planned = place_of(self, event).keys
        except NotHereError:  # what was asked for by its number is found all the same
            planned = frozenset()
        asked = {key for key, one in live.items() if one.status.asked and one.status.asked.change == event.change}
        return (planned | asked) & live.keys()

    def _end_older(self, event: Event, planned: Planned) -> None:
        """End what was left at work for an earlier head of the change."""
        if event.change is None or not any(self._tools.backend(name).far for name in backend_names(self._tools)):
            return
        keys = planned.plan.keys()
        older = {
            known.job.key: known
            for known in known_jobs(self._tools)
            if not known.status.state.final
            and known.status.asked is not None
            and known.status.asked.change == event.change
            and known.status.asked.head != event.head
            and known.job.key not in keys
        }
        before = self._tip, self._tools.project
        try:
            gone = self._ended(event, older)
        except UserError as error:
            # That keeps nobody from training; `reconcile` comes by.
            self._tools.note(f"what was left at work for an earlier head was not ended: {error}")
            return
        finally:
            self._tip, self._tools.project = before
        if gone:
            self._tools.say(f"{len(gone)} training{'' if len(gone) == 1 else 's'} of an earlier head ended")

    def _ended(self, event: Event, jobs: Mapping[str, Known]) -> Collection[str]:
        """End those of the change's jobs that no place wants, and return their keys.

        What became of them is kept by `reconcile`: it waits until their machines are gone. Where the change stands now
        is a place too, because this event may be an old one; but not when a command asks for the end.
        """
        if not jobs:
            return ()
        asked = {key: known.status.asked or asked_at(event) for key, known in jobs.items()}
        if event.kind is EventKind.COMMENT:
            asked = dict.fromkeys(jobs, dataclasses.replace(asked_at(event), head=""))
        ours = {key: dataclasses.replace(one, change=event.change) for key, one in asked.items()}

        def look() -> list[Event]:
            everywhere = self._places(event)
            mine = event.kind is EventKind.COMMENT
            return [one for one in everywhere if not mine or one.kind is EventKind.SCHEDULE or _other(one, event)]

        gone = unwanted_after_all(self, ours, look(), look)
        failed = end_all([jobs[key] for key in gone])
        for error in failed.values():
            raise error
        return gone

    def _places(self, event: Event) -> Iterator[Event]:
        if self.local:  # whose one change is this one
            return itertools.islice(places(self, self._args, self._tools, default=event.default or "main"), 1)
        return places(self, self._args, self._tools, default=event.default or "main", without_forge=True)

    def _names_to_cancel(self, event: Event) -> tuple[str, ...]:
        """Return the experiments that a command names, none for all, if its author may cancel."""
        command = command_in(event.comment) if event.kind is EventKind.COMMENT else None
        if command is None:
            return ()
        asker = self._by(event, "command", event.head or "", command.experiments)
        if asker.permission not in PERMISSIONS[PERMISSIONS.index("write") :]:
            raise DeniedError(f"`{event.author}` may not cancel: it takes write permission")
        return command.experiments

    def _cancel_elsewhere(self, event: Event) -> None:
        """Say whether the job that trains is to be ended: of that this one sees nothing, on a runner or in a cloud."""
        try:
            if self._names_to_cancel(event):
                raise DeniedError("jobs of their own train all experiments of a change: `/gitops-ml cancel` ends all")
        except DeniedError as error:
            self._answer(event, str(error))
            raise
        self._outputs["end"] = "true"
        if event.kind is EventKind.COMMENT:
            self._answer(event, _CANCEL)

    def plan(
        self, event: Event, steps: Steps, approval: Approval | None, names: Sequence[str]
    ) -> tuple[Target, Planned]:
        return plan_change(
            event,
            steps,
            (event.target or "main", self._tip),
            self._tools,
            approval=approval,
            names=names,
            count_jobs=self._job in ("all", "run"),
        )

    def _go(self, event: Event, steps: Steps) -> int:
        tools = self._tools
        self._fetch()
        approval, names = self._approval(event)
        policy = policy_from(tools.project.policy)
        if approval is not None and (objection := objection_to(approval, event.head or "", policy)):
            # Not even what is free: a stranger could have it trained again and again, until chance lets a gate pass.
            raise DeniedError(objection)
        with self._console.group("Plan"):
            tools.results.refresh()
            target, planned = self.plan(event, steps, approval, names)
            tools.say(markdown.plan_text(planned.held).rstrip())
            for line in decided_lines(planned):
                tools.say(line)
        self._console.summary(markdown.plan_table(planned.held) + _listed(decided_lines(planned)))
        if self._job == "plan":
            return self._leave_plan(target, planned, steps)
        if self._job == "pending":
            return self._set_pending(event, steps, planned)
        codes: list[int] = [] if steps.run is Spend.NEVER else [planned.decision.exit_code]
        costs: list[float] = []
        if self._job in ("all", "run") and steps.run is not Spend.NEVER:
            if self._job == "run":
                self._bound(target, planned)
            else:
                self._set_pending(event, steps, planned)
            self._end_older(event, planned)
            trained, planned, costs = self._train(event, steps, approval, names, planned)
            planned = at_work(planned, self._live, tools.project.backend)
            codes.append(trained)
            if trained == ExitCode.INTERRUPTED and self._job == "all":
                return self._interrupted(event, costs, planned)
        if self._job == "run":
            self._outputs |= {"verdict": _word(planned, None, codes), "cost-usd": f"{sum(costs):.4f}"}
            return worst(*codes)
        if self._job == "publish" and self._args.source is not None:
            if steps.run is Spend.NEVER:
                # Such as what a fork's run left: whoever wrote the change wrote these files and their digest too.
                raise DeniedError(f"`--from`: nothing was to be trained here ({steps.why}), so no results are taken")
            planned, costs = self._take(event, steps, approval, names, planned)
            planned = at_work(planned, self._live, tools.project.backend)
        if self._args.cancelled:
            self._interrupted(event, costs, planned)
            return ExitCode.OK  # of this job, whose part is done
        comparison = self.compare(planned)
        if comparison.gate is GateResult.FAIL:
            codes.append(ExitCode.FINDINGS)
        if event.kind is EventKind.MERGE_QUEUE and planned.decision.names(Ruling.LEAVE):
            codes.append(ExitCode.DENIED)
        published = self.publish(event, steps, planned, comparison)
        self._outputs |= published | {
            "verdict": _word(planned, comparison, codes),
            "cost-usd": f"{sum(costs):.4f}",
        }
        return worst(*codes)

    def publish(self, event: Event, steps: Steps, planned: Planned, comparison: Comparison) -> dict[str, str]:
        """Report, comment and set statuses, and return the outputs."""
        return _ci_publish.publish(
            _ci_publish.Publication(
                event=event,
                steps=steps,
                planned=planned,
                comparison=comparison,
                identity=self._args.identity,
                report_url=self._args.report_url,
                local=self.local,
                context=self._context,
            ),
            self._tools,
            self._console,
            self.forge,
        )

    def _interrupted(self, event: Event, costs: Sequence[float], planned: Planned) -> int:
        """Keep what was paid for, and say nothing about it: the job was cancelled, or a newer head took its place.

        What was left at work stays pending; `reconcile` has the last word.
        """
        self._outputs |= {"verdict": "interrupted", "cost-usd": f"{sum(costs):.4f}"}
        self._tools.results.push(f"Keep what was trained at {(event.head or '')[:12]} until it was cancelled")
        self._end_pending(event, _CANCELLED, but=planned.decision.names(Ruling.AT_WORK))
        return ExitCode.INTERRUPTED

    # What is shown while it trains

    def _set_pending(self, event: Event, steps: Steps, planned: Planned) -> int:
        """Set the statuses of what is about to be trained, linked to this run: by that it is known when it is over."""
        if not steps.status or event.head is None:
            return ExitCode.OK
        names = [entry.name for entry in planned.decision.experiments if entry.ruling is Ruling.TRAIN]
        trials = {entry.name: entry.trials for entry in planned.decision.experiments}
        try:
            for name in names:
                text = f"training: {trials[name]} trial{'' if trials[name] == 1 else 's'}"
                self.forge().set_status(
                    event.head, context=f"gitops-ml/{name}", state=State.PENDING, text=text, url=self._run_url
                )
        except ServiceError as error:
            self._tools.note(f"the status could not be set to pending: {error}")
        self._outputs["verdict"] = "training" if names else _word(planned, None, [])
        return ExitCode.OK

    def _end_pending(self, event: Event, text: str, *, but: Collection[str] = ()) -> None:
        """Leave no status pending that this run has set and that nothing will ever answer."""
        if self._job not in ("all", "publish") or event.head is None or self._run_url is None:
            return
        try:
            for context, standing in self.forge().statuses(event.head).items():
                ours = standing.state is State.PENDING and standing.url == self._run_url
                if ours and context.startswith("gitops-ml/") and context.removeprefix("gitops-ml/") not in but:
                    self.forge().set_status(
                        event.head, context=context, state=State.ERROR, text=text, url=self._run_url
                    )
        except ServiceError as error:
            self._tools.note(f"what is pending could not be ended: {error}")

    @property
    def _run_url(self) -> str | None:
        return self._context.whole_run_url if self._context else None

    # Three jobs

    def _leave_plan(self, target: Target, planned: Planned, steps: Steps) -> int:
        train, wait = planned.decision.names(Ruling.TRAIN), planned.decision.names(Ruling.WAIT)
        # The next job's environment asks its reviewers; it is started for what only waits for them.
        wanted = bool(train) or (bool(wait) and self._args.approved_by_environment)
        if self._args.out:
            document = {
                "schema": "gitops-ml/ci-plan/v1",
                "bound": dataclasses.asdict(target.binding),
                "keys": sorted(planned_key.trial.key for planned_key in planned.plan.to_run()),
                "worst_usd": str(_worst(planned.plan)),
                "unpriced": sorted(p.trial.key for p in planned.plan.to_run() if not p.estimate.source),
                "plan": planning.plan_to_json(planned.held),
            }
            _ci_publish.write(self._tools.cwd / self._args.out / "plan.json", json_bytes(document))
        code = ExitCode.OK if steps.run is Spend.NEVER else planned.decision.exit_code
        if train or wanted:
            code = ExitCode.OK  # the jobs that follow say what was left
        self._outputs |= {"verdict": _word(planned, None, [code]), "run": json.dumps(wanted)}
        return code

    def _bound(self, target: Target, planned: Planned) -> None:
        """Hold what is about to be trained to the plan that was shown.

        Raises:
            DeniedError: head, target branch or policy have moved, or it would cost more.
        """
        if self._args.plan is None:
            raise UserError("`--job run` trains what `--job plan --out DIR` left; give it with `--plan DIR`")
        file = self._tools.cwd / self._args.plan / "plan.json"
        try:
            if file.stat().st_size > MAX_PLAN_BYTES:
                raise UserError(f"{file} is larger than {MAX_PLAN_BYTES} bytes")
            document = json_document(file.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from error
        now = dataclasses.asdict(target.binding)
        bound: Any = document.get("bound")
        moved = [name for name in now if not isinstance(bound, dict) or bound.get(name) != now[name]]
        if moved:
            raise DeniedError(f"the plan is for another {' and '.join(moved)} than there is now; plan again")
        keys: Any = document.get("keys")
        new = {p.trial.key for p in planned.plan.to_run()} - set(keys if isinstance(keys, list) else ())
        if new:
            raise DeniedError(f"{len(new)} trials would be trained that the plan does not name; plan again")
        # Who approved a cost that nobody knew beforehand gets what policy's limits allow, which are looked at anew.
        unpriced: Any = document.get("unpriced")
        unpriced = set(unpriced if isinstance(unpriced, list) else ())
        worst_usd, said_usd = _worst(planned.plan, without=unpriced), _amount(document)
        if worst_usd > said_usd:
            raise DeniedError(
                f"it may cost up to {worst_usd} USD now, and the plan said {said_usd} USD; plan again, and where "
                "prices have risen since this version was made, name today's in the backend's `prices`"
            )

    def _train(
        self, event: Event, steps: Steps, approval: Approval | None, names: Sequence[str], planned: Planned
    ) -> tuple[int, Planned, list[float]]:
        """Train what was decided; a sweep's winner is known only then, so confirming it takes a further round."""
        tools = self._tools
        done: set[str] = set()
        codes: list[int] = []
        costs: list[float] = []
        out = tools.cwd / self._args.out if self._args.out and self._job == "run" else None
        writer = Writer(out) if out is not None else None
        asked = asked_at(event)
        detach, limit_s = Detach(self._args.detach), job_limit_s(self._args.job_limit, tools.environ)
        trials = [p.trial for p in planned.held.to_run()]
        for _ in range(_ROUNDS):
            if not trials:
                break
            here = [t.experiment.name for t in trials if (t.experiment.backend or tools.project.backend) == "local"]
            refuse_beside_training(tools.environ, here)
            done |= {trial.key for trial in trials}
            by_key = {trial.key: trial for trial in trials}

            def hand_over(record: Record, folder: Path, by_key: Any = by_key) -> None:
                if writer is not None:
                    writer.add(by_key[record.key], record, folder)

            away = to_be_left(trials, detach, limit_s=limit_s, jobs=self._args.jobs, tools=tools)
            for left in (True, False):
                some = [trial for trial in trials if (trial.key in away) is left]
                if not some or ExitCode.INTERRUPTED in codes:
                    continue
                options = argparse.Namespace(jobs=self._args.jobs, detach=left, logs=not left)
                with self._console.group("Leave at work" if left else "Train"), self._console.untrusted():
                    summary = carry_out(some, options, tools, hand_over, self.origin, asked=asked)
                self._live |= {trial.key for trial in summary.going_on if left}
                codes.append(summary.exit_code)
                costs += [record.attempt.cost_usd for record in summary.records]
            if ExitCode.INTERRUPTED in codes:
                break
            steps = dataclasses.replace(steps, force=False)
            planned = settled(self.plan(event, steps, approval, names)[1], planned)
            trials = [p.trial for p in planned.held.to_run() if p.trial.key not in done]
            if not any(trial.confirms for trial in trials):
                break
        # Also those that were tried again: they cost money too.
        attempts = [one for of_key in tools.results.attempts(done).values() for one in of_key]
        failed = [attempt for attempt in attempts if attempt.origin == self.origin]
        costs += [attempt.cost_usd for attempt in failed]
        if self._live:
            self._outputs["going-on"] = str(len(self._live))
        if writer is not None:
            self._outputs["digest"] = writer.close(failed, live=sorted(self._live))
        return worst(*codes), planned, costs

    def _take(
        self, event: Event, steps: Steps, approval: Approval | None, names: Sequence[str], planned: Planned
    ) -> tuple[Planned, list[float]]:
        """Make records of what the training job handed over, in as many rounds as it trained."""
        if not self._args.digest:
            raise UserError("`--from` needs `--digest`: what the job that trained said itself, not what lies beside it")
        folder = self._tools.cwd / self._args.source
        done: set[str] = set()
        costs: list[float] = []
        for number in range(1, _ROUNDS + 1):
            trials = [p.trial for p in planned.plan.to_run()]
            last = number == _ROUNDS
            taken = take(
                folder,
                self._args.digest,
                trials,
                self.origin,
                now=self._tools.now(),
                since=event.at or self._tools.now() - _LONGEST_RUN,
                done=done,
                all_of=last,
            )
            self._tools.results.keep(taken.files)
            done |= {*taken.records, *(attempt.key for attempt in taken.failed)}
            costs += taken.costs_usd
            steps = dataclasses.replace(steps, force=False)
            planned = settled(self.plan(event, steps, approval, names)[1], planned)
            if not taken.left:
                break
        self._live = set(live_in(folder, self._args.digest))
        self._tools.say(f"{len(done)} results taken of what was handed over")
        return planned, costs

    # Comparing

    def compare(self, planned: Planned) -> Comparison:
        """Compare what was to be trained and is; what only waits has no verdict yet."""
        tools = self._tools
        left = {e.name for e in planned.decision.experiments if e.ruling is not Ruling.TRAIN}
        plan = _without(planned.held, left)
        keys = plan.keys()
        records = {key: one for key, one in tools.results.records(keys).items() if one.attempt.origin.kind == "ci"}
        accepted: Sequence[Acknowledgement] = acknowledgements(plan.head, tools)
        return compare(
            plan,
            records,
            tools.results.attempts(keys),
            acknowledgements=accepted,
            noise=noise(plan, records, tools, rules=planned.rules, only_ci=True),
            rules=planned.rules,
            predictions=predictions(plan, records, tools),
            today=tools.now().date(),
        )


def _other(place: Event, event: Event) -> bool:
    """Say whether a place is another than the event's; a branch's has no number."""
    return place.branch != event.branch if place.change is None else place.change != event.change


def _without(plan: Plan, names: set[str]) -> Plan:
    kept = tuple(e for e in plan.experiments if e.experiment.name not in names or e.relation is Relation.SAME)
    return dataclasses.replace(plan, experiments=kept)


def _word(planned: Planned, comparison: Comparison | None, codes: Sequence[int]) -> str:
    """Return the verdict in one word."""
    code = worst(*codes)
    words = {
        ExitCode.INTERRUPTED: "interrupted",
        ExitCode.DENIED: "denied",
        ExitCode.SERVICE: "service",
        ExitCode.TRIAL_FAILED: "failed",
        ExitCode.FINDINGS: "fail",
    }
    if code in words:
        return words[code]
    if planned.decision.names(Ruling.AT_WORK) and (comparison is None or not comparison.experiments):
        return "training"
    if comparison is None or not comparison.experiments:
        return "planned" if planned.decision.experiments else "nothing"
    return str(comparison.gate)


def _worst(plan: Plan, *, without: Collection[str] = ()) -> Decimal:
    return sum((p.estimate.worst_usd for p in plan.to_run() if p.trial.key not in without), Decimal(0))


def _amount(document: Any) -> Decimal:
    try:
        return Decimal(str(document.get("worst_usd")))
    except ArithmeticError as error:
        raise UserError("the plan's `worst_usd` is no amount") from error


def _listed(lines: Iterable[str]) -> str:
    return "".join(f"- {markdown.prose(line)}\n" for line in lines)
