"""A small, safe language for conditions on rows: ``params.lr < 0.1 and metrics["accuracy"] > 0.95``.

It is a part of Python's grammar, checked node by node against a list of what is accepted: nothing is called, nothing
is looked up but the names that the caller declares. A comparison with a value that a row does not have is false, also
``!=`` and ``not in``; so is one between kinds that have no order (a text and a number).
"""

import ast
import difflib
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from gitops_ml.errors import UserError

MAX_CHARACTERS = 2000
MAX_NODES = 400
MAX_DEPTH = 30

Row = Mapping[str, Any]
Condition = Callable[[Row], bool]


class ExpressionError(UserError):
    """A condition is not one; the text says at which column, which counts from 1."""

    def __init__(self, text: str, column: int, message: str) -> None:
        shown, caret = _window(text, column)
        super().__init__(f"column {column}: {message}\n  {shown}\n  {caret}")
        self.column = column
        self.message = message


class _Missing:
    """A value that a row does not have."""


MISSING = _Missing()


def condition(text: str, names: Mapping[str, bool]) -> Condition:
    """Return a function that says whether a row (a mapping by name) fulfils the condition.

    Args:
        text: the condition, one line.
        names: what may be named: True for a mapping (``params.lr``, ``params["lr"]``, ``"lr" in params``), False for
            a plain value.

    Raises:
        ExpressionError: the text is no condition of this language.
    """
    value = _Compiler(text, names).compiled()
    return lambda row: _is_true(value(row))


def value(text: str, names: Mapping[str, bool]) -> Callable[[Row], Any]:
    """Return a function that takes the named value from a row, ``MISSING`` where it has none: ``metrics["loss"]``.

    Raises:
        ExpressionError: the text names no single value.
    """
    compiler = _Compiler(text, names)
    tree = compiler.parsed()
    if not isinstance(tree, ast.Name | ast.Attribute | ast.Subscript):
        raise compiler.error(tree, "this is no single value; a name is wanted, such as `date` or `params.lr`")
    found = compiler.compiled()
    if isinstance(tree, ast.Name) and names.get(tree.id):
        raise compiler.error(tree, f'`{tree.id}` holds several values; name one: `{tree.id}.NAME` or {tree.id}["NAME"]')
    return found


# Compiling: each node becomes a closure over those of its parts


