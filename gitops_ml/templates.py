"""The ``run`` template: only our own namespaces are ours, all else belongs to the shell.

Known names: ``${params.X}``, ``${data.NAME}``, ``${trial.seed}``, ``${trial.output}``,
``${trial.checkpoints}``, ``${trial.key}``. In a string each value is shell-quoted as its place asks: as words where
nothing is quoted, as text inside double quotes; inside single quotes and here-documents a placeholder is an error.
"""

import enum
import re
import shlex
from collections.abc import Mapping

from gitops_ml.spec import Value
from gitops_ml.values import dataclass

NAMESPACES = ("params", "data", "trial")
TRIAL_NAMES = ("seed", "output", "checkpoints", "key")


class Context(enum.StrEnum):
    """Where in a shell command a placeholder stands."""

    BARE = "bare"
    DOUBLE = "double quotes"
    SINGLE = "single quotes"
    HEREDOC = "here-document"


@dataclass(frozen=True, slots=True)
class Reference:
    """One of our placeholders in a template, such as ``params`` and ``lr``; offset and length in characters."""

    namespace: str
    name: str
    offset: int
    length: int
    context: Context

    @property
    def quoted(self) -> bool:
        """It stands where the shell would take a quoted value literally: an error in a string template."""
        return self.context in (Context.SINGLE, Context.HEREDOC)


@dataclass(frozen=True, slots=True)
class Malformed:
    """Something in our namespaces that is no exact name, such as ``${params.lr:-1}``."""

    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Hole:
    """A part of a rendered command that only the training machine knows.

    ``kind`` is ``output``, ``checkpoints`` or ``data``; ``name`` is the data entry's.
    """

    kind: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """A rendered command: each argument is a row of texts and holes. With ``shell`` there is one argument.

    A shell command has no holes: there they are the agent's variables, such as ``"${GITOPS_ML_OUTPUT}"``, which the
    shell quotes better than any text that is put in later.
    """

    shell: bool
    arguments: tuple[tuple[str | Hole, ...], ...]


def references(template: str) -> tuple[Reference | Malformed, ...]:
    """Return our placeholders in the template, in order; foreign ``${...}`` are left out.

    A ``$`` or backslash right before one is malformed: the shell would read the value's own quotes otherwise.
    """
    found: list[Reference | Malformed] = []
    contexts = None
    for match in _OURS.finditer(template):
        name = _EXACT.match(template, match.start())
        if name is None or template[match.start() - 1 : match.start()] in ("$", "\\"):
            found.append(Malformed(_malformed(template, match.start()), match.start()))
            continue
        contexts = contexts or _contexts(template)
        found.append(Reference(name["namespace"], name["name"], name.start(), len(name[0]), contexts[name.start()]))
    return tuple(found)


def render(run: str | tuple[str, ...], params: Mapping[str, Value], seed: int, key: str) -> Command:
    """Return the command of one trial, from a template that ``validate`` found nothing wrong with.

    Values: numbers as Python writes them, booleans as ``true`` and ``false``. A list of scalars becomes, in a shell
    string, its values as separate words (inside double quotes: joined with spaces). In a list of arguments it becomes
    one argument per value where the placeholder is the whole argument, else its values joined with commas.
    """
    known: dict[tuple[str, str], Value] = {("params", name): value for name, value in params.items()}
    known |= {("trial", "seed"): seed, ("trial", "key"): key}
    if isinstance(run, str):
        return Command(shell=True, arguments=((_shell(run, known),),))  # noqa: S604 starts nothing
    return Command(shell=False, arguments=tuple(part for text in run for part in _arguments(text, known)))


def data_variable(name: str) -> str:
    """Return the environment variable that names the data entry's place."""
    return f"GITOPS_ML_DATA_{name.upper().replace('-', '_')}"


# A lone `${data}` or `${params[0]}` is a shell variable of the user's; with a dot no shell accepts it.
_OURS = re.compile(r"\$\{[#!\s]*(?:params|data|trial)\s*\.")
_EXACT = re.compile(r"\$\{(?P<namespace>params|data|trial)\.(?P<name>[A-Za-z_][A-Za-z0-9_-]*)\}")


def _malformed(template: str, start: int) -> str:
    end = template.find("}", start)
    return template[start : end + 1] if 0 <= end - start < 80 else template[start : start + 30]


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _texts(value: Value) -> list[str]:
    return [_text(item) for item in value] if isinstance(value, tuple) else [_text(value)]


