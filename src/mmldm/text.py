"""Foreign text on its way out: names of files may hold anything but a slash.

name -> what a terminal, a log or a page shows in one line, without obeying it
"""

from __future__ import annotations

import re
import unicodedata

_OBEYED = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of Unicode: controls (ESC, CR, newline), lone surrogates, separators of lines and paragraphs."""
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""These reverse the text after them."""
_MARKUP = re.compile(r"[\\`*~\[\]<>|&]")


def printable(text: str) -> str:
    r"""One line in which nothing moves the cursor: `a\x1b[2J`, `a\nb`, `caf\xe9` where it is not UTF-8."""
    return "".join(_escaped(c) if _is_obeyed(c) else c for c in text)


def printable_lines(text: str) -> str:
    """The same, line by line: for text whose own newlines stand."""
    return "\n".join(printable(line) for line in text.split("\n"))


def markdown(text: str) -> str:
    """A name as Markdown shows it: no table cell ends in it, no tag, link or emphasis begins."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def is_utf8(text: str) -> bool:
    """Whether a name can be written down; other bytes come from the system as lone surrogates."""
    return not any(unicodedata.category(c) == "Cs" for c in text)


def _is_obeyed(c: str) -> bool:
    return not c.isprintable() and (unicodedata.category(c) in _OBEYED or c in _TURNING)


def _escaped(c: str) -> str:
    # A byte that was no UTF-8, which Python keeps as a lone surrogate.
    if "\udc80" <= c <= "\udcff":
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode("ascii")
