"""Models that are known by a name: the one in the package, and those beside the package in its repository.

name -> folder. A name goes before a folder of the same name in the working directory, which is ./name.
"""

from __future__ import annotations

from pathlib import Path

from mmldm.errors import UserError

PACKAGE = Path(__file__).parents[1]
BUNDLED_NAME = "impacts"
BUNDLED = PACKAGE / "assets" / BUNDLED_NAME
"""The model that comes with the package."""
REPOSITORY = PACKAGE.parents[1] / "models"
"""Models of other worlds, which no wheel holds: there in a checkout alone."""
PUBLISHED = {BUNDLED_NAME: BUNDLED, "freedoom": REPOSITORY / "freedoom"}


def published(name: str) -> Path | None:
    """The folder of a model that has a name of ours; None of any other name, and of a path.

    Raises:
        UserError: The model is not in this installation.
    """
    folder = PUBLISHED.get(name)
    if folder is None or folder.is_dir():
        return folder
    if folder == BUNDLED:
        raise UserError("the bundled model is not in this installation: name another one.")
    raise UserError(
        f"the model {name!r} is not in this installation: a checkout that has it keeps it in models/{name}, "
        f"and runs/{name}.sh makes one. Give the path of such a folder, or what it is called on a hub."
    )
