"""Whose a disk directory is, and what is refused as none of ours."""

import json
import os
import subprocess
import sys

import pytest

from kvstore.disks.disk_directory import FORMAT_VERSION, DiskDirectory
from kvstore.errors import ConfigError

IDENTITY = "kvstore-disk.json"


def make(path) -> dict:
    """A disk directory that was used once; its identity as written."""
    DiskDirectory(path, create=True).close()
    return json.loads((path / IDENTITY).read_text())


def test_a_missing_directory_is_made_for_its_owner_alone(tmp_path):
    directory = DiskDirectory(tmp_path / "disk", create=True)
    assert (tmp_path / "disk").stat().st_mode & 0o777 == 0o700
    assert len(directory.disk_id) == 16
    assert directory.size_bytes == 0
    directory.close()


def test_who_it_is_stays(tmp_path):
    first = DiskDirectory(tmp_path, create=True)
    disk_id = first.disk_id
    first.remember_size(123 << 20)
    first.close()
    second = DiskDirectory(tmp_path, create=False)
    assert (second.disk_id, second.size_bytes) == (disk_id, 123 << 20)
    second.close()


def test_no_two_are_the_same(tmp_path):
    assert make(tmp_path / "one")["disk_id"] != make(tmp_path / "two")["disk_id"]


def test_belongs_to_one_owner(tmp_path):
    owner = DiskDirectory(tmp_path, create=True)
    with pytest.raises(ConfigError, match=rf"{tmp_path} belongs to one running node \(process {os.getpid()}\)"):
        DiskDirectory(tmp_path, create=True)
    owner.close()
    owner.close()
    DiskDirectory(tmp_path, create=True).close()


def test_is_free_again_when_its_owner_was_killed(tmp_path):
    script = (
        "import os, signal, sys; from kvstore.disks.disk_directory import DiskDirectory\n"
        "disk = DiskDirectory(sys.argv[1], create=True); print(os.getpid(), flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        pid = owner.stdout.readline().strip()
        with pytest.raises(ConfigError, match=rf"\(process {pid}\); stop it, or name another"):
            DiskDirectory(tmp_path, create=True)
        owner.kill()
        owner.wait()
    DiskDirectory(tmp_path, create=True).close()


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a directory"):
        DiskDirectory(tmp_path / "file", create=True)


def test_a_disk_that_is_not_mounted_is_not_made_elsewhere(tmp_path):
    with pytest.raises(ConfigError, match="is it mounted"):
        DiskDirectory(tmp_path / "mount" / "disk", create=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["thesis.tex", "catalog", "extents-0000.kv"])
def test_a_foreign_directory_is_refused_and_left_as_it_is(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=rf"is not a disk directory of kvstore.*holds '{name}'; name an empty"):
        DiskDirectory(tmp_path, create=True)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_fresh_file_system_is_welcome(tmp_path):
    (tmp_path / "lost+found").mkdir()
    DiskDirectory(tmp_path, create=True).close()


def test_a_first_start_that_was_cut_short_is_taken_up(tmp_path):
    make(tmp_path)
    (tmp_path / IDENTITY).rename(tmp_path / f"{IDENTITY}.part")
    DiskDirectory(tmp_path, create=True).close()
    assert (tmp_path / IDENTITY).exists()


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_is_made_where_something_must_be(tmp_path, exists):
    path = tmp_path / "disk"
    if exists:
        path.mkdir()
    with pytest.raises(ConfigError, match="is not a disk directory" if exists else "does not exist"):
        DiskDirectory(path, create=False)
    assert not exists or not list(path.iterdir())


def test_a_newer_format_is_refused_with_both_versions(tmp_path):
    identity = make(tmp_path) | {"format_version": FORMAT_VERSION + 1, "created_by": "kvstore 99.0"}
    (tmp_path / IDENTITY).write_text(json.dumps(identity))
    with pytest.raises(ConfigError, match=rf"format {FORMAT_VERSION + 1}, written by kvstore 99.0;.* up to 1"):
        DiskDirectory(tmp_path, create=True)


def test_any_changed_field_is_damage(tmp_path):
    original = make(tmp_path)
    changes = {"format": "other", "disk_id": "0" * 32, "bytes": 1, "created_by": "me", "crc32c": 1}
    for field, value in changes.items():
        (tmp_path / IDENTITY).write_text(json.dumps(original | {field: value}))
        with pytest.raises(ConfigError, match="kvstore-disk.json is damaged"):
            DiskDirectory(tmp_path, create=True)
    for text in ("", "[]", "{", "\0" * 300):
        (tmp_path / IDENTITY).write_text(text)
        with pytest.raises(ConfigError, match="kvstore-disk.json is damaged"):
            DiskDirectory(tmp_path, create=True)
    # Another order and other spaces say the same.
    (tmp_path / IDENTITY).write_text(json.dumps(dict(reversed(original.items()))))
    DiskDirectory(tmp_path, create=True).close()


def test_notices_when_it_is_removed_or_replaced(tmp_path):
    path = tmp_path / "disk"
    directory = DiskDirectory(path, create=True)
    directory.check_present()
    path.rename(tmp_path / "moved")
    with pytest.raises(OSError, match="is gone: No such file"):
        directory.check_present()
    make(path)
    with pytest.raises(OSError, match="is gone: another one has taken its place"):
        directory.check_present()
    directory.close()
