"""One file per verb: ``configure(parser)`` and ``run(args, tools) -> int``."""
