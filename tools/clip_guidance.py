"""Draws classifier-free guidance against CLIP guidance with the program itself: docs/clip-guidance.png.

    cargo build --release && python tools/clip_guidance.py

The bundled base model with its super-resolution, the same prompts and seeds in every row, taken as they come; a row for
each scale of classifier-free guidance (1 is none) and for each of CLIP guidance over it at 1. Green frames are right in
every aspect by the checker, red ones are not. The table it prints, and the text beside the rows, have the shares of right
pictures over all the prompts: seen single objects, seen pairs with a relation, held-out combinations, `--count` of each.
"""
import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import check_scenes
import figure
import sample
from score import draw

KINDS = ("single", "pair", "held")
SHOWN = (4, 3, 1)            # pictures of each kind on the sheet


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--count", type=int, default=16, help="prompts of each kind that are judged")
    ap.add_argument("--cfg", default="1,2,4,8", help="scales of classifier-free guidance, or none")
    ap.add_argument("--clip", default="1,3,10,30", help="scales of CLIP guidance, or none")
    ap.add_argument("--clip-model", help="another CLIP than the bundled one")
    ap.add_argument("options", nargs="*", help="the program's, after --")
    args = ap.parse_args()
    prompts = {kind: sample.prompts_of(kind, args.count) for kind in KINDS}
    methods = [("classifier-free", s, ["-g", s]) for s in filter(None, args.cfg.split(","))]
    clip = ["--clip-model", args.clip_model] if args.clip_model else []
    methods += [("CLIP", s, ["-g", "1", "--clip-guidance", s, *clip]) for s in filter(None, args.clip.split(","))]
    shown = [(kind, i) for kind, n in zip(KINDS, SHOWN) for i in range(min(n, args.count))]
    rows = []
    print(f"{'guidance':20s}{'scale':>6s}" + "".join(f"{k:>9s}" for k in KINDS) + "      all  shape colour  place  s/picture")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for method, scale, options in methods:
            start, right, aspects, kept = time.time(), {}, [], {}
            for kind in KINDS:
                # One program a core: a picture on one thread wastes less than on all.
                with tempfile.TemporaryDirectory() as folder:
                    one = lambda item: draw(item[1], item[0], folder, (*options, *args.options), threads=1)
                    made = list(pool.map(one, enumerate(prompts[kind])))
                words = [check_scenes.check(np.ascontiguousarray(px), p) for px, p in zip(made, prompts[kind])]
                right[kind] = float(np.mean([ok for ok, _ in words]))
                aspects += [got for _, got in words]
                kept.update({(kind, i): (px, words[i][0]) for i, px in enumerate(made)})
            share = lambda name: float(np.mean([got[name] for got in aspects]))
            every, took = np.mean(list(right.values())), (time.time() - start) / len(aspects)
            print(f"{method:20s}{scale:>6s}" + "".join(f"{right[k]:9.3f}" for k in KINDS) + f"{every:9.3f}"
                  + "".join(f"{share(a):7.3f}" for a in ("shape", "colour", "place")) + f"{took:11.2f}", flush=True)
            lines = [f"{method} {scale}", f"right: {every:.2f} of {len(aspects)}"]
            lines += [f"{word} {right[k]:.2f}" for word, k in (("objects", "single"), ("pairs", "pair"), ("held out", "held"))]
            rows.append((lines, [kept[s][0] for s in shown], [figure.judged(kept[s][1]) for s in shown]))
    headings = [prompts[kind][i] for kind, i in shown]
    figure.grid(figure.DOCS / "clip-guidance.png", headings, rows, side=112, top=76)


if __name__ == "__main__":
    main()
