"""What is not in the tables of the page, and why."""

__all__ = ["ABSENT"]

ABSENT = """\
To be written.
"""
