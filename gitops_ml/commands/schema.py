"""``gitops-ml schema``: print a schema, for editors and other validators."""

import argparse

from gitops_ml.errors import ExitCode, UserError
from gitops_ml.schema import nearest, schema_names, schema_text
from gitops_ml.tools import Tools


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("name", nargs="?", default="experiment", metavar="NAME", help="default: experiment")
    parser.epilog = f"schemas: {', '.join(schema_names())}; without its number: the newest"


def run(args: argparse.Namespace, tools: Tools) -> int:
    """Print the schema of that name."""
    known = schema_names()
    # Without a number the newest of that name.
    fitting = [name for name in known if args.name in (name, name.rpartition(".v")[0])]
    if not fitting:
        raise UserError(f"no schema is called `{args.name}`{nearest(args.name, known)}; known are: {', '.join(known)}")
    newest = max(fitting, key=lambda name: int(name.rpartition(".v")[2]))
    tools.say(schema_text(newest).rstrip("\n"))
    return ExitCode.OK
