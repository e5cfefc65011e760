"""Another program's step: the contract of its file."""

from pathlib import Path

import pytest

from mmldm.benchmark.against import load_step
from mmldm.errors import UserError


def test_setup_runs_once_and_step_is_returned(tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(
        "log = []\ndef setup():\n    log.append(0)\ndef step():\n    return len(log)\n"
    )
    step = load_step(script)
    assert [step(), step()] == [1, 1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def setup(): pass", r"no function step\(\)"),
        ("def step(): pass", r"no function setup\(\)"),
        ("setup, step = 1, print", r"no function setup\(\)"),
    ],
)
def test_file_without_the_contract_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    script = tmp_path / "peer.py"
    script.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_step(script)


@pytest.mark.parametrize("name", ["nowhere.py", "."])
def test_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Python file"):
        load_step(tmp_path / name)
