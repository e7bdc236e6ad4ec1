import os
import threading
from contextlib import suppress

import pytest

from rvq.errors import InputError
from rvq.replacing import replacing


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "made.txt"
    with suppress(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["made.txt"]


def test_names_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("ä" * 124 + ".rvq")
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    too_long = tmp_path / ("ä" * 130 + ".rvq")
    with pytest.raises(InputError, match="too long"), replacing(too_long) as temporary:
        temporary.write_text("whole")
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target.txt", tmp_path / "link.txt"
    target.write_text("before")
    link.symlink_to(target)
    with replacing(link) as temporary:
        temporary.write_text("after")
    assert link.is_symlink()
    assert target.read_text() == "after"


def test_pipes_are_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as path:
        path.write_text("through")
    reader.join()
    assert heard == ["through"]
    assert pipe.is_fifo()


def test_what_cannot_be_written(tmp_path):
    for path, reason in ((tmp_path, "directory"), (tmp_path / "no" / "file", "no folder")):
        with pytest.raises(InputError, match=reason), replacing(path) as temporary:
            temporary.write_text("x")
