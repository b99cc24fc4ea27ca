"""A lossless JPEG encoder, small and slow, since no library here writes such frames (ISO 10918-1, process 14)."""

from __future__ import annotations

import struct

import numpy as np

LENGTH = 5  # bits of every Huffman code: 17 categories of 32 codes, so none is all ones


def lossless_jpeg(pixels: np.ndarray, bits: int) -> bytes:
    """The frame of (H,W) values below 2^bits: predictor 1 (the value to the left), one Huffman table.

    H.1.2: a difference, modulo 2^16, is its number of bits, then the bits themselves (none of 2^15), of a negative one
    less 1; the first value is predicted as half the range, the first of a row as the one above it.
    """
    height, width = pixels.shape
    values = pixels.astype(int)
    predicted = np.empty_like(values)
    predicted[:, 1:], predicted[1:, 0], predicted[0, 0] = values[:, :-1], values[:-1, 0], 1 << (bits - 1)
    coded = []
    for difference in ((values - predicted + 32767) % 65536 - 32767).ravel().tolist():
        size = abs(difference).bit_length()
        coded.append(f"{size:0{LENGTH}b}")
        if 0 < size < 16:
            coded.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    stream = "".join(coded)
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")
    table = bytes(17 if length == LENGTH else 0 for length in range(1, 17)) + bytes(range(17))
    return b"".join(
        (
            b"\xff\xd8",
            b"\xff\xc3" + struct.pack(">HBHHB3B", 11, bits, height, width, 1, 1, 0x11, 0),  # SOF3: one component
            b"\xff\xc4" + struct.pack(">HB", 3 + len(table), 0) + table,
            b"\xff\xda" + struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0),  # predictor 1, no point transform
            data,
            b"\xff\xd9",
        )
    )
