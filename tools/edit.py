"""Draws edits with the program itself, before, mask and after: docs/edit.png.

    cargo build --release && python tools/edit.py

A row for each edit of a picture drawn by the recipe: the picture, the part to be drawn anew (grey), and the first pictures
the program makes of it (seeds 0, 1, ...), taken as they come. Green frames show what the prompt says in every aspect by the
checker, red ones do not. Printed for each edit: the share of right pictures, and the largest difference of a byte outside
the mask, which an edit must leave alone.
"""
import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import check_scenes
import figure
from score import PROGRAM

SIDE = 256
RIGHT_HALF, LEFT_HALF, LOWER_HALF, MIDDLE = (128, 0, 128, 256), (0, 0, 128, 256), (0, 128, 256, 128), (56, 56, 144, 144)
# the picture before (shape and colour of each object, relation, background), the rectangle x,y,w,h, the prompt
EDITS = [([("circle", "red"), ("square", "blue")], "to the left of", "white", RIGHT_HALF,
          "a red circle to the left of a green star"),
         ([("heart", "green"), ("cross", "black")], "to the left of", "white", LEFT_HALF,
          "an orange square to the left of a black cross"),
         ([("star", "yellow"), ("circle", "pink")], "above", "white", LOWER_HALF, "a yellow star above a blue square"),
         ([("circle", "orange")], "", "white", MIDDLE, "a purple square"),
         ([("square", "red")], "", "yellow", MIDDLE, "a black circle on a yellow background")]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--count", type=int, default=6, help="pictures of each edit, all of them judged and shown")
    ap.add_argument("options", nargs="*", help="the program's, after --")
    args = ap.parse_args()
    rows = []
    for things, relation, ground, (x, y, w, h), prompt in EDITS:
        picture = figure.drawn(things, relation, ground, SIDE)
        masked = picture.copy()
        masked[y:y + h, x:x + w] = 128
        with tempfile.TemporaryDirectory() as folder:
            given, out = Path(folder) / "given.png", Path(folder) / "p.png"
            Image.fromarray(picture).save(given)
            subprocess.run([PROGRAM, "edit", given, "--mask", f"{x},{y},{w},{h}", prompt, "--seed", "0", "--count",
                            str(args.count), "-q", "-o", out, *args.options], check=True, stdout=subprocess.DEVNULL)
            names = [Path(folder) / (f"p-{i}.png" if args.count > 1 else "p.png") for i in range(args.count)]
            made = [np.asarray(Image.open(n).convert("RGB")) for n in names]
        right = [check_scenes.check(np.ascontiguousarray(px), prompt)[0] for px in made]
        outside = np.ones((SIDE, SIDE), bool)
        outside[y:y + h, x:x + w] = False
        off = max(int(np.abs(px.astype(int) - picture)[outside].max()) for px in made)
        print(f"{prompt}: {np.mean(right):.2f} of {len(right)} right, outside the mask off by {off} at most", flush=True)
        frames = [figure.PLAIN] * 2 + [figure.judged(ok) for ok in right]
        lines = figure.wrapped(prompt, figure.ImageFont.load_default(12), 175).split("\n")
        rows.append((["", *lines], [picture, masked, *made], frames))
    figure.grid(figure.DOCS / "edit.png", ["before", "mask", *(f"seed {i}" for i in range(args.count))], rows)


if __name__ == "__main__":
    main()
