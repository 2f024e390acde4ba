"""A small noised CLIP of scenes, in the layout of GLIDE's (Nichol et al. 2021; Radford et al. 2021).

    python tools/clip.py --verify CASE     # encoders and tokenizer against a conformance case's goldens
    python tools/clip.py --run RUN         # retrieval and relations by time, on seen and held-out captions

An image encoder that sees noisy pictures and is told the time (time 0: a plain one), and a causal text
encoder; the scalar product of their normalised outputs says how well a caption fits. Its gradient by the
picture steers a diffusion model (CLIP guidance, Semantic Diffusion Guidance). Names and shapes of the
tensors, the configuration and the tokenizer's file are those of GLIDE's clip_image_enc, clip_text_enc.

Training is contrastive over captions and pictures. Half of every batch are siblings of the other half: the
same scene but for one thing (its relation turned round, colours exchanged, another shape ...), and further
siblings come as captions alone, so that a bag of words does not do. Only for training, linear heads read a scene's
labels off both encoders, and off the image encoder's tokens the clean patches, which object they show and which of
their pixels are objects': they teach a run this short far more than which caption belongs to which picture. The text encoder begins alone, with
its labels, for READING steps: captions cost little where no picture goes with them.
"""
import argparse
import copy
import html
import json
import math
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import regex
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import adm
import scenes

READING = 300                # steps
PX = 32                      # as large as the pictures of both bundled diffusion models
CONFIG = dict(n_timesteps=adm.STEPS, image_size=PX, patch_size=4, max_text_len=48, n_embd=128, n_head_state_text=32,
              n_head_text=4, n_xf_blocks_text=4, n_head_state_image=32, n_head_image=5, n_xf_blocks_image=6,
              beta_schedule="squaredcos_cap_v2")
MEANS, STDS = (122.77093945, 116.74601272, 104.09373519), (68.50053285, 66.63215831, 70.32316309)  # CLIP's, of bytes


# ---------------------------------------------------------------- networks

class Affine(nn.Module):
    def __init__(self, cin, cout, std, bias=True):
        super().__init__()
        self.w = nn.Parameter(torch.randn(cout, cin) * std)
        self.b = nn.Parameter(torch.zeros(cout)) if bias else None

    def forward(self, x):
        return F.linear(x, self.w, self.b)


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.g, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return F.layer_norm(x, self.g.shape, self.g, self.b, 1e-5)


