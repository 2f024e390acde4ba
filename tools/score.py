"""Scores the exported cascade: draws prompts of each kind with the program and checks the pictures.

    cargo build --release && python tools/score.py --count 200 --out runs/score

Prints the checker's own accuracy first, then the share of right pictures for seen single objects, seen
pairs with a relation, held-out combinations and counts. Options after `--` go to the program: `-- -g 5`.
Picture i of a kind is drawn with seed i.
"""
import argparse
import os
import subprocess
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import check_scenes
import sample

PROGRAM = Path(__file__).resolve().parent.parent / "target/release/ancestral"


def draw(prompt, seed, folder, options=(), threads=None):
    """A picture by the program, as uint8 pixels."""
    path = Path(folder) / f"{seed}.png"
    env = {**os.environ, **({"RAYON_NUM_THREADS": str(threads)} if threads else {})}
    subprocess.run([PROGRAM, "generate", prompt, "--seed", str(seed), "-q", "-o", path, *options], check=True,
                   stdout=subprocess.DEVNULL, env=env)
    return np.asarray(Image.open(path).convert("RGB"))


def sheet(pictures, columns=8, side=128):
    """A contact sheet of uint8 pictures."""
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * side, rows * side), (60, 60, 60))
    for i, px in enumerate(pictures):
        out.paste(Image.fromarray(px).resize((side, side), Image.BICUBIC), (i % columns * side, i // columns * side))
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--kinds", default="single,pair,held")
    ap.add_argument("--count", type=int, default=200)
    ap.add_argument("--own", type=int, default=200)
    ap.add_argument("--out", type=Path, help="write contact sheets and prompts here")
    ap.add_argument("options", nargs="*", help="the program's, after --")
    args = ap.parse_args()
    if args.own:
        print("checker on the recipe's own drawings:", check_scenes.own_drawings(args.own), flush=True)
    for kind in args.kinds.split(","):
        prompts, right, tally, wrong, start = sample.prompts_of(kind, args.count), 0, Counter(), [], time.time()
        # One program a core: a picture on one thread wastes less than on all.
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
            one = lambda item: draw(item[1], item[0], folder, args.options, threads=1)
            made = list(pool.map(one, enumerate(prompts)))
        for i, (prompt, pixels) in enumerate(zip(prompts, made)):
            ok, got = check_scenes.check(np.ascontiguousarray(pixels), prompt)
            right += ok
            tally.update(k for k, v in got.items() if v)
            if not ok:
                wrong.append(f"{i}: {prompt}: {','.join(k for k, v in got.items() if not v)}")
        n = len(prompts)
        print(f"{kind}: {right / n:.3f} of {n}; aspects { {k: round(tally[k] / n, 3) for k in sorted(tally)} }; "
              f"{time.time() - start:.0f} s", flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            sheet(made[:64]).save(args.out / f"{kind}.png")
            (args.out / f"{kind}.txt").write_text("\n".join(prompts) + "\n")
            (args.out / f"{kind}_wrong.txt").write_text("\n".join(wrong) + "\n")


if __name__ == "__main__":
    main()