def _shell(template: str, known: Mapping[tuple[str, str], Value]) -> str:
    parts = []
    end = 0
    for reference in references(template):
        assert isinstance(reference, Reference)
        parts.append(template[end : reference.offset])
        end = reference.offset + reference.length
        double = reference.context is Context.DOUBLE
        value = known.get((reference.namespace, reference.name))
        if value is None:
            variable = _variable(reference)
            parts.append(variable if double else f'"{variable}"')
        elif double:
            parts.append(re.sub(r'[\\"$`]', r"\\\g<0>", " ".join(_texts(value))))
        else:
            parts.append(" ".join(map(shlex.quote, _texts(value))))
    parts.append(template[end:])
    return "".join(parts)


def _variable(reference: Reference) -> str:
    name = data_variable(reference.name) if reference.namespace == "data" else f"GITOPS_ML_{reference.name.upper()}"
    return f"${{{name}}}"


def _arguments(template: str, known: Mapping[tuple[str, str], Value]) -> list[tuple[str | Hole, ...]]:
    parts: list[str | Hole] = []
    end = 0
    for reference in references(template):
        assert isinstance(reference, Reference)
        value = known.get((reference.namespace, reference.name))
        if reference.length == len(template) and isinstance(value, tuple):
            return [(text,) for text in _texts(value)]
        parts.append(template[end : reference.offset])
        end = reference.offset + reference.length
        if value is not None:
            parts.append(",".join(_texts(value)))
        elif reference.namespace == "data":
            parts.append(Hole("data", reference.name))
        else:
            parts.append(Hole(reference.name))
    parts.append(template[end:])
    return [tuple(part for part in parts if part != "") or ("",)]


_QUOTING = re.compile(r"['\"\\]|<<")
_HEREDOC = re.compile(r"<<-?[ \t]*(?P<quote>['\"\\]?)(?P<word>\w+)")


def _contexts(template: str) -> list[Context]:
    """Return each character's context, by as much of the shell's grammar as quotes need."""
    contexts = [Context.BARE] * len(template)
    if not _QUOTING.search(template):
        return contexts
    stack = [""]  # of open `"`, `'` and `(` of a command substitution
    waiting: list[str] = []  # words that end the here-documents which start on the next line
    position = 0
    while position < len(template):
        character = template[position]
        inside = stack[-1]
        length = 1
        if inside == "'":
            contexts[position] = Context.SINGLE
            if character == "'":
                stack.pop()
        elif inside == "$'":
            contexts[position] = Context.SINGLE
            if character == "'":
                stack.pop()
            length = 2 if character == "\\" else 1
        elif character == "\\":
            length = 2
        elif inside == '"':
            contexts[position] = Context.DOUBLE
            if character == '"':
                stack.pop()
            elif template.startswith("$(", position):
                stack.append("(")
                length = 2
        elif character == '"':
            stack.append('"')
        elif character == "'":
            stack.append("$'" if position and template[position - 1] == "$" else "'")
        elif character == "(":
            stack.append("(")
        elif character == ")" and inside == "(":
            stack.pop()
        elif character == "#" and (position == 0 or template[position - 1] in " \t\n;&|()"):
            end = template.find("\n", position)
            length = (end if end >= 0 else len(template)) - position
        elif template.startswith("<<<", position):
            length = 3
        elif heredoc := _HEREDOC.match(template, position):
            waiting.append(heredoc["word"])
            length = len(heredoc[0]) + (1 if heredoc["quote"] in ("'", '"') and heredoc["quote"] else 0)
        elif character == "\n" and waiting:
            end = _end_of_heredocs(template, position + 1, waiting)
            contexts[position + 1 : end] = [Context.HEREDOC] * (end - position - 1)
            waiting = []
            length = end - position
        position += length
    return contexts


def _end_of_heredocs(template: str, start: int, words: list[str]) -> int:
    for word in words:
        while start < len(template):
            end = template.find("\n", start)
            end = len(template) if end < 0 else end
            line = template[start:end]
            start = min(end + 1, len(template))
            if line.lstrip("\t") == word:
                break
    # The newline that ends the last line belongs to what follows.
    return max(start - 1, 0) if template[start - 1 : start] == "\n" else start
