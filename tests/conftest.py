"""Shared test set-up: one thread a process (two-core machines run tests in parallel), no hub, no progress bars."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("cogaze", deadline=None, derandomize=True)  # tests never assert times; CI is reproducible
settings.load_profile("cogaze")
