"""Scores the exported cascade: samples prompts of each kind with diffusers' pipelines and checks them.

    python tools/score.py --model models/scenes --count 200 --out runs/score

Prints the checker's own accuracy first, then the share of right pictures for seen single objects, seen
pairs with a relation, held-out combinations and counts. `--set 1.guidance_scale=5` tries other defaults.
"""
import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import check_scenes
import sample


def sheet(pictures, columns=8, side=128):
    """A contact sheet of uint8 pictures."""
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * side, rows * side), (60, 60, 60))
    for i, px in enumerate(pictures):
        out.paste(Image.fromarray(px).resize((side, side), Image.BICUBIC), (i % columns * side, i // columns * side))
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="models/scenes", type=Path)
    ap.add_argument("--kinds", default="single,pair,held")
    ap.add_argument("--count", type=int, default=200)
    ap.add_argument("--batch", type=int, default=25)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--stages", type=int, default=2)
    ap.add_argument("--set", action="append", default=[])
    ap.add_argument("--own", type=int, default=200)
    ap.add_argument("--bf16", action="store_true")
    ap.add_argument("--threads", type=int, default=0)
    ap.add_argument("--out", type=Path, help="write contact sheets and prompts here")
    args = ap.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    sample.generate.bf16 = args.bf16
    if args.own:
        own = check_scenes.own_drawings(args.own)
        print("checker on the recipe's own drawings:", own, flush=True)
    plan, pipes = sample.load(args.model)
    sample.override(plan, args.set)
    plan, pipes = plan[:args.stages], pipes[:args.stages]
    print(json.dumps(plan), flush=True)
    for kind in args.kinds.split(","):
        prompts, right, tally, made, t0 = sample.prompts_of(kind, args.count), 0, Counter(), [], time.time()
        wrong = []
        for at in range(0, len(prompts), args.batch):
            part = prompts[at:at + args.batch]
            for prompt, px in zip(part, sample.generate(plan, pipes, part, args.seed + at)[-1]):
                ok, got = check_scenes.check(np.ascontiguousarray(px), prompt)
                right += ok
                tally.update(k for k, v in got.items() if v)
                made.append(px)
                if not ok:
                    wrong.append(f"{len(made) - 1}: {prompt}: {','.join(k for k, v in got.items() if not v)}")
        n = len(prompts)
        print(f"{kind}: {right / n:.3f} of {n}; aspects { {k: round(tally[k] / n, 3) for k in sorted(tally)} }; "
              f"{time.time() - t0:.0f} s", flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            sheet(made[:64]).save(args.out / f"{kind}.png")
            (args.out / f"{kind}.txt").write_text("\n".join(prompts) + "\n")
            (args.out / f"{kind}_wrong.txt").write_text("\n".join(wrong) + "\n")


if __name__ == "__main__":
    main()
