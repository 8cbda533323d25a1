"""The `veridical` command."""

from veridical.cli.commands import COMMANDS, Command
from veridical.cli.dispatch import main

__all__ = ["COMMANDS", "Command", "main"]
