"""The page as a visitor meets it, in a real browser: every tab's journey, with sound that is decoded."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmldm.app.jobs import Job
from mmldm.media.writer import write_wav

pytestmark = [pytest.mark.app, pytest.mark.slow]
PATIENCE = 600_000
"""Milliseconds after which something counts as never coming, on however slow a machine."""
HEARD = """video => new Promise((heard, silent) => {
    video.addEventListener("error", () => silent(video.error.message));
    const look = () => {
        if (video.webkitAudioDecodedByteCount > 0 && video.webkitDecodedFrameCount > 0)
            heard([video.webkitAudioDecodedByteCount, video.duration]);
        else setTimeout(look, 50);
    };
    video.play().then(look, silent);
})"""


class Visitor:
    """One person at the page.

    Args:
        browser: Playwright's.
        address: Of the page.
        width: Of the screen, in pixels.
    """

    def __init__(self, browser: Any, address: str, width: int = 1100) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.address = address
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.open()

    def open(self) -> None:
        self.page.goto(self.address)
        self.page.get_by_role("button", name="Make", exact=True).wait_for()

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def tab(self, name: str) -> None:
        """Opens a tab, which on a narrow screen lies behind a button."""
        tab = self.page.get_by_role("tab", name=name, exact=True)
        if not tab.is_visible():
            self.page.locator(".overflow-menu button").first.click()
            self.page.locator(".overflow-dropdown button", has_text=name).click()
            return
        tab.click()

    def press(self, name: str) -> None:
        """Presses a button of the open tab."""
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    def results(self, tab: str, batches: int = 1) -> Any:
        """The newest results of a tab, once there are so many batches."""
        shelf = self.page.locator(f"#mm-shelf-{tab} > .mm-batch")
        refused = self.page.locator(f"#mm-status-{tab} [role=alert]")
        shelf.nth(batches - 1).or_(refused).first.wait_for()
        assert refused.count() == 0, refused.inner_text()
        assert shelf.count() == batches
        return shelf.first.locator(".mm-grid").first.locator("> .mm-card")

    def status(self, tab: str) -> str:
        """What a tab says once a request is over."""
        box = self.page.locator(f"#mm-status-{tab} [role=status], #mm-status-{tab} [role=alert]")
        box.first.wait_for()
        return box.first.inner_text()

    def give(self, field: str, path: Path) -> None:
        """Uploads a file."""
        self.page.locator(f"#{field} input[type=file]").first.set_input_files(str(path))

    def close(self) -> None:
        self.context.close()


def heard(card: Any) -> tuple[int, float]:
    """Bytes of sound that were decoded, and the film's seconds."""
    count, seconds = card.locator("video").evaluate(HEARD)
    assert count > 0
    card.locator("video").evaluate("video => video.pause()")
    return count, seconds


@pytest.fixture
def ann(browser, page) -> Iterator[Visitor]:
    visitor = Visitor(browser, page.address)
    yield visitor
    visitor.close()


def test_clips_are_made_and_heard_without_a_word_to_anybody_else(ann: Visitor) -> None:
    ann.page.get_by_label("Seed").locator("visible=true").fill("7")
    ann.press("Make")
    cards = ann.results("make")
    assert cards.count() >= 1
    heard(cards.first)
    assert "seed" in cards.first.inner_text() and "7" in cards.first.inner_text()
    # The playhead stands where the film does.
    moved = cards.first.evaluate(
        """async card => {
            const video = card.querySelector("video");
            video.currentTime = video.duration / 2;
            await new Promise(done => video.addEventListener("seeked", done, {once: true}));
            return parseFloat(getComputedStyle(card.querySelector(".mm-head")).left)
                / card.querySelector(".mm-strip").clientWidth;
        }"""
    )
    assert 0.4 < moved < 0.6
    picture = cards.first.locator("img")
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 640
    for kind in ("mp4", "wav", "settings"):
        with ann.page.expect_download() as saved:
            cards.first.get_by_role("link", name=re.compile(f"Download {kind}")).click()
        assert Path(saved.value.path()).stat().st_size > 100
    assert ann.elsewhere == [] and ann.complaints == []


