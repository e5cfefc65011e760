"""A page with a tiny model, open for a module's tests, and a browser."""

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    """The page, served from this process; its bounds are small enough to be reached."""
    pytest.importorskip("gradio", reason="the extra is missing: pip install 'mmldm[app]'")
    from mmldm.app.safety import Bounds
    from mmldm.app.serving import Options, served

    from ..pipelines.conftest import build_pipeline

    bounds = Bounds(upload_mb=2, uploads=12, seconds=6.0, waiting=2)
    with served(build_pipeline(), None, bounds, Options()) as page:
        yield page


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, driven by Playwright, which brings none of its own."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is missing: pip install 'mmldm[test-app]'"
    )
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt install chromium, or CHROMIUM=/path/to/one")
    arguments = [
        "--no-sandbox",
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav of two seconds."""
    import torch

    from mmldm.media.writer import write_wav

    path = tmp_path_factory.mktemp("tone") / "two knocks.wav"
    time = torch.arange(2 * 16000) / 16000
    sound = 0.8 * torch.sin(2000 * time) * ((time % 1.0) < 0.05)
    write_wav(path, sound, 16000)
    return path


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film with sound, of 1.6 s, in which a bar moves."""
    import torch

    from mmldm.media.clip import Clip

    frames = torch.zeros(16, 3, 64, 64, dtype=torch.uint8)
    for number in range(16):
        frames[number, :, :, 4 * number : 4 * number + 4] = 255
    sound = 0.5 * torch.sin(torch.arange(25600) * 0.2)
    return Clip(frames, sound, 10.0, 16000).save(tmp_path_factory.mktemp("film") / "bar.mp4")
