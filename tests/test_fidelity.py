"""docs/fidelity.md names what is there: files, tests, names, keys, commands, and a proof of every row.

A row's last cell is its proof: tests, commands or files, or `none:` and why there is none.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from pydantic import BaseModel

from mmldm.cli.main import app
from mmldm.config import RECIPES, RunConfig
from mmldm.evaluation.metrics import metrics

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mmldm"
PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
PROVED = PAGE.partition("## Hyper-parameters")[0]
CODE = re.compile(r"`([^`]+)`")
FILE = re.compile(r"[\w./-]+\.(py|sh|md|yaml)")
PLACES = (PACKAGE, ROOT, ROOT / "tests")
FOREIGN = {"mod_embed", "no_grad", "sim", "squeeze"}
"""Names of the release and of equations, which are not ours to have."""


def rows(page: str) -> Iterator[list[str]]:
    """Cells of the rows of all tables, without their heads."""
    lines = page.splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if line.startswith("|") and before.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def found(name: str) -> Path | None:
    """Where a file that is named lies."""
    return next((place / name for place in PLACES if (place / name).is_file()), None)


@cache
def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@cache
def names() -> set[str]:
    """Every class, function, argument, attribute and field of the package, methods also as `Class.method`."""
    every: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                every |= {
                    f"{node.name}.{x.name}" for x in node.body if isinstance(x, ast.FunctionDef)
                }
                every |= {
                    f"{node.name}.{x.attr}" for x in ast.walk(node) if isinstance(x, ast.Attribute)
                }
                fields = [x.target for x in node.body if isinstance(x, ast.AnnAssign)]
                every |= {f"{node.name}.{x.id}" for x in fields if isinstance(x, ast.Name)}
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                every.add(node.name)
            elif isinstance(node, ast.arg):
                every.add(node.arg)
            elif isinstance(node, ast.Attribute):
                every.add(node.attr)
            elif isinstance(node, ast.Name):
                every.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                every.add(node.value)
        top = {x.name for x in tree.body if isinstance(x, ast.ClassDef | ast.FunctionDef)}
        every |= {f"{path.stem}.{name}" for name in top}
    return every | {path.stem for path in PACKAGE.rglob("*.py")}


@cache
def keys() -> set[str]:
    """Every key that a recipe may have by its path and each end of it; names of recipes and metrics."""
    every = {path.stem for path in RECIPES.glob("*.yaml")} | {
        metric.name for metric in metrics(10.0)
    }

    def walk(section: type[BaseModel], path: tuple[str, ...]) -> None:
        for name, field in section.model_fields.items():
            here = (*path, name)
            every.update(".".join(here[i:]) for i in range(len(here)))
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    walk(kind, here)

    walk(RunConfig, ())
    return every


def missing(code: str) -> str | None:
    """What is not there of something in backticks; None where all is, or it names nothing of ours."""
    if "::" in code:
        file, _, test = code.partition("::")
        path = found(file)
        return code if path is None or test not in functions_in(path) else None
    if code.startswith("mmldm "):
        return missing_command(code)
    if FILE.fullmatch(code):
        return None if found(code) else code
    # `key: value` of a recipe, and `name` or `Class.name` of the code.
    key, _, _ = code.partition(": ")
    if re.fullmatch(r"\w+(\.\w+)*", key) and not key.isdigit():
        last = key.rpartition(".")[2]
        known = names() | keys() | FOREIGN
        return None if key in known or ("." not in key and last in known) else code
    return None


def missing_command(code: str) -> str | None:
    """A command or option that the command line does not have."""
    group: Any = typer.main.get_command(app)
    words = code.split()[1:]
    command = group
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if command is group:
        return code
    options = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    return next((code for word in words if word.startswith("--") and word not in options), None)


def test_all_that_the_page_names_is_there() -> None:
    absent = [code for code in CODE.findall(PAGE) if missing(code) is not None]
    linked = [name for name in re.findall(r"\b[\w/-]+\.(?:md|py|sh)\b", PAGE) if not found(name)]
    assert (absent, linked) == ([], [])


def test_every_row_names_what_proves_it() -> None:
    bare = [
        cells[0]
        for cells in rows(PROVED)
        if not (cells[-1].startswith("none: ") or re.fullmatch(r"`[^`]+`(, `[^`]+`)*", cells[-1]))
    ]
    assert bare == []
    assert sum("::" in cells[-1] for cells in rows(PROVED)) > 80


@pytest.mark.parametrize(
    "code",
    [
        "models/test_nothing.py::test_nothing",
        "test_fidelity.py::test_that_was_renamed",
        "models/gone.py",
        "mmldm evaluate --gone",
        "mmldm gone",
        "GeneratorTurn.gone",
        "autoencoder.gone",
        "gone_function",
        "gone_key: 3",
    ],
)
def test_what_has_gone_is_noticed(code: str) -> None:
    assert missing(code) is not None
