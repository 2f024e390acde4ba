#!/usr/bin/env python3
"""Writes kernels-tests/goldens/noise/noise.safetensors: what torch's CPU generator gives.

Usage: python tools/make_noise_goldens.py [output.safetensors]   (needs torch and safetensors; x86-64 with AVX2)

Names: `normal/SEED/a,b,c/i` = call i of consecutive torch.randn calls of a, b, c values on one generator;
`random64/SEED` = the first 32-bit integers, paired (first one on top) into int64; for seeds 0 and 2**63 enough to
pass a refill of mt19937's 624 words.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file

SEEDS = [0, 1, 42, 2**32 + 5, 2**63]
SINGLE = [1, 5, 15, 16, 17, 31, 48, 100, 1000]
# odd short calls leave a cached second value that long calls must neither use nor drop
MIXED = [[1, 1, 3], [5, 16, 1, 17, 2], [15, 15], [48, 31, 1, 100, 3], [16, 16, 7, 7]]


def main() -> None:
    here = pathlib.Path(__file__).resolve().parent.parent
    default = here / "kernels-tests/goldens/noise/noise.safetensors"
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    tensors = {}
    for seed in SEEDS:
        calls = [[n] for n in SINGLE] + MIXED if seed in (0, 42) else [[n] for n in SINGLE[:-2]] + MIXED[1:2]
        for sizes in calls:
            generator = torch.Generator().manual_seed(seed)
            for i, n in enumerate(sizes):
                name = f"normal/{seed}/{','.join(map(str, sizes))}/{i}"
                tensors[name] = torch.randn(n, generator=generator, dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        # the full range draws 64 bits: two consecutive 32-bit integers, the first on top
        raw = torch.empty(320 if seed in (0, 2**63) else 12, dtype=torch.int64)
        tensors[f"random64/{seed}"] = raw.random_(-(2**63), None, generator=generator)
    capability = torch.backends.cpu.get_cpu_capability()
    save_file(tensors, path, metadata={"torch": torch.__version__, "cpu_capability": capability})


if __name__ == "__main__":
    main()
