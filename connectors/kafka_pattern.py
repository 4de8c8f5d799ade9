"""Patterns of topics: what Python's `re`, the client (POSIX extended) and the broker (RE2) all read in the same way."""

from __future__ import annotations

import re

_INSTEAD = {
    **{r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": "[A-Za-z0-9_]", r"\W": "[^A-Za-z0-9_]", r"\s": "[ ]", r"\S": "[^ ]"},
    **{r"\A": "^", r"\Z": "$", r"\z": "$"},
}
_PARTS = re.compile(
    r"""(?P<escape> \\. )
      | (?P<set> \[ \^? \]? (?: [^\]\\] | \\. )* \] )
      | (?P<group> \( \? [^)]* )
      | (?P<lazy> (?: [*+?] | \{ [0-9,]* \} ) [+?*] )
      | (?P<open> \{, )
      | .""",
    re.S | re.X,
)


def complaint(pattern: str) -> str | None:
    """Why it cannot be used, and what to write instead; None: it can."""
    for part in _PARTS.finditer(pattern):
        if part.lastgroup is not None and (told := _about(part.lastgroup, part[0])) is not None:
            return told
    try:
        re.compile(pattern)
    except re.error as error:
        return f"is no regular expression: {error}"
    return None


def _about(kind: str, found: str) -> str | None:
    if kind == "escape" and found[1].isalnum():
        instead = f": write {_INSTEAD[found]}" if found in _INSTEAD else ""
        return f"has {found}, which Kafka's clients and brokers do not know, or read otherwise{instead}"
    if kind == "set" and (known := re.search(r"\\[dws]", found)):
        return f"has {known[0]} in {found}, which Kafka's clients do not know: write {_INSTEAD[known[0]][1:-1]!r} in its place"
    if kind == "set" and "\\" in found:
        return (
            f"has a backslash in {found}, where Kafka's clients take it for one of the characters: write the characters "
            "without it, a - as the last of them and a ] as the first"
        )
    if kind == "set" and re.search(r"\[[:.=]", found[1:]):
        return f"has {found}, which is read in different ways: write the characters, as in [A-Za-z]"
    if kind == "group":
        return f"has {found}), which Kafka's clients do not know: only ( ) and | can be used, and no look ahead or behind"
    if kind == "lazy":
        return f"has {found}, which Kafka's clients do not know: whether a name matches is the same with {found[:-1]}"
    return "has {,: write {0," if kind == "open" else None
