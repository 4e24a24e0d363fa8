"""How AWS decides on a policy, and GitHub on a ruleset and an environment: as far as what is shipped uses it.

Written from AWS's pages on policy evaluation logic, string conditions and OIDC federation, and GitHub's on rulesets and
environments. What is used and not known here is an error, never passed over.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping


def allows(policy, action, *, resource=None, principal=None, context=None):
    """Return whether the policy document allows the request: some statement allows it, and none denies it."""
    context = context or {}
    effects = {
        statement["Effect"]
        for statement in policy["Statement"]
        if _speaks_of(statement, action, resource, principal) and _holds(statement.get("Condition", {}), context)
    }
    return effects == {"Allow"}


def _speaks_of(statement, action, resource, principal):
    if unknown := statement.keys() - {"Sid", "Effect", "Action", "Resource", "Principal", "Condition"}:
        raise NotImplementedError(unknown)
    if not any(like(pattern, action, case=False) for pattern in _words(statement["Action"])):
        return False
    if resource is not None and not any(like(pattern, resource) for pattern in _words(statement["Resource"])):
        return False
    return principal is None or statement["Principal"] == principal


def _holds(conditions, context):
    """All tests and all their keys have to hold, each for any one of its values; an absent key fails."""
    tests = {"StringEquals": lambda wanted, found: wanted == found, "StringLike": like}
    return all(
        key in context and any(tests[name](wanted, context[key]) for wanted in _words(values))
        for name, keys in conditions.items()
        for key, values in keys.items()
    )


def like(pattern, text, *, case=True):
    """Return whether the pattern, in which * and ? are wild, matches the whole text."""
    expression = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(expression, text, re.DOTALL | (0 if case else re.IGNORECASE)) is not None


def _words(value):
    return [value] if isinstance(value, str) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Push:
    """Somebody moves a branch on GitHub."""

    ref: str
    by: Mapping[str, object]
    """As in ``bypass_actors``: type and number of whose token it is; people have the number of their role."""
    kinds: Collection[str] = ("update",)
    """creation, update, deletion, non_fast_forward: what the push does to the branch."""


def refused_by(rulesets, push):
    """Return the kinds of rules that refuse the push; rulesets add up, and bypassing one bypasses only that."""
    refused = set()
    for ruleset in rulesets:
        names = ruleset["conditions"]["ref_name"]
        if ruleset["target"] != "branch" or names["exclude"]:
            raise NotImplementedError(ruleset)
        if ruleset["enforcement"] != "active" or push.ref not in names["include"]:
            continue
        bypasses = any(
            (actor["actor_type"], actor["actor_id"]) == (push.by["actor_type"], push.by["actor_id"])
            for actor in ruleset["bypass_actors"]
            if actor["bypass_mode"] == "always"
        )
        if not bypasses:
            refused |= {rule["type"] for rule in ruleset["rules"]} & set(push.kinds)
    return refused


def environment_opens(environment, *, author, approved_by, reviewers):
    """Return whether a job in the environment starts: its token names the environment only then."""
    if environment["deployment_branch_policy"] is not None:
        raise NotImplementedError(environment)
    if not environment["reviewers"]:
        return True
    eligible = set(reviewers) - ({author} if environment["prevent_self_review"] else set())
    return bool(eligible & set(approved_by))
