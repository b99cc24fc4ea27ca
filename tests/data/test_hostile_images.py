"""Images that somebody made to do harm: refused with their place, in little time and memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogaze.data.sample import MAX_PIXELS, SampleError, build_sample
from cogaze.data.text import train_tokenizer
from tests.data.fakes import VOCABULARY, make_config, make_raw


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([VOCABULARY], 300)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG header of these sizes, more chunks, and a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = b"".join(chunk(*c) for c in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """A whole small JPEG whose header says another size."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def gif() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(stream, "GIF")
    return stream.getvalue()


BOMBS = {
    "png of 60,000 x 60,000": png(60_000, 60_000),
    "png just over": png(8192, MAX_PIXELS // 8192 + 1),
    "jpeg of 65,000 x 65,000": jpeg_of(65_000, 65_000),
    "jpeg of 10,000 x 8,000": jpeg_of(10_000, 8_000),
    "text that unpacks to 300 MB": png(64, 64, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(300 << 20), 9))),
    "profile that unpacks to 300 MB": png(64, 64, (b"iCCP", b"p\0\0" + zlib.compress(bytes(300 << 20), 9))),
    "no width": png(0, 64),
    "another format": gif(),
    "nothing": b"",
    "cut off": png(64, 64)[:60],
}


@pytest.mark.parametrize("name", BOMBS)
def test_images_that_unpack_to_too_much(name: str, tokenizer: Any) -> None:
    raw = make_raw(image=BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(SampleError, match=r"train-000000:3: the image cannot be decoded") as error:
            build_sample(raw, 3, make_config(), tokenizer, None)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    except pytest.fail.Exception:
        assert name.startswith(("profile", "text"))  # may be read without what was packed beside it
        assert tracemalloc.get_traced_memory()[1] < 100e6
    else:
        assert "\n" not in str(error.value)
    finally:
        tracemalloc.stop()
