import os
from pathlib import Path

import pytest

from qaccel.errors import QaccelError
from qaccel.run.files import check_file, check_folder, write_file, write_folder


def test_a_file_appears_whole(tmp_path: Path):
    path = write_file(tmp_path / "a.txt", lambda temporary: temporary.write_text("new"), "file")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")

    def broken(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(QaccelError, match="file '.*a.txt' cannot be written: No space left"):
        write_file(tmp_path / "a.txt", broken, "file")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_of_files(tmp_path: Path):
    folder = write_folder(tmp_path / "x" / "y", {"a": b"1", "deep/b": b"2"}, "report")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == ["a", "deep/b"]


def test_a_folder_that_cannot_be_filled_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(QaccelError, match="report folder '.*x' cannot be written: No space left"):
        write_folder(tmp_path / "x", {"a": b"1"}, "report")
    assert os.listdir(tmp_path) == []


def test_places_are_checked_before(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(QaccelError, match="is a file"):
        check_folder(tmp_path / "file" / "x", "report")
    with pytest.raises(QaccelError, match="is a folder"):
        check_file(tmp_path, "output")
    with pytest.raises(QaccelError, match="does not exist"):
        check_file(tmp_path / "missing" / "x", "output")
    assert check_folder(tmp_path / "a" / "b", "report") == tmp_path / "a" / "b"
    assert os.listdir(tmp_path) == ["file"]
