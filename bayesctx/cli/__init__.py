"""The command line: one subcommand per verb."""

from .verbs import main as main
