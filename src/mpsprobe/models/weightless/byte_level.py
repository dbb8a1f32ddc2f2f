"""The alphabet of byte-level BPE, for tokenizers that are made here."""

from __future__ import annotations


def bytes_as_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte, in byte order: what the ByteLevel pre-tokenizer makes."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    stand_ins = dict(zip((b for b in range(256) if b not in printable), range(256, 512), strict=False))
    return [chr(stand_ins.get(byte, byte)) for byte in range(256)]
