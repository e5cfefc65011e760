"""What README.md and docs/ show: pages, code blocks, code in sentences, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
PROGRAM = re.compile(r"(?:[A-Z]+=\S+ )*(?:\S+ )*?-m (?=mmldm )")
"""What stands before `mmldm` where another program starts it, such as torchrun."""


@dataclass(frozen=True)
class Shown:
    """A command that a page shows.

    Attributes:
        page: Name of the file.
        line: As shown, without its comment; words between spaces where it is quoted.
    """

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """The command's words; what a synopsis has in brackets is taken as there."""
        return shlex.split(re.sub(r"\[(--\S+ [^\]\s]+)\]", r"\1", self.line), comments=True)


def prose(page: str) -> str:
    """A page without its code blocks."""
    return BLOCK.sub("", page)


def spans(page: str) -> list[str]:
    """Code in sentences and tables, on one line each."""
    return [" ".join(code.split()) for code in SPAN.findall(prose(page))]


def lines_of_blocks(page: str) -> list[str]:
    """Lines of the code blocks that hold commands; those that go on after a backslash are one."""
    texts = [found["text"] for found in BLOCK.finditer(page) if not found["language"]]
    joined = "\n".join(texts).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in joined]


def commands(path: Path) -> list[Shown]:
    """The `mmldm` commands in the code blocks of a page, in its order."""
    found = []
    for line in lines_of_blocks(path.read_text(encoding="utf-8")):
        command = PROGRAM.sub("", line)
        if command.startswith("mmldm "):
            found.append(Shown(path.name, " ".join(command.partition("  #")[0].split())))
    return found
