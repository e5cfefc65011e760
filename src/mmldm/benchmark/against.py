"""Another program's step, to be timed beside ours in the same run.

A Python file with `setup()`, called once, and `step()`, called once a round -> step.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from mmldm.errors import UserError


def load_step(path: Path) -> Callable[[], object]:
    """Runs the file and its `setup()`, and returns its `step`.

    The file is the caller's own code: it runs with all rights of this process, which is its purpose.
    On a GPU, `step` need not wait for the device.

    Raises:
        UserError: There is no such file, or it has no `setup` or no `step`.
    """
    spec = importlib.util.spec_from_file_location("mmldm_benchmark_against", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{path}: no Python file to benchmark against")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("setup", "step"):
        if not callable(getattr(module, name, None)):
            raise UserError(f"{path} has no function {name}(): it needs setup() and step()")
    module.setup()
    return module.step
