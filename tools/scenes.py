"""The drawn world: scenes, their captions and their pictures.

A scene is a background and one to four objects (shape, colour, size, place, rotation, texture).
`sample_scene` draws one from a seeded generator together with its English caption, following the
language of scenes; `render` paints a batch of scenes at any resolution (or any window of them) from
signed distances, so that edges are anti-aliased and the same scene can be had at 32, 64 and 256 px.

Captions that hold a held-out pair (see HELD_OUT below) never come out of `sample_scene` unless asked
for: they measure whether the model composes what it has learned apart.
"""
from dataclasses import dataclass, field

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond")
COLOURS = {
    "red": (220, 40, 40), "orange": (245, 140, 30), "yellow": (250, 215, 45), "green": (50, 170, 75),
    "cyan": (50, 195, 215), "blue": (45, 90, 215), "purple": (140, 70, 190), "pink": (245, 130, 185),
    "brown": (130, 80, 45), "black": (20, 20, 20), "gray": (128, 128, 128), "white": (245, 245, 245),
}
NAMES = tuple(COLOURS)
HELD_PAIRS = {("purple", "star"), ("cyan", "heart"), ("orange", "cross"), ("pink", "diamond"),
              ("green", "ring"), ("brown", "triangle")}
RELATIONS = ("to the left of", "to the right of", "above", "below")
PLACES = {"in the top left corner": (-1, -1), "in the top right corner": (1, -1),
          "in the bottom left corner": (-1, 1), "in the bottom right corner": (1, 1),
          "in the center": (0, 0)}
PREFIXES = ("a picture of", "a drawing of", "an image with", "an image of", "a photo of", "a picture with")
SIZE_ONE = {"small": 0.20, "": 1 / 3, "large": 0.50}
SIZE_TWO = {"small": 1 / 6, "": 0.25, "large": 0.40}
COUNTS = {2: "two", 3: "three", 4: "four"}


@dataclass
class Thing:
    """One object. cx, cy, size in fractions of the picture's side; size is the larger extent."""
    shape: str
    colour: str
    size_word: str = ""
    cx: float = 0.5
    cy: float = 0.5
    size: float = 1 / 3
    rot: float = 0.0
    texture: str = ""
    phase: float = 0.0


@dataclass
class Scene:
    things: list
    background: str = "white"
    named_background: bool = False
    relation: str = ""
    place: str = ""
    count: int = 0
    caption: str = ""
    extra: dict = field(default_factory=dict)


def is_held_out(s):
    """True when the caption of this scene holds one of the held-out pairs (both ways of saying 'above')."""
    for t in s.things:
        if (t.colour, t.shape) in HELD_PAIRS:
            return True
        if (t.colour, t.shape) == ("blue", "circle") and s.background == "yellow":
            return True
    if s.relation in ("above", "below"):
        upper = s.things[0 if s.relation == "above" else 1]
        return (upper.colour, upper.shape) == ("red", "square")
    return False


# ---------------------------------------------------------------- captions

def article(word):
    return "an" if word[0] in "aeiou" else "a"


def noun(t):
    words = [w for w in (t.size_word, t.texture, t.colour, t.shape) if w]
    return f"{article(words[0])} " + " ".join(words)


def caption(s, rng=None):
    """The plain wording of a scene; with a generator also prefixes, grey, a full stop."""
    if s.count:
        t = s.things[0]
        plural = {"cross": "crosses"}.get(t.shape, t.shape + "s")
        text = f"{COUNTS[s.count]} {t.colour} {plural}"
    elif s.relation:
        text = f"{noun(s.things[0])} {s.relation} {noun(s.things[1])}"
    else:
        text = noun(s.things[0]) + (f" {s.place}" if s.place else "")
    if s.named_background:
        text += f" on {article(s.background)} {s.background} background"
    if rng is not None:
        if rng.random() < 0.3:
            text = f"{PREFIXES[rng.integers(len(PREFIXES))]} {text}"
        if rng.random() < 0.5:
            text = text.replace("gray", "grey")
        if rng.random() < 0.15:
            text += "."
    return text


LABELS = (8, 12, 3, 9, 13, 4, 10, 12, 3)      # classes of each number of `labels`


def labels(s):
    """What a caption says as nine class numbers: shape, colour and size of the object at the left or top,
    the same of the other one (the last class: there is none), layout, background and texture."""
    sizes = ("", "small", "large")
    of = lambda t: [SHAPES.index(t.shape), NAMES.index(t.colour), sizes.index(t.size_word)]
    if s.relation:
        a, b = s.things if s.relation in ("to the left of", "above") else s.things[::-1]
        where = 5 if s.relation.startswith("to") else 6
        rest = of(b)
    else:
        a, rest = s.things[0], [8, 12, 3]
        where = s.count + 5 if s.count else list(PLACES).index(s.place or "in the center")
    return of(a) + rest + [where, NAMES.index(s.background), ("", "striped", "dotted").index(a.texture)]


