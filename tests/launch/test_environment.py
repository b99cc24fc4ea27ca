from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.environment import LauncherError, RankEnvironment, rank_environment

TORCH = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[003-004,010]",
}


def test_no_launcher_is_a_process_on_its_own():
    assert rank_environment({}) == RankEnvironment(0, 0, 1, "single")
    assert rank_environment({}).variables() == {}


@pytest.mark.parametrize(
    ("extra", "launcher"),
    [
        ({"TORCHELASTIC_RUN_ID": "none"}, "torchrun"),
        ({"TORCHELASTIC_RUN_ID": "none", "ACCELERATE_MIXED_PRECISION": "no"}, "accelerate"),
        ({"CROSS_RANK": "0"}, "deepspeed"),
        ({"COGAZE_LAUNCHER": "cogaze"}, "cogaze"),
        ({}, "environment"),
    ],
)
def test_torch_variables(extra, launcher):
    found = rank_environment(TORCH | extra)
    assert found == RankEnvironment(3, 1, 4, launcher, "host", 29500)
    assert found.variables() == TORCH


def test_slurm_step():
    found = rank_environment(SLURM)
    assert found == RankEnvironment(5, 1, 8, "slurm", "gpu003", 20000 + 4567)
    assert found.variables()["MASTER_ADDR"] == "gpu003"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node1", "node1"), ("node1,node2", "node1"), ("a[7,9]", "a7"), ("rack-2-n[01-12],z", "rack-2-n01")],
)
def test_first_host_of_a_node_list(nodes, first):
    assert rank_environment(SLURM | {"SLURM_STEP_NODELIST": nodes}).master_addr == first


def test_given_address_wins_over_slurm():
    found = rank_environment(SLURM | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"})
    assert (found.master_addr, found.master_port) == ("127.0.0.1", 1234)


def test_batch_script_itself_is_no_rank():
    batch = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}
    assert rank_environment(batch).launcher == "single"


def test_torchrun_inside_srun_is_torchrun():
    inside = SLURM | {"SLURM_STEP_NUM_TASKS": "2"} | TORCH | {"TORCHELASTIC_RUN_ID": "x"}
    assert rank_environment(inside) == RankEnvironment(3, 1, 4, "torchrun", "host", 29500)


def test_open_mpi():
    env = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}
    assert rank_environment(env) == RankEnvironment(2, 0, 3, "openmpi")
    assert rank_environment(env).variables() == {"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RANK": "0"}, r"RANK=0 but no LOCAL_RANK and no WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, r"WORLD_SIZE=2 but no RANK and no LOCAL_RANK"),
        (TORCH | {"RANK": "4"}, r"RANK=4 is outside 0\.\.3"),
        (TORCH | {"RANK": "-1"}, r"RANK=-1 is outside"),
        (TORCH | {"WORLD_SIZE": "four"}, r"WORLD_SIZE='four' is not a whole number"),
        (TORCH | {"RANK": "0", "LOCAL_RANK": "2"}, r"LOCAL_RANK=2 cannot belong to RANK=0"),
        (SLURM | TORCH | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, r"srun started 8 tasks"),
        (SLURM | TORCH | {"SLURM_STEP_NUM_TASKS": "2", "COGAZE_LAUNCHER": "cogaze"}, r"leave --nproc out"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_LOCALID"}, r"no SLURM_LOCALID"),
    ],
)
def test_contradictions_are_named(env, message):
    with pytest.raises(LauncherError, match=message):
        rank_environment(env)


@given(st.dictionaries(st.sampled_from([*TORCH, *SLURM, "COGAZE_LAUNCHER"]), st.sampled_from(["", "0", "1", "2", "x"])))
def test_any_environment_gives_a_place_or_a_clear_error(env):
    try:
        found = rank_environment(env)
    except LauncherError:
        return
    assert 0 <= found.local_rank <= found.rank < found.world_size
