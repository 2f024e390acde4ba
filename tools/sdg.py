"""Draws Semantic Diffusion Guidance (Liu et al. 2021) with the program itself: docs/sdg.png.

    cargo build --release && python tools/sdg.py

The bundled unconditional model, steered by the bundled CLIP: not at all, by a text, by a picture (its content, its
structure, its style), and by both. The columns are cases of a text and a picture drawn by the recipe; a column has the
same seed in every row. Green frames show the text's object by the checker (check_scenes.check_class), red ones do not, grey
ones were not asked to. Beside each row, over `--count` seeds of each case: the shares with the text's object, its colour and
its shape; the same of the picture's object; and how far the pictures are from the given one (root mean square difference of
their bytes at 32 pixels) and from each other.
"""
import argparse
import itertools
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import check_scenes
import figure
import scenes
from score import PROGRAM

# text's object; the given picture's object, place and background
CASES = [("red circle", ("blue star", "in the top left corner", "white")),
         ("yellow star", ("green circle", "in the bottom right corner", "black")),
         ("blue square", ("red heart", "in the center", "yellow")),
         ("green heart", ("purple ring", "in the bottom left corner", "white")),
         ("black cross", ("orange square", "in the top right corner", "cyan")),
         ("orange triangle", ("black diamond", "in the center", "white")),
         ("purple ring", ("yellow triangle", "in the top left corner", "gray")),
         ("pink heart", ("blue cross", "in the bottom right corner", "green"))]


def drawing(case):
    """The given picture, at 256 pixels."""
    name, place, ground = case
    colour, shape = name.split()
    s = scenes.Scene([scenes.Thing(shape, colour)], ground, place=place)
    return (scenes.render([scenes.layout(s, np.random.default_rng(3))], 256)[0] * 255).round().astype(np.uint8)


def draw(text, picture, count, options):
    """Pictures with seeds 0 to count - 1, by the program on one thread. options: what is asked for; text and picture
    are given where its weights are."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.png"
        Image.fromarray(picture).save(given)
        command = [PROGRAM, "generate", "--system", "adm", "--count", str(count), "--seed", "0", "--device", "cpu", "-q",
                   "-o", Path(folder) / "p.png", *options]
        command += [text] if "--clip-guidance" in options else []
        command += ["--like", given] if {"--content", "--structure", "--style"} & set(options) else []
        env = {**os.environ, "RAYON_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
        names = [Path(folder) / (f"p-{i}.png" if count > 1 else "p.png") for i in range(count)]
        return [np.asarray(Image.open(n).convert("RGB")) for n in names]


def distance(a, b):
    return np.sqrt(np.mean((a.astype(np.float64) - b) ** 2))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--count", type=int, default=4, help="pictures of each case and row that are judged")
    ap.add_argument("--text", default="10", help="weight of the text")
    ap.add_argument("--content", default="5")
    ap.add_argument("--structure", default="5")
    ap.add_argument("--style", default="5")
    ap.add_argument("--clip-model", help="another CLIP than the bundled one")
    ap.add_argument("options", nargs="*", help="the program's, after --")
    args = ap.parse_args()
    text = ["--clip-guidance", args.text]
    content, structure, style = (["--" + k, getattr(args, k)] for k in ("content", "structure", "style"))
    kinds = [("no guidance", []), ("text", text), ("content", content), ("structure", structure), ("style", style),
             ("text, content", text + content), ("text, structure", text + structure), ("text, style", text + style)]
    clip = ["--clip-model", args.clip_model] if args.clip_model else []
    pictures = [drawing(case) for _, case in CASES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(kind, i) for kind, _ in kinds for i in range(len(CASES))]
        one = lambda job: draw(f"{scenes.article(CASES[job[1]][0])} {CASES[job[1]][0]}", pictures[job[1]], args.count,
                               [*dict(kinds)[job[0]], *(clip if dict(kinds)[job[0]] else []), *args.options])
        made = dict(zip(jobs, pool.map(one, jobs)))
    blank = [figure.PLAIN] * len(CASES)
    rows = [(["given", "one picture a column"], pictures, blank)]
    print(f"{'guided by':18s}{'text right':>11s}{'colour':>8s}{'shape':>8s}{'picture:':>10s}{'colour':>8s}{'shape':>8s}"
          f"{'distance':>10s}{'diversity':>10s}")
    for kind, options in kinds:
        said, given, far, spread = [], [], [], []
        for i, (name, (other, _, _)) in enumerate(CASES):
            small = np.asarray(Image.fromarray(pictures[i]).resize((32, 32), Image.BOX))
            at_32 = [np.asarray(Image.fromarray(px).resize((32, 32), Image.BOX)) for px in made[kind, i]]
            said += [check_scenes.check_class(px, name) for px in at_32]
            given += [check_scenes.check_class(px, other) for px in at_32]
            far += [distance(px, small) for px in at_32]
            spread += [distance(a, b) for a, b in itertools.combinations(at_32, 2)]
        share = lambda words, aspect: float(np.mean([got[aspect] for _, got in words]))
        right = float(np.mean([ok for ok, _ in said]))
        diversity = float(np.mean(spread)) if spread else 0.0
        print(f"{kind:18s}{right:11.3f}{share(said, 'colour'):8.3f}{share(said, 'shape'):8.3f}{'':10s}"
              f"{share(given, 'colour'):8.3f}{share(given, 'shape'):8.3f}{np.mean(far):10.1f}{diversity:10.1f}", flush=True)
        asked = "--clip-guidance" in options
        lines = [kind, f"text's object {right:.2f}", f"picture's colour {share(given, 'colour'):.2f}",
                 f"distance {np.mean(far):.0f}", f"diversity {diversity:.0f}"]
        shown = [said[i * args.count][0] if asked else None for i in range(len(CASES))]
        rows.append((lines, [made[kind, i][0] for i in range(len(CASES))], [figure.judged(s) for s in shown]))
    headings = [f"{scenes.article(name)} {name}" for name, _ in CASES]
    figure.grid(figure.DOCS / "sdg.png", headings, rows)


if __name__ == "__main__":
    main()
