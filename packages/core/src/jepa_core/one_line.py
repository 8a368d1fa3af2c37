"""Messages as one line: what a stranger's file says of itself must not break a log, a table or a terminal."""

from __future__ import annotations

LONGEST = 1000
"""Characters of a message; a file that is not what it seems may put all of itself into one."""


def one_line(message: str) -> str:
    """Line breaks become spaces, control characters (a terminal would obey them) a sign, and the end is cut off."""
    line = " ".join(message.split())
    if not line.isprintable():
        line = "".join(sign if sign.isprintable() else "\ufffd" for sign in line)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ... ({len(line) - LONGEST} characters more)"