class Attention(nn.Module):
    def __init__(self, width, heads, causal, depth):
        super().__init__()
        self.ln = Norm(width)
        self.f_q, self.f_v = (Affine(width, width, width ** -0.5) for _ in range(2))
        self.f_k = Affine(width, width, width ** -0.5, bias=False)
        self.f_c = Affine(width, width, width ** -0.5 / (2 * depth))
        self.heads, self.causal = heads, causal

    def forward(self, x):
        h = self.ln(x)
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.f_q, self.f_k, self.f_v))
        # By hand: the gradient of torch's fused attention takes five times as long on the CPU at this size.
        w = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if self.causal:
            w = w + torch.full(w.shape[-2:], -1e10, dtype=w.dtype, device=w.device).triu(1)
        return x + self.f_c((w.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.ln = Norm(width)
        self.f_1 = Affine(width, 4 * width, (2 * width) ** -0.5)
        self.f_2 = Affine(4 * width, width, width ** -0.5 / (2 * depth))

    def forward(self, x):
        return x + self.f_2(F.gelu(self.f_1(self.ln(x))))


class Block(nn.Module):
    def __init__(self, width, heads, causal, depth):
        super().__init__()
        self.f_attn, self.f_mlp = Attention(width, heads, causal, depth), Mlp(width, depth)

    def forward(self, x):
        return self.f_mlp(self.f_attn(x))


def waves(at, width):
    """Sines and cosines of positions [n], of the size GLIDE's random positions have: [n, width]."""
    w = torch.exp(-math.log(10000) / (width // 2) * torch.arange(width // 2))
    a = at[:, None].float() * w
    return torch.cat([a.sin(), a.cos()], -1) * (2 / width) ** 0.5


def tones(width):
    return math.pi * (torch.arange(width // 2) + 0.5) / (width // 2)


@torch.no_grad()
def look_back(attention, strength=1.2):
    """Begins all heads but the last of a text's first block so that they look one, two ... tokens back. From random
    positions the encoder was no better than a bag of words about pairs of objects after 170,000 captions."""
    width, heads = attention.f_q.w.shape[0], attention.heads
    size, half = width // heads, width // 2
    pick = torch.arange(size // 2) * heads + heads // 2       # frequencies, spread over all
    rows, w = torch.arange(size // 2), tones(width)[pick]
    for head in range(heads - 1):
        q, k = (f.w[head * size:(head + 1) * size].zero_() for f in (attention.f_q, attention.f_k))
        c, s = strength * torch.cos(w * (head + 1)), strength * torch.sin(w * (head + 1))
        q[rows, pick], q[rows, half + pick] = c, -s           # the sine of an earlier place
        q[size // 2 + rows, half + pick], q[size // 2 + rows, pick] = c, s
        k[rows, pick] = k[size // 2 + rows, half + pick] = strength


class ImageInput(nn.Module):
    """Patches behind a token of the time. Random rows would have to be learned one time at a time, and a run
    sees each only some hundred times; as waves, neighbouring times are alike from the start."""
    def __init__(self, c, width):
        super().__init__()
        side, p = c["image_size"] // c["patch_size"], c["patch_size"]
        self.w_t = nn.Parameter(waves(torch.arange(c["n_timesteps"]), width))
        self.patch_proj = nn.Parameter(torch.randn(width, 3, p, p) * (2 / (width * p * p)) ** 0.5)
        rows, columns = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
        place = torch.cat([waves(64 * rows, width // 2), waves(64 * columns, width - width // 2)], -1) / 2 ** 0.5
        self.w_pos = nn.Parameter(torch.cat([torch.zeros(1, width), place]))
        self.ln = Norm(width)
        self.register_buffer("means", torch.tensor(MEANS)[:, None, None], persistent=False)
        self.register_buffer("stds", torch.tensor(STDS)[:, None, None], persistent=False)

    def forward(self, x, t):
        x = ((x + 1) * 127.5 - self.means) / self.stds
        x = F.conv2d(x, self.patch_proj, stride=self.patch_proj.shape[-1]).flatten(2).transpose(1, 2)
        return self.ln(torch.cat([self.w_t[t][:, None].to(x.dtype), x], 1) + self.w_pos)


class TextInput(nn.Module):
    """Tokens and their places, the latter begun as sines and cosines of frequencies spread evenly up to a half."""
    def __init__(self, c, width):
        super().__init__()
        self.w_voc = nn.Parameter(0.02 * torch.randn(c["n_vocab"], width))
        a = torch.arange(c["max_text_len"])[:, None] * tones(width)
        self.w_pos = nn.Parameter(0.02 * 2 ** 0.5 * torch.cat([a.sin(), a.cos()], -1))

    def forward(self, ids):
        return self.w_voc[ids] + self.w_pos[:ids.shape[1]]


class Output(nn.Module):
    def __init__(self, width, embed):
        super().__init__()
        self.ln, self.f = Norm(width), Affine(width, embed, width ** -0.5, bias=False)


class Encoder(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        heads, depth = c[f"n_head_{kind}"], c[f"n_xf_blocks_{kind}"]
        width = heads * c[f"n_head_state_{kind}"]
        self.blocks = nn.ModuleDict({"input": {"image": ImageInput, "text": TextInput}[kind](c, width)})
        for i in range(depth):
            self.blocks[f"block_{i}"] = Block(width, heads, kind == "text", depth)
        if kind == "text":
            look_back(self.blocks["block_0"].f_attn)
        self.blocks["output"] = Output(width, c["n_embd"])
        self.width, self.kind = width, kind

    def forward(self, x, at):
        """Pictures [n, 3, px, px] in -1..1 and their times, or token ids [n, length] and their counts: the
        embedding, not yet normalised, what it is read from, and the last states of all tokens."""
        image = self.kind == "image"
        h = self.blocks["input"](x, at) if image else self.blocks["input"](x)
        for name, block in self.blocks.items():
            if name.startswith("block"):
                h = block(h)
        state = self.blocks["output"].ln(h[:, 0] if image else h[torch.arange(len(h)), at - 1])
        return self.blocks["output"].f(state), state, h


PARTS = (9, 13, 3)            # what a patch shows: shape, colour, which object of the labels (the last class: none)


class Heads(nn.Module):
    """What training alone needs: the logits' scale and the linear readers."""
    def __init__(self, c):
        super().__init__()
        image, text = (c[f"n_head_{k}"] * c[f"n_head_state_{k}"] for k in ("image", "text"))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.seen, self.read = nn.Linear(image, sum(scenes.LABELS)), nn.Linear(text, sum(scenes.LABELS))
        self.patch = nn.Linear(image, 3 * c["patch_size"] ** 2)
        self.part = nn.Linear(image, sum(PARTS))
        self.outline = nn.Linear(image, c["patch_size"] ** 2)


def networks(vocab, config=CONFIG):
    c = {**config, "n_vocab": vocab}
    return {"image": Encoder(c, "image"), "text": Encoder(c, "text"), "heads": Heads(c)}


def unit(z):
    return z.float() / (torch.linalg.norm(z.float(), dim=-1, keepdim=True) + 1e-12)


# ---------------------------------------------------------------- tokens

def byte_letters():
    """The letter that stands for each byte, as GPT-2 chose them: itself where it can be printed."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printed]
    return {b: chr(b) for b in printed} | {b: chr(256 + i) for i, b in enumerate(rest)}


WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")


def words(text):
    """Lower-cased words as tuples of byte letters, the last one marked as the word's end."""
    letters = byte_letters()
    out = [[letters[b] for b in w.encode()] for w in WORDS.findall(html.unescape(html.unescape(text)).lower())]
    return [(*w[:-1], w[-1] + "</w>") for w in out]


def merged(word, pair):
    out, i = [], 0
    while i < len(word):
        both = word[i:i + 2] == pair
        out.append("".join(pair) if both else word[i])
        i += 2 if both else 1
    return tuple(out)


def train_tokenizer(path, seed=0, most=400):
    """Merges of the captions' words, the commonest pair first, until each word is one token or `most` are made."""
    rng = np.random.default_rng(seed)
    counts = Counter(w for _ in range(20000) for w in words(scenes.sample_scene(rng).caption))
    for text in (*scenes.SHAPES, *scenes.NAMES, "grey", *scenes.COUNTS.values()):
        counts.update(words(text))
    merges = []
    while len(merges) < most:
        pairs = Counter()
        for w, n in counts.items():
            for pair in zip(w, w[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        counts = Counter({merged(w, best): n for w, n in counts.items()})
    path.write_text("\n".join(["#version: 0.2", *(" ".join(m) for m in merges)]))


class Tokenizer:
    """CLIP's byte-level BPE: 256 letters, the same as ends of words, the merges, start and end of the text."""
    def __init__(self, path):
        merges = [tuple(line.split()) for line in path.read_text().split("\n")[1:]]
        letters = list(byte_letters().values())
        names = letters + [x + "</w>" for x in letters] + ["".join(m) for m in merges]
        self.ids, self.ranks = {n: i for i, n in enumerate(names)}, {m: i for i, m in enumerate(merges)}
        self.vocab = len(names) + 2
        self.word = lru_cache(100000)(self.split)

    def split(self, word):
        while True:
            pairs = [p for p in zip(word, word[1:]) if p in self.ranks]
            if not pairs:
                return [self.ids[x] for x in word]
            word = merged(word, min(pairs, key=self.ranks.get))

    def encode(self, text):
        return [i for w in words(text) for i in self.word(w)]

    def __call__(self, texts, most=CONFIG["max_text_len"]):
        """Ids [n, longest] with start and end, zeros behind, and their counts."""
        rows = [[self.vocab - 2, *self.encode(t)[:most - 2], self.vocab - 1] for t in texts]
        out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, r in enumerate(rows):
            out[i, :len(r)] = torch.tensor(r)
        return out, torch.tensor([len(r) for r in rows])


# ---------------------------------------------------------------- data

def inverse(s):
    """The same two objects, each in the other's place: 'A above B' becomes 'B above A'."""
    b = copy.deepcopy(s)
    b.things.reverse()
    return b


def sibling(s, rng):
    """A scene that differs from another in one respect, with its caption; never a held-out one."""
    ways = ["colour", "shape", "ground"]
    ways += ["turn", "turn", "colours", "shapes", "axis", "size"] if s.relation else []
    ways += ["count"] if s.count else [] if s.relation else ["place", "size", "texture"]
    while True:
        b, way = copy.deepcopy(s), ways[rng.integers(len(ways))]
        some = b.things if b.count else [b.things[rng.integers(len(b.things))]]
        pick = lambda many: many[rng.integers(len(many))]
        if way == "turn":
            b.things.reverse()
        elif way == "colours":
            b.things[0].colour, b.things[1].colour = b.things[1].colour, b.things[0].colour
        elif way == "shapes":
            b.things[0].shape, b.things[1].shape = b.things[1].shape, b.things[0].shape
        elif way == "axis":
            b.relation = pick(scenes.RELATIONS)
        elif way == "place":
            b.place = pick(list(scenes.PLACES))
        elif way == "count":
            b.count = pick(list(scenes.COUNTS))
            b.things = [copy.copy(b.things[0]) for _ in range(b.count)]
        elif way == "ground":
            b.background, b.named_background = scenes.random_colour(rng), True
        else:
            field, values = {"colour": ("colour", scenes.NAMES), "shape": ("shape", scenes.SHAPES),
                             "size": ("size_word", ("", "small", "large")),
                             "texture": ("texture", ("", "striped", "dotted"))}[way]
            value = pick(values)
            for t in some:
                setattr(t, field, value)
        alike = b.relation and len({(t.shape, t.colour) for t in b.things}) == 1
        if alike or any(t.colour == b.background for t in b.things) or scenes.is_held_out(b):
            continue
        if scenes.labels(b) != scenes.labels(s):
            scenes.layout(b, rng)
            b.caption = scenes.caption(b, rng)
            return b


def wording(s, rng):
    """A caption; what a picture's labels must be to be a match (-1: anything), and to be none for certain.

    Now and then a caption leaves out background, place and sizes: then any will do. A full one that names no
    background means white, but may well be said of other pictures: those count neither for it nor against it.
    """
    want = scenes.labels(s)
    if rng.random() < 0.2:
        b = copy.deepcopy(s)
        b.named_background, b.place = False, ""
        want[7] = -1
        if not (s.relation or s.count):
            want[6] = -1
        if rng.random() < 0.5:
            for t in b.things:
                t.size_word = ""
            want[2] = -1
            want[5] = -1 if s.relation else want[5]
        return scenes.loosen(scenes.caption(b, rng), rng), want, want
    loose = list(want)
    if not s.named_background:
        loose[7] = -1
    if not (s.relation or s.count or s.place):
        loose[6] = -1
    return scenes.loosen(s.caption, rng), want, loose


def parts(s, px):
    """What each patch shows, [patches, 3] classes of PARTS: an object's are those with their middle in its square."""
    side = PX // px
    at = (np.arange(side) + 0.5) / side
    out = np.tile(np.array(PARTS) - 1, (side, side, 1))
    first = s.relation not in ("to the right of", "below")
    for i, t in enumerate(s.things):
        near = lambda v: (abs(at - v) <= t.size / 2) | (abs(at - v) == abs(at - v).min())
        which = int(i != (not first)) if s.relation else 0
        out[np.ix_(near(t.cy), near(t.cx))] = scenes.SHAPES.index(t.shape), scenes.NAMES.index(t.colour), which
    return out.reshape(-1, 3)


def outlines(made):
    """How much of each pixel is an object's, [n, PX, PX]: a scene's shapes without its colours. Without these to
    predict, shapes were hardly told apart (0.28 of single objects) when colours long were (1.00)."""
    plain = copy.deepcopy(made)
    for s in plain:
        s.background = "white"
        for t in s.things:
            t.colour, t.texture = "black", ""
    white, black = (scenes.COLOURS[c][0] / 255 for c in ("white", "black"))
    return (white - scenes.render(plain, PX)[..., 0]) / (white - black)


def make_batch(n, rng, tok, step):
    """Token ids and counts of captions [3n/2], n pictures, their labels, the captions' (see `wording`), the
    patches' classes and the outlines; the captions of the pictures come first, in the pictures' order. In the first steps 2n captions'
    ids, counts and labels alone."""
    if step < READING:
        texts, want, _ = zip(*(wording(scenes.sample_scene(rng), rng) for _ in range(2 * n)))
        return *tok(texts), torch.tensor(want)
    made = [scenes.sample_scene(rng, rng.choice(["single", "pair", "count"], p=[0.42, 0.46, 0.12])) for _ in range(n // 2)]
    made += [sibling(s, rng) for s in made]
    said = [wording(s, rng) for s in made] + [wording(sibling(s, rng), rng) for s in made[:n // 2]]
    texts, want, loose = zip(*said)
    return (*tok(texts), torch.from_numpy(scenes.render(made, PX)).permute(0, 3, 1, 2).contiguous() * 2 - 1,
            *(torch.tensor(x) for x in ([scenes.labels(s) for s in made], want, loose)),
            torch.from_numpy(np.stack([parts(s, CONFIG["patch_size"]) for s in made])), torch.from_numpy(outlines(made)))


def matches(want, have):
    """Which captions [m, 9] fit which pictures [n, 9]: [m, n]. Any place is any place of one object."""
    fit = ((want[:, None] == have[None]) | (want[:, None] < 0)).all(-1)
    return fit & ((want[:, None, 6] >= 0) | (have[None, :, 6] < len(scenes.PLACES)))


# ---------------------------------------------------------------- training

def noised(x, t, acp):
    a = acp[t].view(-1, 1, 1, 1).float()
    return a.sqrt() * x + (1 - a).sqrt() * torch.randn_like(x)


def classes_loss(logits, classes, sizes):
    """Mean cross-entropy of several class numbers [n, len(sizes)] read at once; -1 is not known."""
    each = zip(logits.float().split(sizes, -1), classes.unbind(-1))
    return sum(F.cross_entropy(x, y, ignore_index=-1) for x, y in each) / len(sizes)


def loss(image, text, heads, batch, acp, autocast):
    """Symmetric contrastive loss with every true caption as a target, and the readers' losses.

    A quarter of the times are spread evenly, the others lie at the lower noise, where shapes can be seen.
    """
    if len(batch) == 3:
        ids, lens, want = batch
        with autocast:
            read = heads.read(text(ids, lens)[1])
        return classes_loss(read, want, scenes.LABELS)
    ids, lens, x, have, want, loose, shown, covered = batch
    n = len(x)
    u = (torch.arange(n) + torch.rand(n)) / n
    u = torch.where(torch.arange(n) % 4 == 0, u, u ** 2)[torch.randperm(n)]
    t = (u * adm.STEPS).long().clamp(max=adm.STEPS - 1).to(x.device)
    with autocast:
        z_i, seen, tokens = image(noised(x, t, acp), t)
        z_t, read, _ = text(ids, lens)
        seen, read = heads.seen(seen), heads.read(read)
        patches, part, outline = (f(tokens[:, 1:]) for f in (heads.patch, heads.part, heads.outline))
    px = CONFIG["patch_size"]
    clean, inside = (F.unfold(p, px, stride=px).transpose(1, 2) for p in (x, covered[:, None]))
    logits = heads.log_scale.exp().clamp(max=100) * unit(z_t) @ unit(z_i).T
    fit = matches(want, have)
    logits = logits.masked_fill(matches(loose, have) & ~fit, -1e4)
    fit = fit.float()
    by_text = -(fit[:n] / fit[:n].sum(1, keepdim=True) * F.log_softmax(logits[:n], 1)).sum(1).mean()
    by_image = -(fit / fit.sum(0, keepdim=True) * F.log_softmax(logits, 0)).sum(0).mean()
    readers = classes_loss(seen, have, scenes.LABELS) + 0.5 * classes_loss(read, want, scenes.LABELS)
    readers += 0.5 * (patches.float() - clean).square().mean() + 2 * F.binary_cross_entropy_with_logits(outline.float(), inside)
    readers += classes_loss(part.flatten(0, 1), shown.flatten(0, 1), PARTS)
    return (by_text + by_image) / 2 + readers


# ---------------------------------------------------------------- looking

def single(index, rng):
    """A class's object in the middle of a white picture (a white one on some colour), as its plain caption has it."""
    colour, shape = adm.CLASSES[index].split()
    ground = "white" if colour != "white" else scenes.random_colour(rng, ("white",))
    return scenes.layout(scenes.Scene([scenes.Thing(shape, colour)], ground), rng)


def any_single(index, rng):
    """The class as the unconditional model draws it: any place, size and background."""
    while True:
        s, i = adm.sample_single(rng)
        if i == index:
            return s


@torch.no_grad()
def judge(image, text, tok, seed=7, repeat=4, times=(0, 250, 500, 750)):
    """Rows of (what, share right at each of the times), on scenes from a seed that training never uses."""
    rng, acp, rows = np.random.default_rng([seed, 77]), adm.alpha_bar(), []
    gen = torch.Generator().manual_seed(seed)
    z_text = lambda texts: unit(text(*tok(texts))[0])

    def z_images(made, time):
        x = torch.from_numpy(scenes.render(made, PX)).permute(0, 3, 1, 2) * 2 - 1
        a = float(acp[time])
        x = (a ** 0.5 * x + (1 - a) ** 0.5 * torch.randn(x.shape, generator=gen)) if time else x
        return torch.cat([unit(image(p, torch.full((len(p),), time))[0]) for p in x.split(128)])

    def retrieval(name, texts, made, answers, groups):
        """groups: (words, which pictures)."""
        z, answers, found = z_text(texts), torch.tensor(answers), []
        for time in times:
            found.append(((z_images(made, time) @ z.T).argmax(1) == answers).float())
        for word, which in groups:
            rows.append((f"{name}{word}", [float(f[torch.tensor(which)].mean()) for f in found]))

    captions = [f"{scenes.article(c)} {c}" for c in adm.CLASSES]
    held = np.array([tuple(c.split()) in scenes.HELD_PAIRS for c in adm.CLASSES] * repeat)
    order = list(range(len(adm.CLASSES))) * repeat
    for name, make in (("one of 96 objects, white", single), ("one of 96 objects, any place, size and ground", any_single)):
        retrieval(name, captions, [make(i, rng) for i in order], order,
                  [(", seen pairs", np.flatnonzero(~held)), (", held-out pairs", np.flatnonzero(held))])
    for held_out in (False, True):
        mixed, keys = [], set()
        while len(mixed) < 100:
            s = scenes.sample_scene(rng, held_out=held_out, plain=True)
            if (key := tuple(scenes.labels(s))) not in keys:
                keys.add(key)
                mixed.append(s)
        every = np.arange(100 * repeat)
        made = [scenes.layout(copy.deepcopy(s), rng) for _ in range(repeat) for s in mixed]
        retrieval("one of 100 captions" + (", all held out" if held_out else ""), [s.caption for s in mixed], made,
                  list(range(100)) * repeat, [("", every)])
    for held_out in (False, True):
        for name, other in (("relation or its inverse", inverse), ("colours or exchanged", exchanged)):
            pairs = []
            while len(pairs) < 100 * repeat:
                s = scenes.sample_scene(rng, "pair", held_out=held_out, plain=True)
                b = other(s)
                if scenes.labels(b) != scenes.labels(s) and (held_out or not scenes.is_held_out(b)):
                    pairs.append((s, scenes.caption(b)))
            right, wrong = z_text([s.caption for s, _ in pairs]), z_text([b for _, b in pairs])
            rows.append((name + (", held out" if held_out else ""), [float(
                ((z := z_images([s for s, _ in pairs], time)) * (right - wrong)).sum(1).gt(0).float().mean()) for time in times]))
    return times, rows


def exchanged(s):
    b = copy.deepcopy(s)
    b.things[0].colour, b.things[1].colour = b.things[1].colour, b.things[0].colour
    return b


def load_run(run):
    """The averaged networks of a run, its tokenizer and its state."""
    tok = Tokenizer(run / "bpe_simple_vocab.txt")
    nets, ck = networks(tok.vocab), torch.load(run / "clip.pt", map_location="cpu")
    for k, m in nets.items():
        m.load_state_dict(ck["ema"][k])
        m.eval()
    return nets, tok, ck


def verify(case):
    """Largest difference from a case's goldens; fails above 2e-5, or where the tokenizer's ids differ."""
    from safetensors.torch import load_file
    config = yaml.safe_load((case / "clip_config.yaml").read_text())
    nets = {k: Encoder(config, k) for k in ("image", "text")}
    for k, m in nets.items():
        m.load_state_dict(torch.load(case / f"clip_{k}_enc.pt", map_location="cpu"))
    g, far = load_file(case / "clip.safetensors"), {}
    x = g["x"].requires_grad_()
    raw = {"z_i": nets["image"](x, g["t"])[0], "z_t": nets["text"](g["ids"], g["lens"])[0]}
    for k, z in raw.items():
        far[f"{k}_raw"], far[k] = z - g[f"{k}_raw"], unit(z) - g[k]
    fit = 2.5 * config["logit_scale"] * (unit(raw["z_t"]).detach() * unit(raw["z_i"])).sum()
    far["gradient"] = torch.autograd.grad(fit, x)[0] - g["grad"]
    for name, d in far.items():
        print(f"{name}: {d.abs().max():.2e}")
        assert d.abs().max() < 2e-5, name
    tok = Tokenizer(case / "tokenizer/bpe_simple_vocab.txt")
    prompts = [p for p in json.loads((case / "tokens.json").read_text())["prompts"] if p["raw"].isascii()]
    assert all(tok.encode(p["raw"]) == p["clip_ids"] for p in prompts)
    print(f"tokens: {len(prompts)} prompts as they should be")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--verify", type=Path, metavar="CASE")
    ap.add_argument("--run", default="runs/clip", type=Path)
    ap.add_argument("--repeat", type=int, default=4, help="pictures of each caption")
    args = ap.parse_args()
    if args.verify:
        return verify(args.verify)
    nets, tok, ck = load_run(args.run)
    print(f"{ck['seen']} pictures, {ck['spent'] / 60:.1f} min, logit scale {nets['heads'].log_scale.exp():.1f}")
    times, rows = judge(nets["image"], nets["text"], tok, repeat=args.repeat)
    print(f"{'t':50s}" + "".join(f"{t:>8d}" for t in times))
    for name, shares in rows:
        print(f"{name:50s}" + "".join(f"{s:8.3f}" for s in shares))


if __name__ == "__main__":
    main()
