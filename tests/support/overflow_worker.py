"""One of two processes of msrun: a step in which only rank 1 overflows, then a step without overflow.

For each step it prints whether the update was applied, the loss scale, the weights and their moving averages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.training.test_step import GRADIENT, Trial
from training.distributed.world import init_world


def main() -> None:
    world = init_world("cpu", Path(sys.argv[1]))
    trial = Trial(processes=world.size, loss_scale=8, loss_scale_mode="dynamic", ema_decay=0.5)
    for gradient in (np.full(6, np.inf) if world.rank == 1 else GRADIENT, GRADIENT * (1 + world.rank)):
        _, _, finite, _, stop = trial.step(gradient, stop=float(world.rank == 1), decay=0.5)
        values = [*trial.values(), *trial.values("ema.")]
        sys.stdout.write(f"RESULT {finite} {stop} {trial.scale.value.asnumpy()} {' '.join(map(str, values))}\n")


if __name__ == "__main__":
    main()