def test_an_example_is_one_click(ann: Visitor) -> None:
    ann.press("Example: wood, 5 seconds")
    count, seconds = heard(ann.results("make").first)
    assert seconds == pytest.approx(5, abs=0.2)


def test_a_tapped_rhythm_gets_pictures(ann: Visitor) -> None:
    ann.tab("Sound to picture")
    pad = ann.page.locator(".mm-pad")
    pad.focus()
    for _ in range(3):
        pad.press(" ")
    assert "3 taps" in ann.page.locator(".mm-count").inner_text()
    pad.click()
    assert "4 taps" in ann.page.locator(".mm-count").inner_text()
    ann.page.get_by_label("glass", exact=True).check()
    ann.press("Make pictures for this rhythm")
    heard(ann.results("sound").first)
    assert ann.complaints == []


def test_a_given_sound_gets_pictures(ann: Visitor, tone: Path) -> None:
    ann.tab("Sound to picture")
    ann.give("mm-sound", tone)
    # What is used is said before anything is made.
    ann.page.get_by_text("2 s of it are used").wait_for()
    ann.press("Make pictures for this sound")
    _, seconds = heard(ann.results("sound").first)
    assert seconds == pytest.approx(2, abs=0.2)


def test_a_given_picture_gets_sounds(ann: Visitor, film: Path) -> None:
    ann.tab("Picture to sound")
    ann.give("mm-film", film)
    ann.page.get_by_text("s of it are used").first.wait_for()
    ann.press("Make sounds for this picture")
    heard(ann.results("picture").first)


def test_a_result_goes_on_and_a_part_of_it_is_redone(ann: Visitor, page) -> None:
    ann.press("Make")
    ann.results("make").first.get_by_role("button", name=re.compile("Go on")).click()
    # The tab opens with the clip.
    ann.page.locator(".mm-card .mm-use").locator("visible=true").first.wait_for()
    ann.page.get_by_label("Seconds to add").fill("1")
    ann.press("Go on from this")
    _, seconds = heard(ann.results("continue").first)
    assert seconds == pytest.approx(page.desk.studio.pipeline.clip_spec.duration + 1, abs=0.2)
    ann.press("Redo this part")
    heard(ann.results("continue", batches=2).first)


def test_what_is_kept_is_shown_with_numbers(ann: Visitor, film: Path) -> None:
    ann.tab("Reconstruct")
    ann.give("mm-kept", film)
    ann.page.get_by_text("s of it are used").first.wait_for()
    ann.press("Show what is kept")
    cards = ann.results("reconstruct")
    assert cards.count() == 2
    heard(cards.nth(1))
    said = ann.page.locator("#mm-shelf-reconstruct").inner_text()
    assert "PSNR" in said and "mel error" in said


def test_history_lives_through_a_reload_and_is_ones_own(browser, page, ann: Visitor) -> None:
    ann.press("Make")
    ann.results("make")
    ann.open()
    ann.tab("History")
    cards = ann.page.locator(".mm-batch .mm-card").locator("visible=true")
    cards.first.wait_for()
    heard(cards.first)
    address = cards.first.locator("video").evaluate("video => video.src")

    bob = Visitor(browser, page.address)
    bob.tab("History")
    bob.page.get_by_text("Nothing was made yet").wait_for()
    assert bob.context.request.get(address).status == 404
    assert ann.context.request.get(address).status == 200
    bob.close()


