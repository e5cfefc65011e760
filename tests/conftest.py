"""Shared fixtures: one thread per process, and the optional folder of foreign test media."""

import os
import signal
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)
# A shell that starts the tests in the background has them, and all they start, ignore SIGINT.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real clips, hostile media and public weights; tests skip where it is absent."""
    root = Path(os.environ.get("MMLDM_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "clips" / "MANIFEST.csv").is_file():
        pytest.skip("the shared test media folder is not on this machine")
    return root
