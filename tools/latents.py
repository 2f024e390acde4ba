"""Draws what the bundled unCLIP makes of pictures, by the program itself: docs/variations.png, blend.png, morph.png,
components.png.

    cargo build --release && python tools/latents.py

The pictures to begin with are the recipe's own drawings; every result is taken as it comes. Printed: how near a picture
comes back from the noise that DDIM inversion finds for it, at the decoder's own size.
"""
import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import figure
from score import PROGRAM

PAIR = ([("circle", "red"), ("square", "blue")], "to the left of", "white")
ABOVE = ([("heart", "green"), ("cross", "black")], "above", "yellow")
STAR = ([("star", "orange")], "", "white")
CIRCLE = ([("circle", "red")], "", "white")
VARIED = [PAIR, ABOVE, STAR]
BLENDED = [(CIRCLE, ([("square", "blue")], "", "white")), (STAR, ABOVE), (PAIR, ([("heart", "pink")], "", "black"))]
# x_T holds an object's outline: shapes change in a layout of the seed's own.
MORPHED = [(CIRCLE, "a red circle", "a blue circle", "keep"),
           (PAIR, "a red circle to the left of a blue square", "a red circle to the left of a green square", "keep"),
           (STAR, "an orange star", "a green heart", "keep"), (CIRCLE, "a red circle", "a red square", "new"),
           (STAR, "an orange star", "a green heart", "new")]
COMPONENTS = (1, 2, 4, 8, 16, 32, 40)
SMALL = 32                    # side of the decoder's pictures


def call(options, *words, count):
    """The pictures that a command writes."""
    with tempfile.TemporaryDirectory() as folder:
        args = []
        for i, word in enumerate(words):
            if isinstance(word, np.ndarray):
                Image.fromarray(word).save(f"{folder}/given-{i}.png")
                word = f"{folder}/given-{i}.png"
            args.append(str(word))
        subprocess.run([PROGRAM, *args, "-q", "-o", f"{folder}/p.png", *options], check=True, stdout=subprocess.DEVNULL)
        names = [Path(folder) / (f"p-{i}.png" if count > 1 else "p.png") for i in range(count)]
        return [np.asarray(Image.open(n).convert("RGB")) for n in names]


def nearness(picture, options):
    """PSNR in dB of a picture of the decoder's size and what comes back of it."""
    small = np.asarray(Image.fromarray(picture).resize((SMALL, SMALL), Image.BOX))
    back = call(options, "vary", small, "--layout", "keep", "--eta", "0", "--stages", "1", count=1)[0]
    return 10 * np.log10(255 ** 2 / np.mean((small.astype(float) - back) ** 2))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--figures", default="variations,blend,morph,components")
    ap.add_argument("options", nargs="*", help="the program's, after --")
    args = ap.parse_args()
    plain = lambda pictures: [figure.PLAIN] * len(pictures)
    if "variations" in args.figures:
        rows = []
        for scene in VARIED:
            picture = figure.drawn(*scene)
            print(f"{scene}: {nearness(picture, args.options):.1f} dB", flush=True)
            kept = call(args.options, "vary", picture, "--layout", "keep", "--count", 4, count=4)
            new = call(args.options, "vary", picture, "--count", 4, count=4)
            shown = [picture, *call(args.options, "vary", picture, "--layout", "keep", "--eta", "0", count=1), *kept, *new]
            rows.append((["", ""], shown, plain(shown)))
        figure.grid(figure.DOCS / "variations.png", ["picture", "there and back", *(f"layout kept, seed {i}" for i in range(4)),
                                                     *(f"new layout, seed {i}" for i in range(4))], rows, left=8)
    if "blend" in args.figures:
        rows = []
        for a, b in BLENDED:
            a, b = (figure.drawn(*scene) for scene in (a, b))
            shown = [a, *call(args.options, "blend", a, b, "--steps", 7, count=7), b]
            rows.append(([""], shown, plain(shown)))
        figure.grid(figure.DOCS / "blend.png", ["from", *(f"{i}/6" for i in range(7)), "to"], rows, left=8)
    if "morph" in args.figures:
        rows = []
        for scene, before, after, layout in MORPHED:
            picture = figure.drawn(*scene)
            shown = [picture, *call(args.options, "morph", picture, before, after, "--steps", 6, "--strength", "0.5",
                                    "--layout", layout, count=6)]
            small = figure.ImageFont.load_default(12)
            lines = figure.wrapped(f"{before} to {after}" + (", new layout" if layout == "new" else ""), small, 175).split("\n")
            rows.append((["", *lines], shown, plain(shown)))
        figure.grid(figure.DOCS / "morph.png", ["picture", *(f"{i / 10:g}" for i in range(6))], rows)
    if "components" in args.figures:
        rows = []
        for scene in VARIED:
            picture, few = figure.drawn(*scene), ",".join(map(str, COMPONENTS))
            shown = [picture, *call(args.options, "reconstruct", picture, "--dimensions", few, count=len(COMPONENTS))]
            rows.append(([""], shown, plain(shown)))
        figure.grid(figure.DOCS / "components.png", ["picture", *map(str, COMPONENTS)], rows, left=8)


if __name__ == "__main__":
    main()
