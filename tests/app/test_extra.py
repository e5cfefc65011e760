"""gradio is an extra: asked for by one command, loaded by it alone."""

import subprocess
import sys

import pytest

from ..cli.commandline import environment, mmldm


def test_other_commands_do_not_load_gradio() -> None:
    code = (
        "import sys, mmldm.cli.main, mmldm.cli.generate, mmldm.cli.app; "
        "print({'gradio', 'starlette', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_without_the_extra_one_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmldm.cli.app.find_spec", lambda name: None)
    assert "pip install 'mmldm[app]'" in mmldm("app").complaint()


def test_a_weak_password_is_refused_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmldm.cli.app.find_spec", lambda name: object())
    assert "NAME:PASSWORD" in mmldm("app", "--auth", "ann:short").complaint()


def test_a_model_folder_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="the extra app is not installed")
    assert "nowhere" in mmldm("app", "--model", "nowhere/at/all").complaint()
