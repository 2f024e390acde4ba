"""Checks by program whether a picture shows what its prompt says.

    python tools/check_scenes.py                         # the checker's score on the recipe's own drawings
    python tools/check_scenes.py --pictures runs/eval/single [--json]

A folder holds PNGs and prompts.jsonl ({"file", "prompt"} per line), as sample.py and any other program
may write it. A picture is right when the number of objects, every shape and colour, the texture, the
place or relation and the background are. Sizes are not judged.

How: pixels are named by the nearest palette colour; the background is the commonest name along the rim;
what differs from it falls into connected components; a component's outline is compared (overlap over
union) with drawn templates of the eight shapes.
"""
import argparse
import json
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

import scenes

SIDE = 256                     # pictures are judged at this size
PALETTE = np.array([scenes.COLOURS[n] for n in scenes.NAMES], np.float32)
CELL = 48                      # templates and outlines are compared at this size
NUMBERS = {v: k for k, v in scenes.COUNTS.items()}


# ---------------------------------------------------------------- prompts

def parse(prompt):
    """What a prompt of the language asks for, or None when it is not of the language."""
    text = " ".join(prompt.lower().replace("grey", "gray").strip().rstrip(".").split())
    text = re.sub(r"^(an?|the) (picture|drawing|image|photo) (of|with) ", "", text)
    want = {"background": "white", "place": "", "relation": "", "things": []}
    m = re.fullmatch(r"(.*) on an? (\w+) background", text)
    if m:
        text, want["background"] = m.groups()
    colours, shapes = "|".join(scenes.NAMES), "|".join(scenes.SHAPES)
    m = re.fullmatch(rf"(two|three|four) (striped |dotted )?({colours}) ({shapes})(?:s|es)", text)
    if m:
        want["things"] = [(m[4], m[3], (m[2] or "").strip())] * NUMBERS[m[1]]
        return want
    thing = rf"an? (?:small |large )?(striped |dotted )?({colours}) ({shapes})"
    m = re.fullmatch(rf"{thing} ({'|'.join(scenes.RELATIONS)}) {thing}", text)
    if m:
        want["things"] = [(m[3], m[2], (m[1] or "").strip()), (m[7], m[6], (m[5] or "").strip())]
        want["relation"] = m[4]
        return want
    m = re.fullmatch(rf"{thing}(?: ({'|'.join(scenes.PLACES)}))?", text)
    if m:
        want["things"] = [(m[3], m[2], (m[1] or "").strip())]
        want["place"] = m[4] or "in the center"
        return want
    return None


# ---------------------------------------------------------------- outlines

