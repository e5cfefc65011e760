"""The building's rules: imports go down, nothing unsafe is called, files stay small."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "mmldm"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [
    {"types", "errors", "files", "config", "sections", "strict", "text", "arithmetic"},
    {"media", "models", "diffusion"},
    {"pipelines", "data"},
    {"training", "evaluation", "benchmark"},
    {"worlds"},
    {"cli", "app", "__main__", "__init__"},
]
# Same floor, and one of the two may look at the other.
ALLOWED = {
    ("training", "evaluation"),
    ("benchmark", "training"),
    ("__main__", "cli"),
    ("cli", "app"),
}
MOST_LINES = 400
DESIGN = (PACKAGE.parents[1] / "DESIGN.md").read_text(encoding="utf-8")
SHAPE = re.compile(r"\([^()\s]*,[^()]*\)|\([A-Za-z0-9]\)|\(\.{3}\)|\(\)|0-d|[Ss]hape|any size")
"""How a docstring says a shape."""
NAMED = re.compile(r"(dict|Mapping)\[str, (dict\[str, )?Tensor\]+")
"""Tensors by name, of any shape."""


def rooms(path: Path) -> str:
    """The top package or module a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all modules imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Dotted names of all calls in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def test_every_room_has_a_floor() -> None:
    assert {rooms(path) for path in FILES} <= set.union(*FLOORS)


def test_imports_go_down(trees: dict[Path, ast.Module]) -> None:
    floor = {room: level for level, names in enumerate(FLOORS) for room in names}
    wrong = []
    for path, tree in trees.items():
        here = rooms(path)
        for name in imported(tree):
            there = name.split(".")[1] if name.startswith("mmldm.") else here
            if there not in floor:  # A name of the package itself, such as __version__.
                continue
            inside = there == here or floor[there] == 0
            if not inside and floor[there] >= floor[here] and (here, there) not in ALLOWED:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_no_module_imports_itself_in_a_circle(trees: dict[Path, ast.Module]) -> None:
    """Imports inside functions and under TYPE_CHECKING do not count: they run later or never."""
    names = {
        ".".join(("mmldm", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in FILES
    }
    edges = {
        name: {other for other in imported(_at_import(trees[path])) if other in names}
        for name, path in names.items()
    }
    while edges:
        free = [name for name, others in edges.items() if not others & edges.keys()]
        assert free, f"circle among {sorted(edges)}"
        for name in free:
            del edges[name]


def _at_import(tree: ast.Module) -> ast.Module:
    body = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    return ast.Module(body=body, type_ignores=[])


def test_no_folder_has_the_name_of_a_diffusers_pipeline() -> None:
    """Loading looks such names up among diffusers' own pipelines first."""
    spec = find_spec("diffusers")
    assert spec is not None and spec.origin is not None
    taken = {path.name for path in (Path(spec.origin).parent / "pipelines").iterdir()}
    assert "latent_diffusion" in taken
    assert not {path.name for path in PACKAGE.rglob("*") if path.is_dir()} & taken - {"__pycache__"}


def test_nothing_that_runs_foreign_code_is_imported_or_called(
    trees: dict[Path, ast.Module],
) -> None:
    modules = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}
    heavy = {"torchvision", "torchaudio", "scipy", "librosa", "einops"}
    forbidden = {
        "eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen",
        "av.logging.set_level", "__import__",
    }  # fmt: skip
    # Networks for evaluation are published as pickles only: there, torch reads tensors and nothing else.
    restricted = PACKAGE / "evaluation" / "extractors" / "weights_file.py"
    wrong = []
    for path, tree in trees.items():
        allowed = {"pickle", "pickle.UnpicklingError"} if path == restricted else set()
        wrong += [f"{path.name}: {n}" for n in imported(tree)
                  if n.split(".")[0] in modules | heavy and n not in allowed]  # fmt: skip
        for name, call in calls(tree):
            unsafe = {(k.arg, ast.unparse(k.value)) for k in call.keywords}
            if path == restricted and name == "torch.load" and ("weights_only", "True") in unsafe:
                continue
            if name in forbidden or unsafe & {("allow_pickle", "True"), ("shell", "True")}:
                wrong.append(f"{path.name}: {name}")
    assert wrong == []


def test_media_are_opened_for_reading_in_one_place_only(trees: dict[Path, ast.Module]) -> None:
    """There every open passes the lists of formats and protocols; see the media tests."""
    openings = {
        path.relative_to(PACKAGE).as_posix(): call
        for path, tree in trees.items()
        for name, call in calls(tree)
        if name == "av.open"
    }
    writers = {
        name for name, call in openings.items()
        if [ast.unparse(x) for x in call.args[1:2]] in (["'w'"], ['"w"'])
    }  # fmt: skip
    assert set(openings) - writers == {"media/container.py"}
    source = (PACKAGE / "media" / "container.py").read_text(encoding="utf-8")
    assert "format_whitelist" in source and "protocol_whitelist" in source


def test_files_stay_small() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_design_names_every_room_on_its_floor() -> None:
    tree = DESIGN.split("## Floors")[1].split("```")[1]
    names = {path.stem for path in FILES if path.parent.name != "extractors"}
    assert {name for name in names - {"__main__"} if not re.search(rf"\b{name}\b", tree)} == set()


def test_files_that_design_names_are_there() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    named = {name for name in re.findall(r"`([\w/]+\.py)`", DESIGN) if name.split("/")[0] in rooms}
    assert len(named) > 10
    assert {name for name in named if not (PACKAGE / name).is_file()} == set()


def tensor_functions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name and docstring of each function that takes or gives tensors; inner ones, overloads do not count."""
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.Module | ast.ClassDef):
            continue
        of_class = (ast.get_docstring(scope) or "") if isinstance(scope, ast.ClassDef) else ""
        for node in scope.body:
            if not isinstance(node, ast.FunctionDef):
                continue
            if "overload" in map(ast.unparse, node.decorator_list):
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            annotations = [argument.annotation for argument in arguments] + [node.returns]
            types = " ".join(ast.unparse(a) for a in annotations if a is not None)
            if re.search(r"\bTensor\b", NAMED.sub("", types)):
                own = ast.get_docstring(node) or ""
                yield node.name, own + (of_class if node.name == "__init__" else "")


def test_functions_on_tensors_say_their_shapes(trees: dict[Path, ast.Module]) -> None:
    silent = [
        f"{path.relative_to(PACKAGE)} {name}"
        for path, tree in trees.items()
        for name, docstring in tensor_functions(tree)
        if not SHAPE.search(docstring)
    ]
    assert silent == []
