"""The entry point: help, light imports, and how mistakes and interrupts end."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mmldm import __version__
from mmldm.cli import main
from mmldm.cli.main import Commands

from .commandline import environment, in_process, interrupted, mmldm

pytestmark = pytest.mark.slow

COMMANDS = (
    "train",
    "generate",
    "reconstruct",
    "scan",
    "synthesize",
    "distill",
    "evaluate",
    "benchmark",
)


def test_help_names_every_command() -> None:
    out = mmldm("--help").succeeded()
    assert all(f" {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    out = mmldm(command, "--help").succeeded()
    assert f"Usage: mmldm {command}" in out


def test_help_names_the_extra_that_a_world_needs() -> None:
    """Square brackets are markup, which help swallows."""
    out = mmldm("synthesize", "--help").succeeded()
    assert "mmldm[worlds]" in "".join(out.split()).replace("│", "")


def test_no_arguments_show_the_help() -> None:
    result = mmldm()
    assert "Usage: mmldm" in result.out
    assert "Commands" in result.out


def test_version_is_the_packages() -> None:
    assert mmldm("--version").succeeded().strip() == __version__


def test_command_line_is_there_without_torch() -> None:
    heavy = "{'torch', 'diffusers', 'av', 'numpy'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, mmldm.cli.main; print({heavy} & set(sys.modules))"],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_package_gives_its_public_names_without_loading_torch_first() -> None:
    code = (
        "import sys, mmldm; assert not {'torch', 'diffusers', 'av'} & set(sys.modules); "
        "print(all(getattr(mmldm, name).__name__ == name for name in mmldm.__all__))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_windows_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as refusal:
        main.run()
    assert refusal.value.code == 2
    assert capsys.readouterr().err == "mmldm: Windows is not supported: use Linux, macOS, or WSL\n"


def test_unknown_command_and_option_are_named() -> None:
    for words in (("paint",), ("generate", "--paint")):
        result = mmldm(*words)
        assert result.code == 2
        assert "paint" in result.err
        assert "Traceback" not in result.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_with_130_and_keeps_finished_clips(
    tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "clips"
    words = (
        "synthesize",
        folder,
        "--clips",
        20_000,
        "--size",
        32,
        "--seconds",
        0.4,
        "--workers",
        1,
    )

    def written() -> int:
        return len(list(folder.glob("*/*.json")))

    result = interrupted(*words, progress=written, presses=4, number=number)
    assert result.code == 130, result.err
    assert "interrupted" in result.err
    assert "Traceback" not in result.err
    assert not list(folder.rglob("*.tmp*"))
    assert len(list(folder.glob("*/*.mp4"))) > 2


def test_file_names_that_are_not_text_are_printed(tmp_path: Path) -> None:
    folder = tmp_path / "clips\udcff"
    result = in_process("scan", folder)
    assert "does not exist" in result.complaint()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device", "a.mp4"), "a.mp4: No space left on device"),
        (MemoryError(), "out of memory (there is too little): use a smaller batch_size"),
        (RuntimeError("CUDA out of memory. Tried to"), "out of memory (CUDA out of memory."),
    ],
)
def test_what_the_machine_lacks_is_a_sentence(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        failing(error)([])
    assert end.value.code == 2
    assert f"mmldm: {sentence}" in capsys.readouterr().err


def test_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        failing(RuntimeError("a bug"))([])


def failing(error: Exception) -> typer.Typer:
    """The command line's own error handling around one command that fails."""
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @app.callback(invoke_without_command=True)
    def fail() -> None:
        raise error

    return app
