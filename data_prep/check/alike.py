"""Images of two splits that look alike: copies, also as a negative, mirrored, or turned by a few degrees.

A perceptual hash of 256 bits (the signs of the lowest 16 x 16 frequencies, `imagehash.phash`) stands for an image, and
a second one for its middle, where turning leaves no corner empty. A negative has the complement of a hash; a mirrored
or turned copy has the hash of the image mirrored or turned back, so those are taken too, of every split but the
largest: of two images in two splits, one always has them.

Measured on 1,699 radiographs of 728 patients (Indiana, NIH): copies differ in at most 6 bits after JPEG compression, 2
after halving or as a negative, 0 mirrored, 18 after a gamma of 0.8 or 1.25 or turned by up to 5 degrees, whatever
fills the corners; radiographs of two patients in 44 at least. Of copies that lost a hundredth at each side, or were
brightened by a quarter until they burn out, 9 of 10 are found; of those whose histogram was equalised, 6 of 10.

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
SMALL = 128  # px, shortest side; below, turning blurs what the hash looks at
MIDDLE = 0.88  # of width and height; nothing from outside comes in where 4:5 is turned by 5 degrees
ANGLES = (-4.5, -3.0, -1.5, 1.5, 3.0, 4.5)  # degrees, counter-clockwise; between two of them an image is within ALIKE
# The hashes of an image of the smaller split: what each finds, and with which of the other's it is compared (0 the
# whole image, 1 the middle). An image of the largest split has the first two alone.
HOW = ("", "", "mirrored", *(f"turned by about {-angle:g} degrees" for angle in ANGLES))
AGAINST = (0, 1, 0, *(1 for _ in ANGLES))
BLOCK_A, BLOCK_B = 64, 4096  # images compared at once; 4096 x 64 bytes stay in a processor's cache


class Looks(NamedTuple):
    """The images of one split: their rows (n,) among all samples, and their hashes (n,V,4); V is 2 or len(HOW)."""

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
    """The two hashes of a grey image, and with `copies` those of HOW: uint64 (2 or len(HOW),4).

    Zeros for no image and for one of a single grey level, which looks like nothing.
    """
    if image is None or not _shows(image):
        return np.zeros((len(HOW) if copies else 2, WORDS), np.uint64)
    scale = SMALL / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    hashes = [_hash(small), _hash(_middle(small))]
    if copies:
        hashes.append(_hash(ImageOps.mirror(small)))
        hashes += [_hash(_middle(small.rotate(angle, Image.Resampling.BILINEAR))) for angle in ANGLES]
    return np.stack(hashes)


def _middle(image: Image.Image) -> Image.Image:
    """Its middle; all of it where the middle is of one grey level."""
    x, y = (round((1 - MIDDLE) / 2 * side) for side in image.size)
    middle = image.crop((x, y, image.width - x, image.height - y))
    return middle if _shows(middle) else image


def _shows(image: Image.Image) -> bool:
    return len(set(image.getextrema())) > 1


def _hash(image: Image.Image) -> NDArray[np.uint64]:
    square = image.resize((4 * SIDE, 4 * SIDE), Image.Resampling.BILINEAR)  # as phash would, and faster
    return np.packbits(imagehash.phash(square, hash_size=SIDE).hash.ravel()).view(np.uint64)


def largest(sizes: Mapping[str, int]) -> str:
    """The split whose images have two hashes alone; the first in the alphabet among equals."""
    return min(sizes, key=lambda name: (-sizes[name], name))


def alike(splits: Sequence[Looks]) -> Iterator[Pairs]:
    """Every pair of images of two splits that look alike, a block after another; the first row is of the smaller split.

    A pair that several hashes find is told once, by the one that fits best.
    """
    shown = [Looks(look.rows[there], look.hashes[there]) for look in splits for there in [look.hashes.any(axis=(1, 2))]]
    for pair in combinations(shown, 2):
        few, many = sorted(pair, key=lambda look: (-look.hashes.shape[1], len(look.rows)))
        for found in near(few.hashes, many.hashes):
            yield found._replace(row=few.rows[found.row], other=many.rows[found.other])


def near(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Iterator[Pairs]:
    """All rows of a (n,V,4) and b (m,2,4) where a[row,how] is near b[other,AGAINST[how]] or its complement.

    For each two rows the `how` that fits best; in the order of blocks, in each by row and other.
    """
    words = np.ascontiguousarray(b.transpose(1, 2, 0))  # (2,4,m)
    for i in range(0, len(a), BLOCK_A):
        for j in range(0, len(b), BLOCK_B):
            found = [
                _near(a[i : i + BLOCK_A, how], words[AGAINST[how], :, j : j + BLOCK_B], how)
                for how in range(a.shape[1])
            ]
            rows, others, bits, how, negative = np.concatenate(found, axis=1)
            order = np.lexsort((how, bits, others, rows))
            pair = (rows * BLOCK_B + others)[order]
            best = order[np.append(True, pair[1:] != pair[:-1])[: len(pair)]]
            if len(best):
                yield Pairs(rows[best] + i, others[best] + j, bits[best], how[best], negative[best].astype(bool))


def _near(a: NDArray[np.uint64], b: NDArray[np.uint64], how: int) -> NDArray[np.int64]:
    """Of a (n,4) and b (4,m) that differ in few bits or in nearly all: rows of a, of b, bits, how, negative: (5,k).

    Half of the bits are compared first: who differs in few of all, differs in no more of these.
    """
    half = np.bitwise_count(a[:, None, 0] ^ b[0])  # uint8 (n,m)
    half += np.bitwise_count(a[:, None, 1] ^ b[1])
    half -= ALIKE + 1  # few become large, as it wraps around below zero, and many stay so
    rows, others = np.nonzero(half >= BITS // 2 - 2 * ALIKE - 1)
    bits = np.bitwise_count(a[rows] ^ b[:, others].T).sum(axis=1, dtype=np.int64)
    negative = bits > BITS // 2
    bits = np.where(negative, BITS - bits, bits)
    kept = bits <= ALIKE
    return np.stack([rows, others, bits, np.full(len(rows), how), negative])[:, kept]
