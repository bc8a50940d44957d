"""Read the hosts and devices of a job from the environment variables of ModelArts."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import InputError


def device_count(environment: Mapping[str, str], hosts: int) -> int:
    """Return the number of devices of this host; 1 if no variable is set.

    Args:
        environment: environment variables; MA_NUM_GPUS and DEVICE_NUM count the devices of a host, RANK_SIZE those of
            all hosts.
        hosts: number of hosts of the job.

    Raises:
        InputError: a variable is not a number, or RANK_SIZE is smaller than the number of hosts.
    """
    for name, divisor in (("MA_NUM_GPUS", 1), ("DEVICE_NUM", 1), ("RANK_SIZE", hosts)):
        value = environment.get(name, "").strip()
        if value:
            if not value.isdecimal() or int(value) < divisor:
                raise InputError(
                    f"{name}={value}: expected a number of devices, at least {divisor}; correct it or use --nproc"
                )
            return int(value) // divisor
    return 1


def host_options(environment: Mapping[str, str]) -> list[str]:
    """Return the options of training.train for a job on several hosts; empty for a job on one host."""
    hosts = [name for name in environment.get("VC_WORKER_HOSTS", "").split(",") if name]
    if len(hosts) < 2:
        return []
    return ["--hosts", ",".join(hosts), "--node-rank", environment.get("VC_TASK_INDEX", "0")]
