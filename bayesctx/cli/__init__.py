"""The command line: one subcommand per verb."""

from .commands import main as main
