"""Images of two splits that look alike: copies, also as a negative, mirrored, or turned by a few degrees.

A perceptual hash of 256 bits (the signs of the lowest 16 x 16 frequencies of the image, `imagehash.phash`) stands for
an image. A negative has the complement of the hash; a mirrored or turned copy has the hash of the mirrored or turned
image, so those are taken too, of every split but the largest: of a pair of images, one always has them.

Measured on 1,029 radiographs of the Indiana and NIH collections: copies differ in at most 16 bits after JPEG
compression, 10 after halving, 32 after a gamma or brightness of a quarter, 4 as a negative (10 halved and compressed),
0 mirrored, 24 turned by up to 5 degrees; radiographs of two patients in more than 43, whatever is done to one of them.
Every pair between two splits is compared, in blocks: next to nothing beside decoding them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SIDE = 16  # frequencies along a side
BITS = SIDE * SIDE
WORDS = BITS // 64
ALIKE = 24  # bits in which two images may differ and still be called alike
TURNED = 128  # px; below, turning blurs what the hash looks at
ANGLES = (-4.5, -3.0, -1.5, 1.5, 3.0, 4.5)  # degrees, counter-clockwise; between two of them an image is within ALIKE
HOW = ("", "mirrored", *(f"turned by about {-angle:g} degrees" for angle in ANGLES))  # what each hash of looks_of finds
BLOCK_A, BLOCK_B = 64, 4096  # images compared at once; 4096 x 64 bytes stay in a processor's cache


class Looks(NamedTuple):
    """The images of one split: their rows (n,) among all samples, and their hashes (n,V,4); V is 1 or len(HOW)."""

    rows: NDArray[np.int64]
    hashes: NDArray[np.uint64]


class Pairs(NamedTuple):
    """Images that look alike, (k,) each: two rows, the bits in which they differ, the place in HOW, if a negative."""

    row: NDArray[np.int64]
    other: NDArray[np.int64]
    bits: NDArray[np.int64]
    how: NDArray[np.int64]
    negative: NDArray[np.bool_]


def looks_of(image: Image.Image | None, copies: bool) -> NDArray[np.uint64]:
    """The hash of a grey image, and with `copies` those of its mirrored and turned copies: uint64 (1 or len(HOW),4).

    Zeros for no image and for one of a single grey level, which looks like nothing.
    """
    if image is None or len(set(image.getextrema())) == 1:
        return np.zeros((len(HOW) if copies else 1, WORDS), np.uint64)
    hashes = [_hash(image)]
    if copies:
        small = image.resize((TURNED, TURNED), Image.Resampling.LANCZOS)
        hashes.append(_hash(ImageOps.mirror(small)))
        hashes += [_hash(small.rotate(angle, Image.Resampling.BICUBIC)) for angle in ANGLES]
    return np.stack(hashes)


def _hash(image: Image.Image) -> NDArray[np.uint64]:
    return np.packbits(imagehash.phash(image, hash_size=SIDE).hash.ravel()).view(np.uint64)


def largest(sizes: Mapping[str, int]) -> str:
    """The split whose images have one hash each; the first in the alphabet among equals."""
    return min(sizes, key=lambda name: (-sizes[name], name))


def alike(splits: Sequence[Looks]) -> Iterator[Pairs]:
    """Every pair of images of two splits that look alike, a block after another; the first row is of the smaller split.

    A pair that several hashes find is told once, by the one that fits best.
    """
    shown = [Looks(look.rows[there], look.hashes[there]) for look in splits for there in [look.hashes.any(axis=(1, 2))]]
    for pair in combinations(shown, 2):
        few, many = sorted(pair, key=lambda look: (-look.hashes.shape[1], len(look.rows)))
        for found in near(few.hashes, many.hashes[:, 0]):
            yield found._replace(row=few.rows[found.row], other=many.rows[found.other])


def near(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Iterator[Pairs]:
    """All rows of a (n,V,4) and of b (m,4) of which a[row,how] differs from b[other] or its complement in few bits.

    For each two rows the `how` that fits best; in the order of blocks, in each by row and other.
    """
    for i in range(0, len(a), BLOCK_A):
        for j in range(0, len(b), BLOCK_B):
            found = [_near(a[i : i + BLOCK_A, v], b[j : j + BLOCK_B], v) for v in range(a.shape[1])]
            rows, others, bits, how, negative = np.concatenate(found, axis=1)
            order = np.lexsort((how, bits, others, rows))
            pair = (rows * BLOCK_B + others)[order]
            best = order[np.append(True, pair[1:] != pair[:-1])[: len(pair)]]
            if len(best):
                yield Pairs(rows[best] + i, others[best] + j, bits[best], how[best], negative[best].astype(bool))


def _near(a: NDArray[np.uint64], b: NDArray[np.uint64], how: int) -> NDArray[np.int64]:
    """Of a (n,4) and b (m,4) that differ in few bits or in nearly all: rows of a, of b, bits, how, negative: (5,k).

    Half of the bits are compared first: who differs in few of all differs in no more of these.
    """
    half = np.bitwise_count(a[:, None, 0] ^ b[None, :, 0])  # uint8 (n,m)
    half += np.bitwise_count(a[:, None, 1] ^ b[None, :, 1])
    rows, others = np.nonzero((half <= ALIKE) | (half >= BITS // 2 - ALIKE))
    bits = np.bitwise_count(a[rows] ^ b[others]).sum(axis=1, dtype=np.int64)
    negative = bits > BITS // 2
    bits = np.where(negative, BITS - bits, bits)
    kept = bits <= ALIKE
    return np.stack([rows, others, bits, np.full(len(rows), how), negative])[:, kept]
