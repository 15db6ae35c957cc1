"""What keeps blocks apart beside the tokens, as one salt."""

from __future__ import annotations

from blake3 import blake3

__all__ = ["join_salts"]


def join_salts(**parts: str | bytes) -> bytes:
    """One salt for `Namespace.chain` and `keys` out of several, such as a cache salt and the identity of an adapter.

    Parts that are empty do not count; if all are, so is the result. Otherwise it is the BLAKE3 of, for each part by
    name, u32 length of name || name || u32 length of value || value, strings in UTF-8: none is taken for another.
    """
    fields = []
    for name, value in sorted(parts.items()):
        for text in (name, value) if value else ():
            encoded = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
            fields.append(len(encoded).to_bytes(4, "little") + encoded)
    return blake3(b"".join(fields)).digest() if fields else b""
