"""Draws pictures of the bundled model with diffusers' pipelines, for the Rust tests to compare with.

    python tools/make_bundled_golden.py

Both sides take their noise from the same PyTorch CPU generator stream, so the pictures must agree to rounding:
the checkpoint is what its layout says, and the engine computes what diffusers computes. Run it again whenever
models/scenes changes, and commit kernels-tests/goldens/bundled/.
"""
import json
from pathlib import Path

from PIL import Image

import sample

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "kernels-tests/goldens/bundled"
RUNS = [("a red circle to the left of a blue square", 0), ("three orange triangles", 5)]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    plan, pipes = sample.load(ROOT / "models/scenes")
    made = []
    for i, (prompt, seed) in enumerate(RUNS):
        final = sample.generate(plan, pipes, [prompt], seed)[-1][0]
        name = f"{i}.png"
        Image.fromarray(final).save(OUT / name)
        made.append({"file": name, "prompt": prompt, "seed": seed})
    (OUT / "pictures.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
