"""Draws the trade of classifier guidance with the program itself: docs/guidance.png.

    cargo build --release && python tools/guidance.py

A row for each scale, the same classes and seeds in every row, taken as they come; green frames are right by the checker
(check_scenes.check_class), red ones are not. Beside each row, over more pictures of the same classes: the share of right
ones, and how different pictures of one class are (mean over pairs of the root mean square difference of their bytes).
"""
import argparse
import itertools
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import check_scenes
from score import PROGRAM

ROOT = Path(__file__).resolve().parent.parent
SCALES = [0, 1, 2, 5, 10]
CLASSES = ["red circle", "yellow star", "blue square", "green heart", "black cross", "orange triangle", "purple ring",
           "pink diamond"]
SIDE, LEFT, TOP = 96, 190, 34


def draw(name, scale, count, options):
    """Pictures of a class with seeds 0 to count - 1, by the program on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "p.png"
        command = [PROGRAM, "generate", "--system", "adm", "--class", name, "--guidance-scale", str(scale), "--count",
                   str(count), "--seed", "0", "--device", "cpu", "-q", "-o", out, *options]
        env = {**os.environ, "RAYON_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
        return [np.asarray(Image.open(Path(folder) / f"p-{i}.png").convert("RGB")) for i in range(count)]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--count", type=int, default=16, help="pictures of each class and scale that are judged")
    ap.add_argument("options", nargs="*", help="the program's, after --")
    args = ap.parse_args()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(scale, name) for scale in SCALES for name in CLASSES]
        made = dict(zip(jobs, pool.map(lambda job: draw(job[1], job[0], args.count, args.options), jobs)))
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    width = LEFT + len(CLASSES) * (SIDE + 8)
    sheet = Image.new("RGB", (width, TOP + len(SCALES) * (SIDE + 10)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(CLASSES):
        pen.text((LEFT + i * (SIDE + 8) + SIDE / 2, TOP / 2), name, fill="black", font=small, anchor="mm")
    for row, scale in enumerate(SCALES):
        right, differences = [], []
        y = TOP + row * (SIDE + 10)
        for i, name in enumerate(CLASSES):
            pictures = made[scale, name]
            good = [check_scenes.check_class(px, name)[0] for px in pictures]
            right += good
            pairs = itertools.combinations([px.astype(np.float64) for px in pictures], 2)
            differences += [np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs]
            x = LEFT + i * (SIDE + 8)
            # The seed that stands in the sheet is the class's place, so that columns differ.
            frame = "#2a9d4a" if good[i] else "#d03030"
            pen.rectangle([x - 3, y - 3, x + SIDE + 2, y + SIDE + 2], fill=frame)
            sheet.paste(Image.fromarray(pictures[i]).resize((SIDE, SIDE), Image.BICUBIC), (x, y))
        share, spread = np.mean(right), np.mean(differences)
        pen.text((8, y + 18), f"scale {scale}", fill="black", font=font)
        pen.text((8, y + 42), f"{share:.2f} of {len(right)} right", fill="black", font=small)
        pen.text((8, y + 60), f"diversity {spread:.0f}", fill="black", font=small)
        print(f"scale {scale}: {share:.3f} of {len(right)} right, diversity {spread:.1f}", flush=True)
    (ROOT / "docs").mkdir(exist_ok=True)
    sheet.quantize(192).save(ROOT / "docs/guidance.png", optimize=True)


if __name__ == "__main__":
    main()