def outline(mask):
    """A mask cut to its bounding square and brought to CELL x CELL, as a flat 0..1 vector."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
    side = max(y1 - y0, x1 - x0)
    box = np.zeros((side, side), np.uint8)
    oy, ox = (side - (y1 - y0)) // 2, (side - (x1 - x0)) // 2
    box[oy:oy + y1 - y0, ox:ox + x1 - x0] = mask[y0:y1, x0:x1] * 255
    return np.asarray(Image.fromarray(box).resize((CELL, CELL), Image.BOX), np.float32).ravel() / 255


def close_marks(mask):
    """Fills stripes and dots that have the background's colour (closing by a share of the object's size)."""
    extent = max(np.ptp(np.flatnonzero(mask.any(1))), np.ptp(np.flatnonzero(mask.any(0)))) + 1
    r = max(2, int(round(extent * 0.085)))
    y, x = np.mgrid[-r:r + 1, -r:r + 1]
    padded = np.pad(mask, r + 1)
    return ndimage.binary_closing(padded, x * x + y * y <= r * r)[r + 1:-r - 1, r + 1:-r - 1]


@lru_cache(None)
def templates(closed):
    names, rows = [], []
    for shape in scenes.SHAPES:
        for deg in range(-8, 9, 2):
            thing = scenes.Thing(shape, "black", size=0.7, rot=np.deg2rad(deg))
            mask = scenes.render([scenes.Scene([thing])], 160)[0, ..., 0] < 0.5
            names.append(shape)
            rows.append(outline(close_marks(mask) if closed else mask))
    return names, np.stack(rows)


def shape_of(mask, closed=False):
    """The best matching shape and its overlap over union."""
    names, rows = templates(closed)
    o = outline(mask)
    both = np.minimum(rows, o).sum(1)
    score = both / (rows.sum(1) + o.sum() - both)
    best = int(score.argmax())
    return names[best], float(score[best])


# ---------------------------------------------------------------- pictures

def name_pixels(px):
    d = ((px[:, :, None].astype(np.float32) - PALETTE) ** 2).sum(-1)
    return d.argmin(-1), np.sqrt(d.min(-1))


def describe(px, textured=False):
    """Background and objects (shape, colour, texture, x, y, overlap) found in a uint8 picture."""
    if px.shape[:2] != (SIDE, SIDE):
        px = np.asarray(Image.fromarray(px).resize((SIDE, SIDE), Image.BICUBIC))
    names, off = name_pixels(px)
    rim = np.concatenate([names[:3].ravel(), names[-3:].ravel(), names[:, :3].ravel(), names[:, -3:].ravel()])
    bg = Counter(rim.tolist()).most_common(1)[0][0]
    sure = names == bg
    ground = np.median(px[sure].reshape(-1, 3), 0) if sure.any() else PALETTE[bg]
    away = np.sqrt(((px.astype(np.float32) - ground) ** 2).sum(-1)) > 38
    away &= ~sure | (off > 60)
    labels, n = ndimage.label(away, np.ones((3, 3)))
    found = []
    for i in range(1, n + 1):
        part = labels == i
        if part.sum() < 90:
            continue
        for mask in ([part] if textured else split_by_colour(part, names)):
            found.append(look_at(mask, names, off, textured))
    return scenes.NAMES[bg], float(np.abs(ground - PALETTE[bg]).max()), found


def split_by_colour(part, names):
    """Touching objects of different colours come apart; blends along edges join their neighbour."""
    core = ndimage.binary_erosion(part, np.ones((3, 3)))
    count = Counter(names[core].tolist())
    total = max(1, sum(count.values()))
    main = [c for c, k in count.items() if k > 0.2 * total and k > 90]
    if len(main) < 2:
        return [part]
    reach = np.stack([ndimage.distance_transform_edt(~(core & (names == c))) for c in main])
    owner = reach.argmin(0)
    return [part & (owner == i) for i in range(len(main))]


def look_at(mask, names, off, textured):
    shape, overlap = shape_of(close_marks(mask) if textured else mask, textured)
    core = ndimage.binary_erosion(mask, np.ones((3, 3)))
    core = core if core.sum() > 40 else mask
    ranked = Counter(names[core].tolist()).most_common()
    colour, share = scenes.NAMES[ranked[0][0]], ranked[0][1] / core.sum()
    texture = ""
    if textured:
        whole = ndimage.binary_fill_holes(mask)
        white, black = scenes.NAMES.index("white"), scenes.NAMES.index("black")
        counts = dict(Counter(names[core & ~np.isin(names, [white])].tolist()).most_common())
        if counts and max(counts.values()) > 0.25 * core.sum() and not (
                max(counts, key=counts.get) == black and (names[whole] == white).sum() > 1.2 * counts[black]):
            colour, mark = scenes.NAMES[max(counts, key=counts.get)], white
        else:
            colour, mark = "white", black
        marks, n = ndimage.label(ndimage.binary_erosion(whole, iterations=2) & (names == mark))
        long, area, inner = [], 0, whole.sum()
        for box, i in zip(ndimage.find_objects(marks), range(1, n + 1)):
            k = int((marks[box] == i).sum())
            if k < 12 or (shape == "ring" and k > 0.18 * inner):
                continue
            h, w = box[0].stop - box[0].start, box[1].stop - box[1].start
            area += k
            long.append((w / h, k))
        if long and area > 0.07 * mask.sum():
            texture = "striped" if sum(k for r, k in long if r > 1.9) > 0.5 * area else "dotted"
        share = 1.0
    cy, cx = ndimage.center_of_mass(mask)
    return dict(shape=shape, colour=colour, texture=texture, x=cx / SIDE, y=cy / SIDE, overlap=overlap, share=share)


def check(px, prompt):
    """(right, {aspect: bool}) for one picture."""
    want = parse(prompt)
    if want is None:
        raise ValueError(f"not a prompt of the language: {prompt!r}")
    textured = any(t[2] for t in want["things"])
    bg, bg_off, found = describe(px, textured)
    got = {"background": bg == want["background"] and bg_off < 45, "number": len(found) == len(want["things"])}
    if not got["number"]:
        got.update(shape=False, colour=False, texture=False, place=False)
        return False, got
    if want["relation"]:
        along = "x" if want["relation"].startswith("to") else "y"
        across = "y" if along == "x" else "x"
        found.sort(key=lambda f: f[along])
        if want["relation"] in ("to the right of", "below"):
            found.reverse()
        a, b = found
        got["place"] = abs(a[along] - b[along]) > max(0.08, abs(a[across] - b[across]))
    elif want["place"]:
        dx, dy = scenes.PLACES[want["place"]]
        near = lambda v, d: abs(v - 0.5) <= 0.12 if d == 0 else (v - 0.5) * d > 0.06
        got["place"] = near(found[0]["x"], dx) and near(found[0]["y"], dy)
    else:
        got["place"] = True
    pairs = list(zip(found, want["things"]))
    got["shape"] = all(f["shape"] == t[0] and f["overlap"] > 0.72 for f, t in pairs)
    got["colour"] = all(f["colour"] == t[1] and f["share"] > 0.6 for f, t in pairs)
    got["texture"] = all(f["texture"] == t[2] for f, t in pairs)
    return all(got.values()), got


def check_class(px, name):
    """(right, {aspect: bool}) for one small picture of a class like "red circle": one such object on any plain
    background.

    At 32 px half of an object's pixels are blends of its colour and the background's, which `describe` would
    name as colours of their own. So every pixel is taken as such a blend: how much of the object it holds is
    its place on the line between the two colours, and the outline is that of the enlarged shares.
    """
    colour, shape = name.split()
    flat = px.astype(np.float32)
    rim = np.concatenate([flat[0], flat[-1], flat[1:-1, 0], flat[1:-1, -1]])
    ground = np.median(rim, 0)
    far = np.sqrt(((flat - ground) ** 2).sum(-1))
    ink = np.median(flat[far > 0.85 * np.sort(far.ravel())[-12:].mean()], 0)
    along = ink - ground
    share = ((flat - ground) @ along) / max(1.0, along @ along)
    off = np.sqrt(((flat - ground - share[..., None] * along) ** 2).sum(-1))
    nearest = lambda c: np.sqrt(((c - PALETTE) ** 2).sum(-1))
    big = Image.fromarray(share.clip(0, 1).astype(np.float32)).resize((SIDE, SIDE), Image.BICUBIC)
    parts, n = ndimage.label(np.asarray(big) > 0.5, np.ones((3, 3)))
    parts = [m for m in (parts == i for i in range(1, n + 1)) if m.sum() > 90]
    got = {"number": len(parts) == 1, "background": bool(nearest(ground).min() < 45 and (off > 60).sum() < 6)}
    got["colour"] = scenes.NAMES[int(nearest(ink).argmin())] == colour and bool(nearest(ink).min() < 60)
    found, overlap = shape_of(parts[0]) if got["number"] else ("", 0.0)
    got["shape"] = found == shape and overlap > 0.72
    return all(got.values()), got


def own_drawings(count, seed=99, keep=None):
    """Share of the recipe's own 256-px drawings that the checker calls right, by kind."""
    rng, result = np.random.default_rng(seed), {}
    for kind in ("single", "pair", "count"):
        ok = 0
        for i in range(count):
            s = scenes.sample_scene(rng, kind, held_out=i % 4 == 3)
            px = (scenes.render([s], SIDE)[0] * 255).round().astype(np.uint8)
            right, got = check(px, s.caption)
            ok += right
            if not right and keep is not None:
                keep.append((s.caption, {k for k, v in got.items() if not v}, px))
        result[kind] = ok / count
    return result


