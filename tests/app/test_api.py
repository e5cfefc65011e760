"""The page's calls by `gradio_client`, as docs/page.md shows them."""

from pathlib import Path

import pytest

from mmldm.pipelines.provenance import provenance_of

httpx = pytest.importorskip("httpx", reason="the extra is missing: mmldm[app]")
client = pytest.importorskip("gradio_client", reason="the extra is missing: mmldm[app]")
pytestmark = [pytest.mark.app, pytest.mark.slow]
OPEN = {"quality": "", "results": 1, "seed": 3}


@pytest.fixture
def ann(page, tmp_path: Path):
    return client.Client(page.address, verbose=False, download_files=str(tmp_path))


def test_clips_from_nothing(ann) -> None:
    films, facts = ann.predict(
        class_name="wood", seconds=None, seed=7, quality="", results=2, api_name="/make"
    )
    assert [provenance_of(Path(film)).seed for film in films] == [7, 8]
    assert [one["seed"] for one in facts["clips"]] == [7, 8]
    assert {one["class"] for one in facts["clips"]} == {"wood"}


def test_pictures_for_a_sound_and_for_taps(ann, tone: Path) -> None:
    films, facts = ann.predict(
        sound=client.handle_file(tone), start=0, end=1, class_name="", **OPEN, api_name="/for_sound"
    )
    assert len(films) == 1 and any("1 s of it are used" in line for line in facts["said"])
    films, facts = ann.predict(
        taps=[0.2, 0.6], instrument="glass", class_name="", **OPEN, api_name="/for_taps"
    )
    assert len(films) == 1 and facts["clips"][0]["seconds"] == pytest.approx(1.6, abs=0.13)


def test_sounds_for_a_picture_more_of_a_clip_and_what_is_kept(ann, film: Path) -> None:
    given = client.handle_file(film)
    _, facts = ann.predict(
        film=given, start=0, end=None, class_name="", **OPEN, api_name="/for_picture"
    )
    assert facts["clips"][0]["seconds"] == pytest.approx(1.6, abs=0.13)
    _, facts = ann.predict(clip=given, seconds=1, **OPEN, api_name="/extend")
    assert facts["clips"][0]["seconds"] > 2.3
    _, facts = ann.predict(clip=given, start=0.5, end=1, only="sound", **OPEN, api_name="/retake")
    assert "made anew" in facts["title"]
    films, facts = ann.predict(clip=given, start=0, end=None, api_name="/reconstruct")
    assert len(films) == 2 and "PSNR" in facts["said"][0]


def test_what_is_refused_raises_the_sentence(ann, shared: Path) -> None:
    with pytest.raises(client.exceptions.AppError, match="it has wood, metal"):
        ann.predict(class_name="silk", seconds=None, **OPEN, api_name="/make")
    text = client.handle_file(shared / "nasty" / "made" / "text.mp4")
    with pytest.raises(client.exceptions.AppError, match="text.mp4"):
        ann.predict(film=text, start=0, end=None, class_name="", **OPEN, api_name="/for_picture")


def answer_to(visitor, page, path: str) -> str:
    """What the page answers when a file is named that was not uploaded; `gradio_client` would upload it."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    call = f"{page.address}gradio_api/call/for_sound"
    asked = visitor.post(call, json={"data": [file, 0, None, "", 3, "", 1]})
    if not asked.is_success:
        return asked.text
    return visitor.get(f"{call}/{asked.json()['event_id']}", timeout=600).text


@pytest.fixture
def bob():
    with httpx.Client() as visitor:
        yield visitor


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "http://127.0.0.1:9/x.wav", "../x.wav"])
def test_no_path_from_outside_is_accepted(bob, page, path: str) -> None:
    answer = answer_to(bob, page, path)
    assert "event: error" in answer and "event: complete" not in answer


def test_another_visitors_file_is_refused_until_it_is_his_own(ann, bob, page, tone: Path) -> None:
    ann.predict(
        sound=client.handle_file(tone), start=0, end=None, class_name="", **OPEN,
        api_name="/for_sound",
    )  # fmt: skip
    (path,) = page.desk.sittings.uploads.rglob("*knocks.wav")
    assert "not here any more" in answer_to(bob, page, str(path))
    bob.post(f"{page.address}gradio_api/upload", files={"files": (tone.name, tone.read_bytes())})
    assert "event: complete" in answer_to(bob, page, str(path))


def test_fifty_requests_at_once_are_answered_each_with_a_sentence(ann) -> None:
    jobs = [ann.submit(class_name="", seconds=None, **OPEN, api_name="/make") for _ in range(50)]
    outcomes = [job.exception(timeout=600) for job in jobs]
    told = [str(error) for error in outcomes if error is not None]
    assert len(told) < 50
    assert all("still at work" in line or "waiting" in line for line in told)
    # And the page lives on.
    assert ann.predict(class_name="", seconds=None, **OPEN, api_name="/make")


def test_memory_is_flat_over_200_requests(ann, page) -> None:
    """What requests leave is bounded: clips kept of a visitor, and gradio's own books."""

    def resident() -> float:
        """Megabytes."""
        with Path("/proc/self/status").open() as status:
            (line,) = [line for line in status if line.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not say how much memory a process has")
    sizes = []
    for number in range(200):
        # Copies for the client count as files that are given: they go as after an hour.
        page.desk.sittings.sweep(now=4e9)
        ann.predict(class_name="", seconds=None, **OPEN, api_name="/make")
        if number >= 49:
            sizes.append(resident())
    assert sizes[-1] - sizes[0] < 0.05 * sizes[0]
