"""Text that may come from a record, for a terminal or a log line: it neither moves the cursor nor passes for a line of ours."""

from __future__ import annotations


def printable(text: str) -> str:
    """On one line, everything else as its escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)


def block(text: str, indent: str = "    ") -> str:
    """Its lines but the first indented, as only a line of ours begins at the margin."""
    return text if text.isprintable() else f"\n{indent}".join(map(printable, text.split("\n")))
