"""A file appears whole or not at all, and what prevents it is said in a sentence."""

from pathlib import Path

import pytest

from mmldm.errors import UserError
from mmldm.files import whole_file


def test_file_appears_at_the_end_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError])
def test_failure_leaves_what_stood_there(failure: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    expected = UserError if failure is OSError else failure
    with pytest.raises(expected), whole_file(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["file/a.txt", "file/folder/a.txt"])
def test_file_in_place_of_a_parent_folder_is_a_sentence(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write"), whole_file(tmp_path / place) as path:
        path.write_text("never")
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_in_place_of_the_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with (
        pytest.raises(UserError, match="cannot write"),
        whole_file(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("never")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
