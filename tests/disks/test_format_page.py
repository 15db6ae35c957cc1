"""docs/FORMAT.md against the code that writes and reads those bytes."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

import kvstore
from kvstore.disks.rocks import RowReader, close_database, open_database
from kvstore.transport import native

PAGE = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text()
KEY = bytes(range(32))
BLOCK = bytes(range(256)) * 4096
NEVER = (1 << 64) - 1
# As the tables of the page have them; the last field is the checksum.
BLOCK_VALUE = struct.Struct("<B3xIIIQQQ4xI")
PIN_VALUE = struct.Struct("<B7xQ4xI")
HEADER = struct.Struct("<8sII16sQQQQ444xI")


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk that holds the block of the example, pinned."""
    path = tmp_path_factory.mktemp("format") / "disk"
    with kvstore.connect(f"embedded://?memory=16MiB&disk={path}&disk_size=64MiB") as store:
        keys = np.frombuffer(KEY, np.uint8).reshape(1, 32)
        assert store.put(keys, [np.frombuffer(BLOCK, np.uint8)], durable=True, first_depth=5).all_ok
        assert store.pin(keys, owner="agent-7", ttl_s=3600).all_ok
    return path


@pytest.fixture(scope="module")
def rows(disk):
    database = open_database(disk / "catalog", read_only=True)
    found = {key: value for batch in RowReader(database) for key, value in batch}
    close_database(database)
    return found


def example():
    """The lines of hexadecimal digits in the example: key and value."""
    section = PAGE.partition("### Example")[2].partition("\n## ")[0]
    key, value = re.findall(r"^    ([0-9a-f ]+)$", section, re.M)
    return bytes.fromhex(key), bytes.fromhex(value)


def test_the_example_is_what_it_says():
    key, value = example()
    assert key == b"b" + KEY
    version, depth, length, crc, offset, expiry, stamp, checksum = BLOCK_VALUE.unpack(value)
    assert (version, depth, length, offset, stamp) == (1, 5, len(BLOCK), 0x201000, 7)
    assert crc == native().crc32c(BLOCK)
    assert expiry == int(np.datetime64("2030-03-17T17:46:40", "ms").astype(int))
    assert checksum == native().crc32c(key + value[:44])


def test_the_example_is_a_row_to_the_code_and_any_other_byte_is_not(tmp_path):
    key, value = example()

    def why(key, value):
        check = native().DiskCheck(str(tmp_path), bytes(16), 0)
        check.add([(key, value)])
        check.plan()
        while not check.read(10):
            pass
        return [why for why, _, _ in check.findings]

    assert why(key, value) == ["outside"]  # decoded; this disk has no space at all
    for at in range(len(value)):
        assert why(key, value[:at] + bytes([value[at] ^ 0x10]) + value[at + 1 :]) == ["malformed"]
    for at in range(len(key)):
        assert why(key[:at] + bytes([key[at] ^ 0x10]) + key[at + 1 :], value) == ["malformed"]


def test_a_block_is_written_as_the_page_says(disk, rows):
    value = rows[b"b" + KEY]
    version, depth, length, crc, offset, expiry, stamp, checksum = BLOCK_VALUE.unpack(value)
    assert (version, depth, length, crc, expiry) == (1, 5, len(BLOCK), native().crc32c(BLOCK), NEVER)
    assert stamp > 0
    assert checksum == native().crc32c(b"b" + KEY + value[:44])
    with (disk / "extents-0000.kv").open("rb") as file:
        file.seek(offset)
        assert file.read(length) == BLOCK


def test_a_pin_is_written_as_the_page_says(rows):
    key = b"p" + KEY + b"agent-7"
    version, expiry, checksum = PIN_VALUE.unpack(rows[key])
    assert version == 1
    assert 0 < expiry < NEVER
    assert checksum == native().crc32c(key + rows[key][:20])


def test_a_header_is_written_as_the_page_says(disk):
    header = (disk / "extents-0000.kv").open("rb").read(4096)
    identity = json.loads((disk / "kvstore-disk.json").read_text())
    fields = HEADER.unpack(header[:512])
    magic, version, index, disk_id, file_bytes, disk_bytes, lost_offset, lost_bytes, checksum = fields
    assert (magic, version, index, file_bytes) == (b"KVEXTENT", 1, 0, 8 << 30)
    assert disk_id.hex() == identity["disk_id"]
    assert disk_bytes == identity["bytes"] == 64 << 20
    assert (lost_offset, lost_bytes) == (0, 0)
    assert checksum == native().crc32c(header[:508])
    assert not any(header[512:])


def test_the_identity_is_written_as_the_page_says(disk):
    identity = json.loads((disk / "kvstore-disk.json").read_text())
    shown = re.search(r'^    (\{"format": .*?\})', PAGE, re.M | re.S)
    assert list(json.loads(shown[1])) == list(identity)
    checksum = identity.pop("crc32c")
    assert checksum == native().crc32c(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode())


def test_the_page_names_every_file(disk):
    listing = PAGE.partition("/mnt/nvme0/kv/")[2].partition("A directory is complete")[0]
    for entry in disk.iterdir():
        assert entry.name in listing
