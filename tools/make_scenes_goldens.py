"""Scenes by tools/scenes.py with their pictures, and what tools/check_scenes.py says of them, for the tests of ours in Rust.

    python tools/make_scenes_goldens.py --to kernels-tests/goldens/scenes

scenes.json: scenes with all their numbers, plain captions, labels, whether they are held out; of each the judgements of its
picture at several sizes by its own and another caption, and of small single objects by their class.
pictures.safetensors: `whole` [n, 32, 32, 3], `window` [n, 24, 24, 3] of the first scenes, f32.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import check_scenes
import clip
import scenes

SHOWN = 16                    # scenes whose pictures are written
JUDGED = 160
SIZES = (256, 64, 48)         # pictures are judged at these
WINDOW = (0.28, 0.21, 0.4)


def as_json(s):
    things = [{k: getattr(t, k) for k in ("shape", "colour", "size_word", "texture", "cx", "cy", "size", "rot", "phase")}
              for t in s.things]
    return {"things": things, "background": s.background, "named_background": s.named_background, "relation": s.relation,
            "place": s.place, "count": s.count, "caption": scenes.caption(s), "labels": [int(n) for n in scenes.labels(s)],
            "held_out": scenes.is_held_out(s)}


def picture(s, px):
    return (scenes.render([s], px)[0] * 255).round().astype(np.uint8)


def judged(s, other):
    rows = []
    for px in SIZES:
        for prompt in (s.caption, other.caption):
            _, got = check_scenes.check(picture(s, px), prompt)
            rows.append({"side": px, "prompt": prompt, "wrong": sorted(k for k, v in got.items() if not v)})
    return rows


def judged_class(s):
    rows = []
    for px in (32, 48):
        for shift in (0, 1):
            t = s.things[0]
            name = f"{t.colour} {scenes.SHAPES[(scenes.SHAPES.index(t.shape) + shift) % 8]}"
            _, got = check_scenes.check_class(picture(s, px), name)
            rows.append({"side": px, "class": name, "wrong": sorted(k for k, v in got.items() if not v)})
    return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--to", type=Path, required=True)
    args = ap.parse_args()
    rng = np.random.default_rng(16)
    made = [scenes.sample_scene(rng, held_out=i % 4 == 3) for i in range(JUDGED)]
    rows = []
    for s in made:
        row = {**as_json(s), "judged": judged(s, clip.sibling(s, rng))}
        if len(s.things) == 1 and not s.things[0].texture:
            row["judged_class"] = judged_class(s)
        rows.append(row)
    args.to.mkdir(parents=True, exist_ok=True)
    (args.to / "scenes.json").write_text(
        json.dumps({"window": WINDOW, "scenes": rows}, separators=(",", ":")).replace('},{"things"', '},\n{"things"') + "\n")
    shown = made[:SHOWN]
    window = np.tile(np.array(WINDOW), (len(shown), 1))
    save_file({"whole": scenes.render(shown, 32), "window": scenes.render(shown, 24, window)},
              args.to / "pictures.safetensors")


if __name__ == "__main__":
    main()
