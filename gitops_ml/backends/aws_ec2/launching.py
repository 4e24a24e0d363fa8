"""Ask EC2 for one machine, candidate after candidate, so that whoever dies in between, there is never a second one.

One process at a time asks for an attempt's machine: the one whose turn it is. A turn goes once through the candidates
of the lease and writes down each refusal before it sends the next request. So whoever takes the next turn knows the
one request whose answer may have been lost, and repeats that first: under the same token EC2 answers with the same
machine.
"""

import dataclasses
import random
from collections.abc import Callable

from gitops_ml.agent.objects import Lease
from gitops_ml.backends.aws_ec2.candidates import Candidate, Market
from gitops_ml.backends.aws_ec2.catalog import catalog, family_of
from gitops_ml.backends.aws_ec2.cloud import Cloud, RefusedError, problem
from gitops_ml.backends.aws_ec2.failures import QUOTA_PAGE, QUOTAS, Scope, is_blocked, scope_of
from gitops_ml.backends.aws_ec2.journal import Journal, Try, Turn
from gitops_ml.backends.aws_ec2.leases import terms_of
from gitops_ml.backends.aws_ec2.permissions import Places
from gitops_ml.backends.aws_ec2.requests import run_instances
from gitops_ml.errors import ServiceError, UserError

REPEATS = 6
"""How often a request is sent again that was throttled, or whose answer was lost."""
_PAUSE_S = (2.0, 60.0)
_AGAIN_S = (60.0, 300.0)
_PROPAGATION_S = 60.0
_FIRST_S = 120.0
"""How much longer than ``max_wait`` the first round may take; well within a lease's slack."""
_BEFORE = (Scope.CREDENTIALS, Scope.PERMISSION)
"""What EC2 looks at before the token: such an answer says nothing of the same request sent earlier."""


class NoMachineError(Exception):
    """There is certainly no machine, and asking on does not help; ``error`` says why."""

    def __init__(self, error: UserError) -> None:
        super().__init__(str(error))
        self.error = error


