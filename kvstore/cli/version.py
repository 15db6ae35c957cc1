"""`kvstore version`"""

from __future__ import annotations

from kvstore import __version__
from kvstore.transport import native, ucx_library

__all__ = ["run"]


def run() -> None:
    """Prints one line for each thing that has a version. Raises `UnsupportedError`."""
    print(f"kvstore {__version__}, wire version {native().WIRE_VERSION}")
    print(f"ucx     {ucx_library.load()}")
    print(f"crc32c  {native().crc32c_implementation()}")
