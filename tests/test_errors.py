"""What libraries say is told in our words, in one line."""

import json

import pytest

from mmldm.config import load_config
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError, first_line
from mmldm.strict import read_json


def caught(function, *words):
    with pytest.raises(Exception) as error:
        function(*words)
    return error.value


def test_what_people_meet_is_in_our_words(tmp_path):
    assert first_line(caught(b"\xff".decode)) == "it is not text in UTF-8"
    assert first_line(caught(json.loads, "{\n1")) == "line 2 is not JSON"
    assert first_line(caught((tmp_path / "none").read_text)) == "No such file or directory"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(AssertionError()) == "AssertionError"


def test_files_that_are_no_text_are_told_without_the_codecs_words(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_bytes(b"\xff\xfe")
    for read in (load_config, Manifest.load):
        sentence = str(caught(read, path))
        assert "it is not text in UTF-8" in sentence and "codec" not in sentence
    assert "it is not text in UTF-8" in str(caught(read_json, path, "missing"))


def test_an_entry_that_is_none_is_told_without_pydantics_words(tmp_path):
    path = tmp_path / "manifest.jsonl"
    header = '{"format": "mmldm-manifest", "version": 1, "root": "."}'
    path.write_text(f'{header}\n{{"path": "a", "status": "used", "size": "x"}}\n')
    error = caught(Manifest.load, path)
    assert isinstance(error, UserError)
    assert str(error).startswith(f"{path}, line 2 is not a manifest entry: size: 'x' is wrong")
    assert "http" not in str(error) and "\n" not in str(error)
