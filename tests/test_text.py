"""Names go out so that no terminal and no page obeys them."""

import pytest

from mmldm.evaluation.page import markdown_table
from mmldm.text import is_utf8, markdown, printable, printable_lines


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name (1).mp4", "plain name (1).mp4"),
        ("Füße 音 👩‍👧.mp4", "Füße 音 👩‍👧.mp4"),
        ("a\x1b[2J\x07.mp4", r"a\x1b[2J\x07.mp4"),
        ("a\r\nb\t.mp4", r"a\r\nb\t.mp4"),
        ("a\x85b\u2028c\u2029.mp4", r"a\x85b\u2028c\u2029.mp4"),
        ("abc\u202e4pm.exe", r"abc\u202e4pm.exe"),
        ("caf\udce9.mp4", r"caf\xe9.mp4"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
    ],
)
def test_name_is_one_line_in_which_nothing_is_obeyed(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert printable(shown) == shown
    assert len(shown.splitlines()) == 1


def test_own_newlines_stand() -> None:
    assert printable_lines("two\nlines\x1b") == "two\nlines\\x1b"


def test_names_that_cannot_be_written_down_are_known() -> None:
    assert is_utf8("音\n") and not is_utf8("caf\udce9") and not is_utf8("\ud800")


def test_markdown_shows_names_as_they_are() -> None:
    assert markdown("a|b`c`<img>[x](y)*z*&lt;") == r"a\|b\`c\`\<img\>\[x\](y)\*z\*\&lt;"
    assert markdown("fire_crackling_136.mp4\n") == r"fire_crackling_136.mp4\\n"


def test_no_cell_breaks_its_table() -> None:
    cells = ["a|b", "two\nlines", "<script>x</script>", r"0.5\* [1, 2]", markdown("c|d")]
    table = markdown_table(["", "x\u2028y", "", "", ""], [cells])
    assert table.splitlines() == [
        r"|  | x\u2028y |  |  |  |",
        "| --- | --- | --- | --- | --- |",
        r"| a\|b | two\nlines | &lt;script>x&lt;/script> | 0.5\* [1, 2] | c\|d |",
    ]
