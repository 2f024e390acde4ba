"""Compares the bundled unCLIP's two priors on the same captions and seeds: docs/priors.png and a table.

    cargo build --release --examples --bins && python tools/priors.py --count 60

The table: the dot product of the drawn embedding with the caption's, the seconds an embedding takes, and the share of the
decoder's pictures that show what the caption says by the checker; for each prior, drawn once and as the better of two. The
figure: the first captions of each kind, taken as they come, green where the checker finds everything right.
"""
import argparse
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import check_scenes
import figure
import sample
from score import PROGRAM, draw

KINDS = ("single", "pair", "held")
PRIORS = ("diffusion", "autoregressive")
SHOWN = 3                     # captions of each kind in the figure


def scores(prompts):
    """Of each prior its scores and seconds, in the prompts' order."""
    lines = "\n".join(prompts).encode()
    said = subprocess.run([PROGRAM.parent / "examples/priors"], input=lines, check=True, capture_output=True).stdout.decode()
    out = {prior: [] for prior in PRIORS}
    for line in said.splitlines():
        prior, _, _, score, seconds = line.split("\t")
        out[prior].append((float(score), float(seconds)))
    return {prior: np.array(found) for prior, found in out.items()}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--count", type=int, default=60, help="captions of each kind")
    args = ap.parse_args()
    prompts = [p for kind in KINDS for p in sample.prompts_of(kind, args.count)]
    found = scores(prompts)
    rows, by_prior = [], {}
    for prior in PRIORS:
        for candidates in (1, 2):
            options = ["--system", "unclip", "--prior", prior, "--candidates", str(candidates)]
            with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
                one = lambda item: draw(item[1], item[0], folder, options, threads=1)
                made = list(pool.map(one, enumerate(prompts)))
            right = [check_scenes.check(np.ascontiguousarray(px), p)[0] for px, p in zip(made, prompts)]
            by_kind = {k: np.mean(right[i * args.count:(i + 1) * args.count]) for i, k in enumerate(KINDS)}
            # The first one loads weights.
            score, seconds = found[prior][:, 0].mean(), np.median(found[prior][1:, 1])
            print(f"{prior}, best of {candidates}: right " + ", ".join(f"{k} {v:.2f}" for k, v in by_kind.items()) +
                  f"; all {np.mean(right):.3f} of {len(right)}; drawn once: score {score:.3f}, {seconds * 1e3:.0f} ms", flush=True)
            by_prior[prior, candidates] = made, right
    columns = [i * args.count + j for i in range(len(KINDS)) for j in range(SHOWN)]
    for prior in PRIORS:
        made, right = by_prior[prior, 1]
        mean, seconds = found[prior][:, 0].mean(), np.median(found[prior][1:, 1])
        lines = [f"{prior} prior", f"dot product {mean:.2f} in the mean", f"{seconds * 1e3:.0f} ms an embedding",
                 f"{np.mean(right):.2f} of {len(right)} pictures right"]
        rows.append((lines, [made[c] for c in columns], [figure.judged(right[c]) for c in columns]))
    figure.grid(figure.DOCS / "priors.png", [prompts[c] for c in columns], rows, top=96)


if __name__ == "__main__":
    main()
