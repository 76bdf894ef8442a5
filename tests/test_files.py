"""A write is whole or was not; what a digest is; a lock is one process's."""

import errno
import hashlib
import json
import subprocess
import sys

import pytest

from assay import files
from assay.files import digest, file_sha256, json_digest, locked, new_directory, put_in_place, replacing, sha256, write_text

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Files


def test_a_file_is_written_with_its_folders_and_nothing_beside_it(tmp_path):
    write_text(tmp_path / "a" / "b" / "page.html", "naïve\n")
    assert (tmp_path / "a" / "b" / "page.html").read_bytes() == "naïve\n".encode()
    assert names(tmp_path / "a" / "b") == ["page.html"]


def test_a_write_that_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "reward.json"
    write_text(path, "old")

    def fail():
        with replacing(path) as work:
            work.write_text("half of the new")
            assert path.read_text() == "old"
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["reward.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_last_moment_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "reward.json"
    write_text(path, "old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "no space left")

    if call == "fsync":
        monkeypatch.setattr(files.os, "fsync", full)
    else:
        monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["reward.json"]


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file_and_directory(tmp_path):
    write_text(tmp_path / "reward.json", "old")
    with new_directory(tmp_path / "artifact") as work:
        (work / "weights").write_text("old")
    code = """
import os, signal, sys
from pathlib import Path
from assay.files import new_directory, replacing
folder = Path(sys.argv[1])
with replacing(folder / "reward.json") as file, new_directory(folder / "artifact") as work:
    file.write_text("new")
    (work / "weights").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert (tmp_path / "reward.json").read_text() == "old"
    assert (tmp_path / "artifact" / "weights").read_text() == "old"


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    seen = []
    sync = files.sync
    monkeypatch.setattr(files, "sync", lambda path: (seen.append((path.name, names(tmp_path))), sync(path)))
    (tmp_path / "ready").write_text("rows")
    put_in_place(tmp_path / "ready", tmp_path / "out.jsonl")
    assert seen == [("ready", ["ready"]), (tmp_path.name, ["out.jsonl"])]


# Directories


def test_a_directory_takes_the_place_of_the_old_one_whole(tmp_path):
    for content in ("old", "new"):
        with new_directory(tmp_path / "artifact") as work:
            (work / content).write_text(content)
            (work / "members").mkdir()
            (work / "members" / "0").write_text(content)
    assert names(tmp_path / "artifact") == ["members", "new"]
    assert (tmp_path / "artifact" / "members" / "0").read_text() == "new"
    assert names(tmp_path) == ["artifact"]
    assert (tmp_path / "artifact").stat().st_mode == (tmp_path / "artifact" / "members").stat().st_mode, "not private to its maker"


def test_a_directory_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path):
    with new_directory(tmp_path / "artifact") as work:
        (work / "weights").write_text("old")

    def fail():
        with new_directory(tmp_path / "artifact") as work:
            (work / "weights").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (tmp_path / "artifact" / "weights").read_text() == "old"
    assert names(tmp_path) == ["artifact"]


def test_a_directory_that_another_process_has_made_meanwhile_is_kept_if_wanted(tmp_path):
    with new_directory(tmp_path / "base", keep=True) as ours:
        (ours / "weights").write_text("ours")
        with new_directory(tmp_path / "base", keep=True) as theirs:
            (theirs / "weights").write_text("theirs")
    assert (tmp_path / "base" / "weights").read_text() == "theirs"
    assert names(tmp_path) == ["base"]


# Digests


def test_digests_are_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256("abc") == sha256(b"abc") == file_sha256(tmp_path / "abc") == ABC
    assert digest("abc") == ABC[:32]
    assert digest("\ud800") == hashlib.sha256(b"\xed\xa0\x80").hexdigest()[:32]


def test_a_digest_of_json_is_of_its_text_whatever_the_order_of_keys():
    content = {"b": [1, 2.5, None], "a": "naïve"}
    assert json_digest(content) == digest('{"a": "na\\u00efve", "b": [1, 2.5, null]}')
    assert json_digest(dict(reversed(content.items()))) == json_digest(content)
    assert json_digest([1, 2]) == digest(json.dumps([1, 2])) != json_digest([2, 1])


# Locks


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    path = tmp_path / "work" / "lock"
    with locked(path, busy="taken"):
        with pytest.raises(ValueError, match="taken"), locked(path, busy="taken"):
            pytest.fail("two hold it")
        path.unlink()  # as its owner does when the work is done
        path.parent.rmdir()
        with locked(path, busy="taken"):
            assert path.is_file()
    with locked(path, busy="taken"):
        assert path.is_file()
