"""A sentencepiece model of any size for models with random weights: bytes, and words that no text holds."""

import struct


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def piece(text, score, kind):
    return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))


def model_of(size):
    """The bytes of a tokenizer.model with `size` pieces."""
    unknown, normal, control, byte = 2, 1, 3, 6  # SentencePiece.Type
    pieces = [("<unk>", 0, unknown), ("<s>", 0, control), ("</s>", 0, control)]
    pieces += [(f"<0x{b:02X}>", 0, byte) for b in range(256)]
    pieces += [(f"\u2581w{i}", -float(i), normal) for i in range(size - len(pieces))]
    unigram, byte_fallback = varint(3 << 3) + b"\x01", varint(35 << 3) + b"\x01"
    trainer = unigram + varint(4 << 3) + varint(size) + byte_fallback
    return b"".join(piece(*p) for p in pieces) + field(2, trainer) + field(3, field(1, b"identity"))
