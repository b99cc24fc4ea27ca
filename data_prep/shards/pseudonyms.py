"""Salted hashes in place of every identifier of a record, for shards that leave the house (`data build --hash-ids`).

Equal ids get equal hashes, so studies and patients stay together; without the salt nobody can tell whose they are, not
even by trying out all numbers or by looking a file's checksum up in the list its publisher gives out. The plan is made
from the hashes too, so the order of the shards says nothing. Texts and pixels are not touched: they are the data.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from cogaze.privacy import SALT_VARIABLE, hashed
from data_prep.records import ImageRecord, Reading
from data_prep.splits import one_spelling

LEAST_SALT = 16  # bytes; shorter ones can be tried out


class SaltError(ValueError):
    """No salt, or one that protects nothing."""


def read_salt(file: Path | None) -> bytes:
    """The key for the functions below, from a file (blanks around it do not count) or from COGAZE_SALT; 32 bytes.

    Raises SaltError when there is neither or it is short, OSError when the file cannot be read.
    """
    salt = os.environb.get(SALT_VARIABLE.encode(), b"") if file is None else file.read_bytes()
    where = f"the environment variable {SALT_VARIABLE}" if file is None else str(file)
    if len(salt.strip()) < LEAST_SALT:
        raise SaltError(
            f"--hash-ids needs a secret salt of at least {LEAST_SALT} bytes, {where} has {len(salt.strip())}: write "
            "one with `head -c 32 /dev/urandom | base64 > FILE`, give it as --salt-file FILE, and keep it secret"
        )
    return hashlib.sha256(b"cogaze shard ids\0" + salt.strip()).digest()


def hashed_records(records: Iterable[ImageRecord], salt: bytes) -> Iterator[ImageRecord]:
    """The records with hashes for ids (image, study, patient, reading, radiologist) and for the file's path."""
    for record in records:
        yield replace(
            record,
            image_id=_id(record.image_id, salt),
            study_id=_id(record.study_id, salt),
            patient_id=_id(one_spelling(record.patient_id), salt),  # afterwards nobody could tell that it is one
            relative_path=_path(record.relative_path, salt),
            readings=tuple(_reading(reading, salt) for reading in record.readings),
        )


def _reading(reading: Reading, salt: bytes) -> Reading:
    return replace(reading, id=_id(reading.id, salt), reader=_id(reading.reader, salt))


def hashed_rows(rows: Iterable[dict[str, Any]], salt: bytes) -> Iterator[dict[str, Any]]:
    """What a reader set aside, with hashes for id and path; `detail` goes, since it may quote the source."""
    for row in rows:
        kept: dict[str, Any] = {name: row[name] for name in row if name in ("source", "reason", "count", "kept")}
        if "id" in row:
            kept["id"] = _id(row["id"], salt)
        if "path" in row:
            kept["path"] = _path(row["path"], salt)
        yield kept


def hashed_checksum(sha256: str, salt: bytes) -> str:
    """64 hexadecimal digits in place of a file's own, which a published list of checksums would give away."""
    return hmac.new(salt, sha256.encode(), hashlib.sha256).hexdigest()


def _id(text: str, salt: bytes) -> str:
    return hashed(text, salt) if text.strip() else text  # a blank id is a fault that must stay one


def _path(text: str, salt: bytes) -> str:
    ending = PurePosixPath(text).suffix.lower()
    return _id(text, salt) + (ending if re.fullmatch(r"\.[a-z0-9]{1,5}", ending) else "")
