"""Options for several machines: how they are resolved, and which values are rejected."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner

from pipeline.errors import InputError
from tests.support import tiny
from training.distributed import hosts as cluster
from training.distributed.hosts import DEFAULT_MASTER_PORT, Cluster, resolve_cluster

ADDRESSES = {"node-a": "10.0.0.1", "node-b": "10.0.0.2"}
ADDRESSES |= {address: address for address in ("127.0.0.1", *ADDRESSES.values())}


@pytest.fixture(autouse=True)
def on_machine_b(monkeypatch):
    """This machine is node-b."""

    def resolve(name):
        if name not in ADDRESSES:
            raise socket.gaierror
        return ADDRESSES[name]

    monkeypatch.setattr(cluster.socket, "gethostbyname", resolve)
    monkeypatch.setattr(cluster.socket, "gethostname", lambda: "node-b")
    monkeypatch.setattr(cluster, "_own_addresses", lambda: {"127.0.0.1", "10.0.0.2"})


def test_one_machine_is_the_default():
    assert resolve_cluster(8) == Cluster(8) == resolve_cluster(8, "1", 0) == resolve_cluster(8, "node-b")
    assert (Cluster(8).world_size, Cluster(8).local_ranks) == (8, range(8))


def test_a_number_of_machines_requires_the_rank_of_this_one():
    found = resolve_cluster(8, "2", 1, "node-a")
    assert found == Cluster(8, 2, 1, "10.0.0.1", DEFAULT_MASTER_PORT)
    assert (found.world_size, found.local_ranks) == (16, range(8, 16))
    assert resolve_cluster(8, "2", 0, "10.0.0.2", 9000) == Cluster(8, 2, 0, "10.0.0.2", 9000)


@pytest.mark.parametrize("hosts", ["node-a,node-b", "10.0.0.1 10.0.0.2", "10.0.0.1, node-b"])
def test_the_rank_is_found_by_name_or_address(hosts):
    assert resolve_cluster(4, hosts) == Cluster(4, 2, 1, "10.0.0.1", DEFAULT_MASTER_PORT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0",), "--hosts 0: expected the number of machines or a distinct name for each, such as 2 or a,b"),
        (("",), "--hosts : expected the number of machines"),
        (("node-a,node-a",), "--hosts node-a,node-a: expected the number of machines or a distinct name"),
        (("2",), "--node-rank: missing with --hosts 2; give the rank of this machine, 0 to 1"),
        (("2", 2, "node-a"), "--node-rank 2: expected 0 to 1 with --hosts 2"),
        (("2", -1, "node-a"), "--node-rank -1: expected 0 to 1"),
        (("1", 1), "--node-rank 1: expected 0 to 0 with --hosts 1"),
        (("2", 0), "--master: missing; give the address of machine 0 that the other machines can reach"),
        (("2", 1, "node-x"), "node-x: unknown host name; give its IPv4 address instead"),
        (("node-a,node-x",), "node-x: unknown host name"),
        (
            ("node-a,10.0.0.1",),
            "--node-rank: this machine is not in --hosts node-a,10.0.0.1; give the rank",
        ),
        (
            ("2", 0, "node-a"),
            "--master node-a: 10.0.0.1 is not an address of this machine, which is machine 0; it has 10.0.0.2, 127",
        ),
    ],
)
def test_a_missing_or_wrong_option_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        resolve_cluster(8, *arguments)


def test_the_command_counts_all_processes_and_reports_errors_in_one_line(tiny_recipe, tiny_shards, tmp_path):
    from training.train import main

    def run(*more):
        with tiny.restore_signal_mask():
            return CliRunner().invoke(main, tiny.command(tiny_recipe, tiny_shards, tmp_path / "run", *more)[3:])

    for result, message in (
        (run("--hosts", "2"), "--node-rank: missing with --hosts 2"),
        (run("--hosts", "2", "--node-rank", "0"), "--master: missing"),
        (
            run("--nproc", "7", "--hosts", "2", "--node-rank", "1", "--master", "node-a"),
            "training.batch_size: 4 on 14 processes takes 56 records a step, but the training set has 48",
        ),
    ):
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith(f"Error: {message}")
        assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not (tmp_path / "run").exists()


def test_a_port_in_use_is_named(tiny_recipe, tiny_shards, tmp_path):
    from training.train import main

    with socket.socket() as taken, tiny.restore_signal_mask():
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        more = ("--hosts", "2", "--node-rank", "0", "--master", "127.0.0.1", "--master-port", str(port))
        result = CliRunner().invoke(main, tiny.command(tiny_recipe, tiny_shards, tmp_path / "run", *more)[3:])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"Error: --master-port {port}: Address already in use at 127.0.0.1")
    assert not (tmp_path / "run").exists()