# ---------------------------------------------------------------- layout

def _inside(c, size, rng, jitter):
    """A jittered coordinate that keeps the object on the picture."""
    m = size / 2 * 1.08 + 0.015
    return float(np.clip(c + rng.uniform(-jitter, jitter), m, 1 - m))


def layout(s, rng):
    """Gives every object its size, place, rotation and texture phase."""
    sizes = SIZE_TWO if s.relation else SIZE_ONE
    for t in s.things:
        base = {2: 0.29, 3: 0.27, 4: 0.27}[s.count] if s.count else sizes[t.size_word]
        t.size = base * rng.uniform(0.92, 1.08)
        t.rot = float(np.deg2rad(rng.uniform(-8, 8)))
        t.phase = float(rng.uniform(0, 1))
    if s.count:
        spots = {2: [(.27, .5), (.73, .5)], 3: [(.5, .26), (.26, .72), (.74, .72)],
                 4: [(.27, .27), (.73, .27), (.27, .73), (.73, .73)]}[s.count]
        for t, (x, y) in zip(s.things, spots):
            t.cx, t.cy = _inside(x, t.size, rng, 0.045), _inside(y, t.size, rng, 0.045)
    elif s.relation:
        a, b = s.things
        room = 1 - a.size - b.size                    # what is left along the axis of the relation
        gap = room / 3
        slack = min(0.05, gap / 2.5)
        p, q = gap + a.size / 2, 1 - gap - b.size / 2  # the first of the two lies at the low end
        if s.relation in ("to the right of", "below"):
            p, q = 1 - p, 1 - q
        p, q = p + rng.uniform(-slack, slack), q + rng.uniform(-slack, slack)
        u, v = _inside(0.5, a.size, rng, 0.07), _inside(0.5, b.size, rng, 0.07)
        if s.relation.startswith("to"):
            a.cx, a.cy, b.cx, b.cy = p, u, q, v
        else:
            a.cx, a.cy, b.cx, b.cy = u, p, v, q
    else:
        t = s.things[0]
        dx, dy = PLACES[s.place or "in the center"]
        off = max(0.0, 0.5 - t.size / 2 - 0.09)
        t.cx = _inside(0.5 + dx * off, t.size, rng, 0.05)
        t.cy = _inside(0.5 + dy * off, t.size, rng, 0.05)
    return s


def random_colour(rng, but=()):
    while True:
        c = NAMES[rng.integers(len(NAMES))]
        if c not in but:
            return c


def sample_scene(rng, kind=None, held_out=False, plain=False):
    """A scene and its caption. kind: 'single', 'pair', 'count' (None: the training mixture).

    held_out False: never one of the held-out pairs; True: always one. plain: the wording without
    prefixes, as evaluation prompts are worded.
    """
    while True:
        k = kind or rng.choice(["single", "pair", "count"], p=[0.37, 0.50, 0.13])
        named = rng.random() < 0.5
        bg = random_colour(rng) if named else "white"
        thing = lambda: Thing(SHAPES[rng.integers(8)], random_colour(rng, (bg,)),
                              rng.choice(["", "small", "large"], p=[0.6, 0.2, 0.2]))
        if k == "pair":
            s = Scene([thing(), thing()], bg, named, relation=RELATIONS[rng.integers(4)])
            a, b = s.things
            if (a.shape, a.colour) == (b.shape, b.colour):
                continue
        elif k == "count":
            t = thing()
            n = int(rng.integers(2, 5))
            s = Scene([Thing(t.shape, t.colour) for _ in range(n)], bg, named, count=n)
        else:
            s = Scene([thing()], bg, named)
            if rng.random() < 0.4:
                s.place = list(PLACES)[rng.integers(5)]
            if rng.random() < 0.22:
                s.things[0].texture = ("striped", "dotted")[rng.integers(2)]
        if is_held_out(s) != held_out:
            continue
        layout(s, rng)
        s.caption = caption(s, None if plain else rng)
        return s


_SYLLABLES = "ba ke li mo nu ra ste tri go wo pla chi fy dra sun cat house river mountain happy wind zu qui".split()


def loosen(text, rng):
    """Now and then puts a word from outside the language into a caption, so that the model meets them."""
    r = rng.random()
    word = "".join(_SYLLABLES[i] for i in rng.integers(len(_SYLLABLES), size=rng.integers(1, 4)))
    if r < 0.03:
        words = text.split()
        words.insert(int(rng.integers(len(words) + 1)), word)
        return " ".join(words)
    if r < 0.035:
        return f"a {word}"
    return text


# ---------------------------------------------------------------- pictures

