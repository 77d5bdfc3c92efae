"""The command line: one subcommand per verb. The help is printed without torch and Pyro."""

from .commands import main as main
