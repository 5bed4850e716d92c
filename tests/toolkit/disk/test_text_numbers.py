"""Numbers of texts kept by content: made once, found again by other runs, and made again where a file is damaged."""

import os

import numpy as np
import pytest

from interrupted import Killed
from manyhot.toolkit.disk import text_numbers as module
from manyhot.toolkit.disk.text_numbers import TextNumbers, cache_folder


class Maker:
    """Numbers that tell their text, and a list of what was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts, progress):
        self.asked.append(list(texts))
        progress(1.0)
        return numbers(texts)


def numbers(texts):
    return np.array([[len(text), sum(map(ord, text))] for text in texts], dtype=np.float32)


def test_each_text_is_made_once_by_whatever_object(tmp_path):
    make, known = Maker(), TextNumbers("d", 2, tmp_path)
    texts = ["a", "bb", "a", "", "\udc80"]
    np.testing.assert_array_equal(known.of(texts, make), numbers(texts))
    assert make.asked == [["a", "bb", "", "\udc80"]]
    np.testing.assert_array_equal(known.of(["bb", "a"], make), numbers(["bb", "a"]))
    again = TextNumbers("d", 2, tmp_path)
    np.testing.assert_array_equal(again.of(["ccc", *texts], make), numbers(["ccc", *texts]))
    assert make.asked[1:] == [["ccc"]]
    assert (again.asked, again.made) == (6, 1)
    assert TextNumbers("other", 2, tmp_path).of(["a"], make) is not None
    assert make.asked[2:] == [["a"]]


def test_what_is_said(tmp_path):
    known = TextNumbers("d", 2, tmp_path)
    known.of(["a", "b", "a"], Maker())
    assert (
        known.describe()
        == f"2 made, 1 known; all that are kept lie in {tmp_path}/numbers, 0.0 MB: remove the folder to clear them"
    )
    assert TextNumbers("d", 2, None).describe() == "0 made, 0 known; none are kept"


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    TextNumbers("d", 2, tmp_path).of(["a"], Maker())
    (path,) = tmp_path.rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\0" if damage is None else damage)
    make = Maker()
    np.testing.assert_array_equal(TextNumbers("d", 2, tmp_path).of(["a"], make), numbers(["a"]))
    assert make.asked == [["a"]]
    assert path.read_bytes() == whole


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    folder = tmp_path / "numbers" / "d"
    folder.mkdir(parents=True)
    np.save(folder / "x.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    content = (folder / "x.npy").read_bytes()
    (folder / f"{module.sha256(content)}.npy").write_bytes(content)
    TextNumbers("d", 2, tmp_path).of(["a"], Maker())
    assert not (tmp_path / "executed").exists()


def test_after_a_kill_only_the_parts_that_were_missing_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 2)
    texts, parts = list("abcde"), [["a", "b"], ["c", "d"], ["e"]]
    make = Maker()

    def dies(texts, progress):
        if len(make.asked) == 1:
            raise Killed
        return make(texts, progress)

    with pytest.raises(Killed):
        TextNumbers("d", 2, tmp_path).of(texts, dies)
    shares = []
    np.testing.assert_array_equal(TextNumbers("d", 2, tmp_path).of(texts, make, shares.append), numbers(texts))
    assert make.asked == parts
    assert shares == [2 / 3, 1]


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "numbers").write_text("a file")
    known = TextNumbers("d", 2, tmp_path)
    np.testing.assert_array_equal(known.of(["a", "b"], Maker()), numbers(["a", "b"]))
    assert known.describe().startswith("2 made, 0 known; none are kept (")


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache_folder() is None  # as tests have it
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MANYHOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "manyhot"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "manyhot"