def _polygon(x, y, pts):
    """Signed distance to a simple polygon, negative inside (distance to edges, sign by crossings)."""
    best = np.full(x.shape, 1e9, np.float32)
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(pts, np.roll(pts, -1, axis=0)):
        ex, ey = x1 - x0, y1 - y0
        px, py = x - x0, y - y0
        h = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        best = np.minimum(best, (px - ex * h) ** 2 + (py - ey * h) ** 2)
        if y0 != y1:
            crosses = (y >= min(y0, y1)) & (y < max(y0, y1))
            inside ^= crosses & (px < ex * (py / ey))
    d = np.sqrt(best)
    return np.where(inside, -d, d)


def _ngon(n, r, inner=None):
    """Vertices of a regular n-gon (or star with an inner radius), one vertex up."""
    k = n * (2 if inner else 1)
    a = np.arange(k) * 2 * np.pi / k - np.pi / 2
    rad = np.where(np.arange(k) % 2 == 0, r, inner) if inner else np.full(k, r)
    return np.stack([np.cos(a) * rad, np.sin(a) * rad], 1).astype(np.float32)


_TRIANGLE = _ngon(3, 0.577) + np.array([0, 0.144], np.float32)
_STAR = _ngon(5, 0.53, 0.53 * 0.42) + np.array([0, 0.05], np.float32)


def distance(shape, x, y):
    """Signed distance (in units of the object's size) of points to a shape of extent about one."""
    if shape == "circle":
        return np.hypot(x, y) - 0.5
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.385) - 0.115
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.44
    if shape == "diamond":
        return (np.abs(x) + np.abs(y) - 0.52) * np.float32(0.7071)
    if shape == "cross":
        a, b = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(a - 0.5, b - 0.16), np.maximum(a - 0.16, b - 0.5))
    if shape == "triangle":
        return _polygon(x, y, _TRIANGLE)
    if shape == "star":
        return _polygon(x, y, _STAR)
    if shape == "heart":                                  # a square on its corner and two half discs
        c, y = np.float32(0.7071), y + np.float32(0.045)
        u, v = (x + y) * c, (y - x) * c                   # the square's own axes
        box = np.maximum(np.abs(u), np.abs(v)) - 0.293
        k = np.float32(0.293 * 0.7071)
        lobes = np.hypot(np.abs(x) - k, y + k) - 0.293
        return np.minimum(box, lobes)
    raise ValueError(shape)


def texture_colour(t):
    return COLOURS["black" if t.colour == "white" else "white"]


def render(scenes, px, window=None):
    """Paints scenes as float32 (n, px, px, 3) in 0..1.

    window: optional (n, 3) of left, top, side in fractions of the picture; the default is all of it.
    """
    out = np.empty((len(scenes), px, px, 3), np.float32)
    for i, s in enumerate(scenes):
        left, top, side = (0.0, 0.0, 1.0) if window is None else window[i]
        step = side / px
        img = out[i]
        img[:] = np.array(COLOURS[s.background], np.float32) / 255
        for t in s.things:
            half = t.size * 0.62
            x0 = max(0, int((t.cx - half - left) / step) - 1)
            x1 = min(px, int((t.cx + half - left) / step) + 2)
            y0 = max(0, int((t.cy - half - top) / step) - 1)
            y1 = min(px, int((t.cy + half - top) / step) + 2)
            if x0 >= x1 or y0 >= y1:
                continue
            gx = ((np.arange(x0, x1) + 0.5) * step + left - t.cx).astype(np.float32) / np.float32(t.size)
            gy = ((np.arange(y0, y1) + 0.5) * step + top - t.cy).astype(np.float32) / np.float32(t.size)
            c, sn = np.float32(np.cos(t.rot)), np.float32(np.sin(t.rot))
            x = gx[None] * c + gy[:, None] * sn
            y = gy[:, None] * c - gx[None] * sn
            scale = np.float32(t.size / step)             # pixels per unit of the object
            edge = distance(t.shape, x, y)
            cover = np.clip(0.5 - edge * scale, 0, 1)[..., None]
            paint = np.array(COLOURS[t.colour], np.float32) / 255
            if t.texture:
                if t.texture == "striped":                # level stripes, about three to the object
                    d = np.abs((y * 3.2 + t.phase) % 1 - 0.5) / 3.2 - 0.07
                else:
                    u, v = x * 3.2 + t.phase, y * 3.2 + t.phase
                    d = np.hypot(u % 1 - 0.5, v % 1 - 0.5) / 3.2 - 0.085
                d = np.maximum(d, edge + 0.035)           # a plain rim keeps the outline whole
                mark = np.clip(0.5 - d * scale, 0, 1)[..., None]
                paint = paint * (1 - mark) + np.array(texture_colour(t), np.float32) / 255 * mark
            box = img[y0:y1, x0:x1]
            box += (paint - box) * cover
    return out
