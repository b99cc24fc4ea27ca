"""Any table of images, by a mapping file: a hospital's own export, or a public set (docs/table.md)."""

from data_prep.table.reader import read

__all__ = ["read"]