def test_stop_ends_the_sampler(ann: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    # The sampler is held after its first step, until somebody presses Stop.
    taken = Job.progress

    def held(job: Job, what: str, done: int, total: int) -> None:
        taken(job, what, done, total)
        job._stop.wait(PATIENCE / 1000)  # noqa: SLF001

    monkeypatch.setattr(Job, "progress", held)
    ann.press("Make")
    ann.page.locator("#mm-status-make progress[value]").wait_for()
    ann.press("Stop")
    assert "Stopped after 1 step" in ann.status("make")
    monkeypatch.undo()
    ann.press("Make")
    heard(ann.results("make").first)


def test_a_new_request_does_not_stop_what_plays(ann: Visitor) -> None:
    ann.press("Make")
    first = ann.results("make").first
    heard(first)
    video = first.locator("video").element_handle()
    video.evaluate("video => video.play()")
    ann.press("Make")
    ann.results("make", batches=2)
    assert video.evaluate("video => [video.paused, video.isConnected]") == [False, True]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text.mp4", "text.mp4"),
        ("zero_byte.mp4", "zero_byte.mp4"),
        ("one_frame_20ms.mp4", "one frame, in which nothing moves"),
        ("bitflips_moov.mp4", "bitflips_moov.mp4"),
        ("bomb_8192x8192.mp4", "8192x8192"),
        ("playlist_named.mp4", "playlist_named.mp4"),
    ],
)
def test_a_bad_film_is_a_sentence(ann: Visitor, shared: Path, name: str, words: str) -> None:
    ann.tab("Picture to sound")
    ann.give("mm-film", shared / "nasty" / "made" / name)
    ann.page.locator("[role=alert], .mm-note").locator("visible=true").first.wait_for()
    ann.press("Make sounds for this picture")
    said = ann.status("picture")
    assert words in said and "Traceback" not in said and "/" not in said.replace("I/O", "")


def test_too_large_a_file_is_a_sentence_and_the_page_lives_on(
    ann: Visitor, tmp_path: Path, tone: Path
) -> None:
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(2 << 30)
    ann.tab("Picture to sound")
    ann.give("mm-film", large)
    ann.page.get_by_text(re.compile("maximum|too large|exceed", re.IGNORECASE)).first.wait_for()
    ann.press("Make sounds for this picture")
    assert "give a file first" in ann.status("picture").lower()
    ann.tab("Make")
    ann.press("Make")
    ann.results("make")


def test_a_silent_sound_is_a_sentence(ann: Visitor, tmp_path: Path) -> None:
    write_wav(tmp_path / "mute.wav", torch.zeros(16000), 16000)
    ann.tab("Sound to picture")
    ann.give("mm-sound", tmp_path / "mute.wav")
    ann.page.get_by_text("s of it are used").first.wait_for()
    ann.press("Make pictures for this sound")
    assert "is the microphone on" in ann.status("sound")


def test_fifty_clicks_are_one_request(ann: Visitor) -> None:
    button = ann.page.get_by_role("button", name="Make", exact=True)
    button.evaluate("button => { for (let i = 0; i < 50; i++) button.click(); }")
    ann.results("make")
    assert ann.page.locator("#mm-shelf-make > .mm-batch").count() == 1


def test_it_is_used_with_the_keyboard_alone(ann: Visitor) -> None:
    focused = "() => [document.activeElement.innerText, document.activeElement.className]"

    def go_to(words: str, css: str = "") -> None:
        for _ in range(120):
            ann.page.keyboard.press("Tab")
            text, kind = ann.page.evaluate(focused)
            if (text or "").strip() == words and css in str(kind):
                return
        raise AssertionError(f"the tabulator never comes to {words}")

    go_to("Make", "primary")
    ann.page.keyboard.press("Enter")
    ann.results("make")
    go_to("Go on")
    ann.page.keyboard.press("Enter")
    ann.page.get_by_label("Seconds to add").wait_for()
    assert ann.complaints == []


def test_everything_has_a_label(ann: Visitor) -> None:
    ann.press("Make")
    ann.results("make")
    nameless = ann.page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, video, img, a")]
            .filter(e => e.offsetParent && !(e.innerText || "").trim()
                && !e.getAttribute("aria-label") && !e.title && !e.alt && !e.labels?.length)
            .map(e => e.outerHTML.slice(0, 200))"""
    )
    assert nameless == []


def test_a_narrow_screen_is_enough(browser, page) -> None:
    ann = Visitor(browser, page.address, width=390)
    ann.press("Make")
    heard(ann.results("make").first)
    for name in (
        "Sound to picture",
        "Picture to sound",
        "Go on, redo",
        "Reconstruct",
        "History",
        "About",
    ):
        ann.tab(name)
        assert ann.page.evaluate("() => document.documentElement.scrollWidth") <= 390, name
    ann.close()
