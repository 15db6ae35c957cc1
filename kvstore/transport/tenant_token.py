"""The token that says on whose behalf a client speaks: a secret text in a file, sent with every control call."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from kvstore.errors import ConfigError

__all__ = ["METADATA_KEY", "bearer", "read_token", "token_of"]

METADATA_KEY: Final = "authorization"
"""Name of the metadata of a call that carries the token."""

_SCHEME: Final = "Bearer "
_TOKEN: Final = re.compile(r"[!-~]{16,4096}")


def read_token(file: str) -> str:
    """The token in a file, without white space around it. Raises `ConfigError`."""
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {file!r} cannot be read: {error}") from error
    if not _TOKEN.fullmatch(token):
        raise ConfigError(f"token file {file!r} must hold one token: 16 to 4,096 visible ASCII characters, no space")
    return token


def bearer(token: str) -> str:
    """The metadata's value."""
    return _SCHEME + token


def token_of(value: str) -> str:
    """The token in the metadata's value; "" where there is none."""
    return value.removeprefix(_SCHEME) if value.startswith(_SCHEME) else ""