class Launcher:
    """One process's asking for machines."""

    def __init__(
        self,
        cloud: Cloud,
        journal: Journal,
        *,
        places: Places,
        now: Callable[[], float],
        wait: Callable[[float], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._cloud = cloud
        self._journal = journal
        self._places = places
        self._now = now
        self._wait = wait
        self._jitter = jitter

    def ask(self, lease: Lease, user_data: str, turn: Turn, earlier: list[Turn]) -> Turn:
        """Go once through the lease's candidates and return how far it came.

        Args:
            lease: of the attempt.
            user_data: of its machine.
            turn: ours, just taken.
            earlier: those before it.

        Raises:
            NoMachineError: EC2 answers with what no other candidate would help against.
            ServiceError: EC2 or the storage does not answer. The turn stays open.
        """
        candidates = terms_of(lease).candidates
        lost = _unanswered(earlier, candidates)
        order = sorted(range(len(candidates)), key=lambda index: index != lost)
        # What is not offered somewhere will not be an hour later either.
        refused = [
            (candidates[entry.candidate], Scope.OFFER)
            for of_turn in earlier
            for entry in of_turn.tries
            if scope_of(entry.code) is Scope.OFFER
        ]
        # All are asked once, however short the wait: what answers slowly is not what is waited for.
        until = lease.wait_until + (_FIRST_S if turn.number == 1 else 0)
        for index in order:
            candidate = candidates[index]
            if index != lost and any(is_blocked(candidate, other, scope) for other, scope in refused):
                continue
            if self._now() > until or (turn.tries and self._is_cancelled(lease)):
                break
            try:
                started = self._launch(lease, candidate, user_data, turn, lost=index == lost)
            except RefusedError as error:
                turn = self._noted(lease, turn, index, error)
                if error.scope is Scope.SPENT:
                    return turn
                if not error.scope.goes_on:
                    region = self._cloud.region
                    said = problem("ec2:RunInstances", error.code, error.message, region, self._places)
                    raise NoMachineError(said) from error
                refused.append((candidate, error.scope))
                continue
            now = self._now()
            turn = dataclasses.replace(turn, started=started, started_at=now, candidate=index, at=now, closed=True)
            self._journal.keep_turn(lease, turn)
            if self._is_cancelled(lease):
                self._cloud.terminate(started)
            return turn
        self._refuse_small_quota(turn, candidates)
        pause_s = min(_AGAIN_S[1], _AGAIN_S[0] * 1.5 ** (turn.number - 1))
        turn = dataclasses.replace(turn, closed=True, at=self._now(), retry_at=self._now() + pause_s)
        self._journal.keep_turn(lease, turn)
        return turn

    def _launch(self, lease: Lease, candidate: Candidate, user_data: str, turn: Turn, *, lost: bool) -> str:
        """Send the request until there is an answer, and return the machine's id.

        Args:
            lease: of the attempt.
            candidate: what is asked for.
            user_data: of its machine.
            turn: ours.
            lost: an earlier turn may have sent the same request, and its machine be there.

        Raises:
            RefusedError: there is none to be had.
            ServiceError: no answer came; the next turn sends the same request first.
        """
        request = run_instances(lease, candidate, user_data)
        pause_s = _PAUSE_S[0]
        until = self._now() + _PROPAGATION_S
        renewed = False
        for _ in range(REPEATS + 1):
            try:
                return self._cloud.launch(request)
            except RefusedError as error:
                last = error
                if error.scope is Scope.CREDENTIALS and not renewed:
                    # Those of CI last an hour; boto3 gets new ones where it knows how.
                    renewed = True
                    self._cloud.renew()
                    continue
                if error.scope is Scope.SPENT:
                    if (found := self._found(lease)) is not None:
                        return found
                    raise
                if not error.scope.repeats or (error.scope is Scope.NOT_YET and self._now() > until):
                    if lost and error.scope in _BEFORE:
                        break
                    raise
                lost = lost or error.scope is Scope.AMBIGUOUS
            self._wait(pause_s * self._jitter())
            pause_s = min(_PAUSE_S[1], pause_s * 2)
            # A sign that this turn goes on.
            self._journal.keep_turn(lease, dataclasses.replace(turn, at=self._now()))
        if last.scope is Scope.NOT_YET and not lost:
            raise last
        if (found := self._found(lease)) is not None:
            return found
        if last.scope in _BEFORE:
            said = problem("ec2:RunInstances", last.code, last.message, self._cloud.region, self._places)
            hint = f"an earlier request may have started {candidate}; run again: the same one is sent first"
            raise ServiceError(f"{said}\n{hint}", lasting=True)
        raise ServiceError(
            f"EC2 did not answer whether it started {candidate} ({last.code}, asked {REPEATS + 1} times); "
            "run again: the same request is sent first"
        )

    def _found(self, lease: Lease) -> str | None:
        """Return the attempt's machine, found by its tags."""
        for one in self._cloud.instances(lease.repository, [lease.key]):
            if one.is_of(lease) and one.attempt == lease.number and one.live:
                return one.id
        return None

    def _noted(self, lease: Lease, turn: Turn, index: int, error: RefusedError) -> Turn:
        entry = Try(candidate=index, code=error.code, at=self._now())
        turn = dataclasses.replace(
            turn,
            tries=(*turn.tries, entry),
            at=entry.at,
            spent=error.scope is Scope.SPENT,
            closed=not error.scope.goes_on,
        )
        self._journal.keep_turn(lease, turn)
        return turn

    def _is_cancelled(self, lease: Lease) -> bool:
        return self._journal.get(self._journal.name(lease, "cancel.json")) is not None

    def _refuse_small_quota(self, turn: Turn, candidates: tuple[Candidate, ...]) -> None:
        """Refuse what the account's quotas never allow, instead of waiting for it.

        Raises:
            NoMachineError: each candidate was kept out by a quota that is smaller than the machine.
        """
        by_quota = [entry for entry in turn.tries if scope_of(entry.code) in (Scope.QUOTA, Scope.SPOT_QUOTA)]
        if not by_quota or len(by_quota) < len(turn.tries):
            return
        lines = []
        for entry in by_quota:
            candidate = candidates[entry.candidate]
            line = self._too_small(candidate)
            if line is None:
                return
            lines.append(line)
        raise NoMachineError(UserError("\n".join(dict.fromkeys(lines))))

    def _too_small(self, candidate: Candidate) -> str | None:
        """Say that a quota is smaller than the machine; None: it is not, or is not known."""
        family, market = family_of(candidate.instance_type), candidate.market
        known = catalog().get(candidate.instance_type)
        allowed = self._cloud.quota(family, market)
        if known is None or allowed is None or allowed >= known.vcpus:
            return None
        page = QUOTA_PAGE.format(region=self._cloud.region, service="ec2")
        kind = "spot" if market is Market.SPOT else "on-demand"
        return (
            f"the account's quota of {kind} {family} machines in {self._cloud.region} is {allowed:g} vCPUs, and "
            f"{candidate.instance_type} has {known.vcpus}; ask for {known.vcpus} vCPUs or more at "
            f"{page}/{QUOTAS[family, market]}"
        )


def _unanswered(earlier: list[Turn], candidates: tuple[Candidate, ...]) -> int | None:
    """Return the candidate whose request may have been sent although no answer is written down; None: there is none.

    A turn asks in the lease's order, but for the request that it repeats first, and for what was blocked. What it asked
    for last without noting an answer is the first that none of its refusals blocks.
    """
    if not earlier or earlier[-1].closed:
        return None
    last = earlier[-1]
    lost = _unanswered(earlier[:-1], candidates)
    refused = [
        (candidates[entry.candidate], scope_of(entry.code))
        for turn in earlier
        for entry in turn.tries
        if turn is last or scope_of(entry.code) is Scope.OFFER
    ]
    answered = {entry.candidate for entry in last.tries}
    for index in sorted(range(len(candidates)), key=lambda index: index != lost):
        if index in answered:
            continue
        if index == lost or not any(is_blocked(candidates[index], other, scope) for other, scope in refused):
            return index
    return None
