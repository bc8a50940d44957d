"""What ModelArts' environment variables say about the hosts and devices of a job."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import InputError


def device_count(environment: Mapping[str, str], hosts: int) -> int:
    """Devices of this machine, as ModelArts' environment tells; 1 where it says nothing."""
    for name, shared in (("MA_NUM_GPUS", 1), ("DEVICE_NUM", 1), ("RANK_SIZE", hosts)):
        value = environment.get(name, "").strip()
        if value:
            if not value.isdecimal() or int(value) < shared:
                raise InputError(f"{name}={value}: expected a number of devices; or give --nproc")
            return int(value) // shared
    return 1


def host_options(environment: Mapping[str, str]) -> list[str]:
    """Options of training.train for the machines of a job, as ModelArts' environment names them."""
    hosts = [name for name in environment.get("VC_WORKER_HOSTS", "").split(",") if name]
    if len(hosts) < 2:
        return []
    return ["--hosts", ",".join(hosts), "--node-rank", environment.get("VC_TASK_INDEX", "0")]