class _Compiler:
    def __init__(self, text: str, names: Mapping[str, bool]) -> None:
        # In a shell's quotes a line break is as good as a space; both keep their columns.
        self.text = re.sub(r"[\r\n\t\f\v]", " ", text)
        self.names = names
        self.nodes = 0

    def compiled(self) -> Callable[[Row], Any]:
        return self.build(self.parsed(), 1)

    def parsed(self) -> ast.expr:
        """Return Python's tree of the text, of which nothing is accepted yet."""
        stripped = self.text.strip(" ")
        if not stripped:
            raise ExpressionError(self.text, 1, "there is no condition here, such as `params.lr < 0.1`")
        if len(stripped) > MAX_CHARACTERS:
            raise ExpressionError(
                self.text, MAX_CHARACTERS, f"it has {len(stripped)} characters; at most {MAX_CHARACTERS} are read"
            )
        try:
            with warnings.catch_warnings():
                # Python warns of odd spellings, such as `"\d"` and `1or 2`; they mean what they mean.
                warnings.simplefilter("ignore")
                return ast.parse(self.text.lstrip(" "), mode="eval").body
        except SyntaxError as error:
            raise self._syntax_error(error) from None
        except (ValueError, RecursionError, MemoryError):
            raise ExpressionError(self.text, 1, "it cannot be read: odd characters, or nested too deeply") from None

    def _syntax_error(self, error: SyntaxError) -> ExpressionError:
        for wrong, right in _OTHER_LANGUAGES:
            if (match := wrong.search(_without_strings(self.text))) is not None:
                return ExpressionError(
                    self.text, match.start() + 1, f"`{match[0]}` is not part of the language; write `{right}`"
                )
        indent = len(self.text) - len(self.text.lstrip(" "))
        column = min(indent + max(error.offset or 1, 1), len(self.text.rstrip(" ")) + 1)
        return ExpressionError(self.text, column, f"it cannot be read from here: {error.msg}")

    def error(self, node: ast.AST, message: str) -> ExpressionError:
        """Return an error at the node; Python counts its column in bytes of UTF-8, from 0."""
        indent = len(self.text) - len(self.text.lstrip(" "))
        line = self.text.lstrip(" ").encode("utf-8", "surrogatepass")
        before = line[: getattr(node, "col_offset", 0)].decode("utf-8", "replace")
        return ExpressionError(self.text, indent + len(before) + 1, message)

    def build(self, node: ast.expr, depth: int) -> Callable[[Row], Any]:
        self.nodes += 1
        if depth > MAX_DEPTH:
            raise self.error(node, f"nested more than {MAX_DEPTH} deep")
        if self.nodes > MAX_NODES:
            raise self.error(node, f"more than {MAX_NODES} parts")
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name():
                return self._name(node)
            case ast.Attribute() | ast.Subscript():
                return self._entry(node, depth)
            case ast.BoolOp():
                parts = [self.build(part, depth + 1) for part in node.values]
                if isinstance(node.op, ast.And):
                    return lambda row: all(_is_true(part(row)) for part in parts)
                return lambda row: any(_is_true(part(row)) for part in parts)
            case ast.UnaryOp(op=ast.Not()):
                inner = self.build(node.operand, depth + 1)
                return lambda row: not _is_true(inner(row))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as number)):
                if isinstance(number, bool):
                    raise self.error(node, "true and false have no sign")
                signed = -number if isinstance(sign, ast.USub) else number
                return lambda _: signed
            case ast.List() | ast.Tuple():
                return self._list(node, depth)
            case ast.Compare():
                return self._comparison(node, depth)
        words = next((words for kind, words in _REFUSED if isinstance(node, kind)), "this")
        raise self.error(node, f"{words} is not part of the language; {_ACCEPTED}")

    def _constant(self, node: ast.Constant) -> Callable[[Row], Any]:
        constant = node.value
        if not isinstance(constant, str | int | float):
            raise self.error(node, f"this is no number, text, true or false; {_ACCEPTED}")
        return lambda _: constant

    def _name(self, node: ast.Name) -> Callable[[Row], Any]:
        name = node.id
        if name in _WORDS:
            word = _WORDS[name]
            return lambda _: word
        if name not in self.names:
            known = [*self.names, *_WORDS]
            near = difflib.get_close_matches(name.lower(), known, 1)
            single = ", ".join(sorted(each for each, several in self.names.items() if not several))
            holders = ", ".join(f"{each}.{name[:40]}" for each, several in self.names.items() if several)
            by_name = f"; or with what holds it: {holders}" if holders else ""
            hint = f"did you mean `{near[0]}`?" if near else f"known are: {single}{by_name}"
            raise self.error(node, f"unknown name `{name[:80]}`; {hint}")
        return lambda row: row.get(name, MISSING)

    def _entry(self, node: ast.Attribute | ast.Subscript, depth: int) -> Callable[[Row], Any]:
        holder = node.value
        if not isinstance(holder, ast.Name) or not self.names.get(holder.id, False):
            self.build(holder, depth + 1)  # an unknown name is named as such
            mappings = ", ".join(sorted(name for name, several in self.names.items() if several))
            raise self.error(node, f"only these have values by name: {mappings}")
        if isinstance(node, ast.Attribute):
            key = node.attr
        elif isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            key = node.slice.value
        else:
            raise self.error(node.slice, f'a name in quotes is wanted here: {holder.id}["NAME"]')
        name = holder.id

        def entry(row: Row) -> Any:
            values = row.get(name, MISSING)
            return MISSING if values is MISSING else values.get(key, MISSING)

        return entry

    def _list(self, node: ast.List | ast.Tuple, depth: int) -> Callable[[Row], Any]:
        items = [self.build(item, depth + 1) for item in node.elts]
        return lambda row: tuple(item(row) for item in items)

    def _comparison(self, node: ast.Compare, depth: int) -> Callable[[Row], Any]:
        operands = [self.build(part, depth + 1) for part in (node.left, *node.comparators)]
        tests = []
        for test, right in zip(node.ops, node.comparators):
            if type(test) not in _TESTS:
                raise self.error(right, "`is` is not part of the language; write `==` or `!=`")
            tests.append(_TESTS[type(test)])
        if len(tests) == 1:
            left_of, test_of, right_of = operands[0], tests[0], operands[1]
            return lambda row: _holds(test_of, left_of(row), right_of(row))

        def chained(row: Row) -> bool:
            left = operands[0](row)
            for test, operand in zip(tests, operands[1:]):
                right = operand(row)
                if not _holds(test, left, right):
                    return False
                left = right
            return True

        return chained


def _holds(test: Callable[[Any, Any], Any], left: Any, right: Any) -> bool:
    if left is MISSING or right is MISSING:
        return False
    try:
        return bool(test(left, right))
    except TypeError:
        # A text and a number have no order, and a number holds nothing.
        return False


def _is_true(value: Any) -> bool:
    if value is MISSING or (isinstance(value, float) and math.isnan(value)):
        return False
    return bool(value)


_TESTS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, holder: item in holder,
    ast.NotIn: lambda item, holder: item not in holder,
}
_WORDS = {"true": True, "false": False}
_ACCEPTED = "accepted are names, numbers, texts in quotes, lists, comparisons, `in`, `and`, `or`, `not`"
_REFUSED: tuple[tuple[type[ast.expr] | tuple[type[ast.expr], ...], str], ...] = (
    (ast.Call, "a call"),
    (ast.BinOp, "arithmetic"),
    (ast.UnaryOp, "a sign on anything but a number"),
    (ast.Lambda, "a function"),
    ((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), "a loop"),
    (ast.IfExp, "`if`"),
    (ast.JoinedStr, "a text with values in it"),
    (ast.NamedExpr, "an assignment"),
    ((ast.Dict, ast.Set), "what stands in braces"),
    (ast.Slice, "a range"),
)
_OTHER_LANGUAGES = (
    (re.compile(r"&&"), "and"),
    (re.compile(r"\|\|"), "or"),
    (re.compile(r"<>"), "!="),
    (re.compile(r"===|(?<![=<>!:])=(?!=)"), "=="),
    (re.compile(r"!(?!=)"), "not"),
)


def _without_strings(text: str) -> str:
    """Return the text with everything in quotes blanked out, of the same length."""
    return re.sub(r"""(["'])(?:\\.|(?!\1).)*\1""", lambda match: " " * len(match[0]), text)


def _window(text: str, column: int, width: int = 100) -> tuple[str, str]:
    """Return what stands around a column, without hidden characters, and a caret under it."""
    start = max(0, column - 1 - width // 2)
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[start : start + width])
    return shown.rstrip(), " " * (column - 1 - start) + "^"
