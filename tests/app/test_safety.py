"""Who can open the page, and what is said about it."""

import pytest

from mmldm.app.safety import Bounds, exposure, is_loopback, password_check
from mmldm.errors import UserError


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("example.org", False),
    ],
)
def test_only_addresses_of_this_computer_are_local(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local


def test_on_this_computer_alone_one_sentence_says_so() -> None:
    (said,) = exposure("127.0.0.1", 7860, share=False, has_password=False)
    assert "only this computer" in said


def test_on_a_network_it_is_said_who_can_do_what() -> None:
    said = " ".join(exposure("0.0.0.0", 7861, share=False, has_password=False))
    for words in ("everybody", "7861", "without a password", "--auth", "upload", "not encrypted"):
        assert words in said


def test_with_a_password_it_is_said_that_one_is_needed() -> None:
    said = " ".join(exposure("0.0.0.0", 7861, share=False, has_password=True))
    assert "with the name and the password" in said and "without a password" not in said


def test_a_share_link_is_said_to_go_through_others() -> None:
    said = " ".join(exposure("127.0.0.1", 7860, share=True, has_password=False))
    assert "share link" in said and "gradio" in said and "only this computer" not in said


def test_name_and_password_must_both_be_right() -> None:
    may_enter = password_check("ann:a long:secret")
    assert may_enter is not None
    assert may_enter("ann", "a long:secret")
    for name, password in [
        ("ann", "a long"),
        ("bob", "a long:secret"),
        ("", ""),
        ("ann", "\udcff"),
    ]:
        assert not may_enter(name, password)


def test_without_auth_everybody_may_enter() -> None:
    assert password_check(None) is None


@pytest.mark.parametrize("auth", ["ann", "ann:short", ":a long secret", ""])
def test_a_weak_password_is_refused(auth: str) -> None:
    with pytest.raises(UserError, match="NAME:PASSWORD"):
        password_check(auth)


def test_bounds_are_said_with_their_numbers() -> None:
    said = Bounds(upload_mb=7, seconds=42, results=3, waiting=5).sentence()
    for words in ("7 MB", "42 s", "3 at a time", "5 can wait", "an hour"):
        assert words in said