def score_folder(folder):
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    tally, right, wrong = Counter(), 0, []
    for row in rows:
        ok, got = check(np.asarray(Image.open(folder / row["file"]).convert("RGB")), row["prompt"])
        right += ok
        tally.update(k for k, v in got.items() if v)
        if not ok:
            wrong.append({**row, "wrong": sorted(k for k, v in got.items() if not v)})
    n = len(rows)
    return {"prompts": n, "score": right / n, "aspects": {k: round(tally[k] / n, 3) for k in sorted(tally)}, "wrong": wrong}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--pictures", type=Path, action="append", default=[])
    ap.add_argument("--own", type=int, default=400, help="own drawings per kind for the checker's own score")
    ap.add_argument("--failures", type=Path, help="write the own drawings called wrong here")
    ap.add_argument("--json", action="store_true", help="print every wrong picture too")
    args = ap.parse_args()
    if args.own:
        keep = []
        own = own_drawings(args.own, keep=keep)
        print("checker on the recipe's own drawings:", " ".join(f"{k} {v:.4f}" for k, v in own.items()),
              f"all {np.mean(list(own.values())):.4f} ({args.own} each)")
        if args.failures:
            args.failures.mkdir(parents=True, exist_ok=True)
            for i, (caption, what, px) in enumerate(keep):
                Image.fromarray(px).save(args.failures / f"{i}.png")
                print(f"  {i}: {caption}: {sorted(what)}")
    for folder in args.pictures:
        r = score_folder(folder)
        print(f"{folder}: {r['score']:.3f} of {r['prompts']} right; right aspects {r['aspects']}")
        if args.json:
            for w in r["wrong"]:
                print("  ", json.dumps(w))


if __name__ == "__main__":
    main()
