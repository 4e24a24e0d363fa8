"""How git is called, with which environment and settings, and what it says when it fails."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gitops_ml.errors import GitError, NoRepositoryError, ServiceError

# On the command line they win over every configuration, the user's and the environment's.
OVERRIDES = tuple(
    word
    for setting in (
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "core.splitIndex=false",
        "core.untrackedCache=keep",
        "core.quotePath=false",
        "core.pager=cat",
        "gc.auto=0",
        "maintenance.auto=false",
        "submodule.recurse=false",
        "push.pushOption=",
        "advice.detachedHead=false",
    )
    for word in ("-c", setting)
)
LIST_CONFIG = ("config", "--list", "-z", "--includes")
# What else a user's configuration may hold about a remote (mirror, prune, refspecs) would change what our commands do.
CONNECTION = re.compile(
    r"(remote\..*\.(url|pushurl|proxy|proxyauthmethod|uploadpack|receivepack|vcs|serveroption|promisor)"
    r"|(http|credential|url|ssh|protocol)\..*|core\.(sshcommand|askpass|gitproxy)|transfer\.credentialsinurl)",
    re.DOTALL,
)
_KEPT_VARIABLES = re.compile(
    r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|ASKPASS|PROXY_COMMAND|PROXY_SSL_.*|SSL_.*|HTTP_.*|CURL_.*|ALLOW_PROTOCOL|PROTOCOL"
    r"|PROTOCOL_FROM_USER|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|PARAMETERS|COUNT|KEY_\d+|VALUE_\d+)|EXEC_PATH"
    r"|CEILING_DIRECTORIES|DISCOVERY_ACROSS_FILESYSTEM|(AUTHOR|COMMITTER)_(NAME|EMAIL|DATE)|TEST_.*)"
)


class RejectedError(Exception):
    """The remote did not take the push because the branch moved."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RefusedError(ServiceError):
    """The remote answered, and will not do it: permission, a hook, a protected branch. Trying again is no use."""


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what would point git elsewhere, make it wait, or make it speak otherwise."""
    kept = {k: v for k, v in environ.items() if not k.startswith("GIT_") or _KEPT_VARIABLES.fullmatch(k)}
    # Messages as we parse them; the character set stays, for the user's filters.
    if charset := kept.pop("LC_ALL", None):
        kept["LC_CTYPE"] = charset
    return {
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "60",
        **kept,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GCM_INTERACTIVE": "never",
        "LC_MESSAGES": "C",
        "LANGUAGE": "",
    }


def with_settings(environ: Mapping[str, str], extra: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the variables that hand over settings, before those that the caller's environment hands over."""
    count = environ.get("GIT_CONFIG_COUNT", "0")
    own = [(environ.get(f"GIT_CONFIG_KEY_{i}"), environ.get(f"GIT_CONFIG_VALUE_{i}")) for i in range(_number(count))]
    env = {"GIT_CONFIG_COUNT": str(len(extra) + len(own))}
    for number, (key, value) in enumerate([*extra, *own]):
        env[f"GIT_CONFIG_KEY_{number}"] = key or ""
        env[f"GIT_CONFIG_VALUE_{number}"] = value or ""
    return env


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def run(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: bytes, limit_s: float, *, network: bool
) -> "subprocess.CompletedProcess[bytes]":
    try:
        # A connection gets its own session: no terminal to ask for a password, and ssh and helpers end with it.
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=network,
        )
    except FileNotFoundError as error:
        raise NoRepositoryError(
            "git is not installed, or not on the PATH; gitops-ml needs git 2.31 or newer"
        ) from error
    with process:
        try:
            out, err = process.communicate(stdin, timeout=limit_s)
        except BaseException as error:
            if network and sys.platform != "win32":
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                name = next((word for word in command[1:] if word in ("fetch", "push", "status", "fast-import")), "")
                kind = ServiceError if network else GitError
                raise kind(f"git {name} did not end within {limit_s:.0f} s") from None
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


# What git says


def redacted(text: str) -> str:
    """Return the text without passwords and tokens."""
    text = CREDENTIALS.sub(r"\1***@", text)
    text = re.sub(r"(?i)(authorization: *\w+ +|private-token: *|job-token: *)\S+", r"\1***", text)
    return re.sub(r"\b(gh[a-z]_|github_pat_|gl[a-z]{2,6}-)[\w.-]{6,}", "***", text)


CREDENTIALS = re.compile(r"(\bhttps?://)[^/\s]+@")


def what_git_said(done: "subprocess.CompletedProcess[bytes]") -> str:
    lines = [line.strip() for line in os.fsdecode(done.stderr).splitlines() if not line.startswith("hint:")]
    text = "; ".join(line for line in lines if line)[-2000:]
    return redacted(text) or f"exit status {done.returncode}"


def remote_words(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Return what the server itself said (hooks, rulesets)."""
    lines = [
        line.removeprefix("remote:").strip() for line in os.fsdecode(done.stderr).splitlines() if "remote:" in line
    ]
    text = redacted("; ".join(line for line in lines if line))[:1000]
    return f" ({text})" if text else ""


_HOPELESS = re.compile(
    r"(?i)authentication failed|permission denied|access denied|\b40[134]\b|could not read (username|password)"
    r"|not found|host key verification failed|does not appear to be a git repository|no such remote|protected"
)


def service_error(what: str, done: "subprocess.CompletedProcess[bytes]") -> ServiceError:
    said = what_git_said(done)
    kind = RefusedError if _HOPELESS.search(said) else ServiceError
    return kind(f"{what}: {said}")


def refusals(done: "subprocess.CompletedProcess[bytes]") -> dict[str, str]:
    """Return why each ref was not pushed, from the lines ``!<TAB>from:to<TAB>summary (reason)``."""
    refused = {}
    for line in os.fsdecode(done.stdout).splitlines():
        parts = line.split("\t")
        if len(parts) == 3 and parts[0] == "!" and not parts[2].startswith("[remote failure]"):
            refused[parts[1].partition(":")[2]] = redacted(parts[2])
    return refused


def parse_settings(out: bytes) -> list[tuple[str, str]]:
    entries = []
    for line in os.fsdecode(out).split("\0")[:-1]:
        key, equals, value = line.partition("\n")
        # A key without a value is true, which an environment variable cannot leave out.
        entries.append((key, value if equals else "true"))
    return entries
