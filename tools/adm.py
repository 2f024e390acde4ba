"""The diffusion model and the noisy classifier of scenes, in guided-diffusion's layout (Dhariwal & Nichol 2021).

    python tools/adm.py --verify CASE                            # against a conformance case's goldens
    python tools/adm.py --run RUN --scales 0,1,2,5,10 --out DIR  # sheets, share of right classes, diversity

An unconditional U-Net that predicts the noise of 32-px pictures, and a classifier that names what is on a
noisy picture: sampling adds the gradient of its log probability of the wanted class. Names and shapes of
the tensors are those of guided-diffusion's files, so what reads those reads these.
The classes: index = 8 * colour + shape, in the order of scenes.NAMES and scenes.SHAPES ("red circle" = 0,
"red square" = 1, ..., "white diamond" = 95).
"""
import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import scenes

CLASSES = [f"{c} {s}" for c in scenes.NAMES for s in scenes.SHAPES]
STEPS = 1000
PX = 32
# guided-diffusion's command line flags, *_ds as factors of downsampling
CONFIG = {
    "ddpm": dict(image_size=PX, num_channels=64, channel_mult=[1, 1, 2], num_res_blocks=1, attention_resolutions_ds=[4],
                 num_head_channels=32, num_classes=len(CLASSES), learn_sigma=False, sigma_small=True, class_cond=False,
                 use_scale_shift_norm=True, resblock_updown=True, use_new_attention_order=True, noise_schedule="cosine",
                 diffusion_steps=STEPS, rescale_timesteps=False),
    "classifier": dict(image_size=PX, classifier_width=64, channel_mult=[1, 1, 2], classifier_depth=1,
                       attention_resolutions_ds=[4], num_head_channels=32, classifier_pool="attention",
                       classifier_use_scale_shift_norm=True, classifier_resblock_updown=True, num_classes=len(CLASSES)),
}


# ---------------------------------------------------------------- networks

def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-5)


def zeroed(layer):
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class Residual(nn.Module):
    """resize: 2 doubles the picture's side between the first activation and convolution, 0.5 halves it."""
    def __init__(self, cin, cout, emb, resize=1):
        super().__init__()
        self.in_layers = nn.Sequential(norm(cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * cout))
        self.out_layers = nn.Sequential(norm(cout), nn.SiLU(), nn.Identity(), zeroed(nn.Conv2d(cout, cout, 3, padding=1)))
        self.skip_connection = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()
        self.resize = resize

    def resized(self, x):
        if self.resize == 1:
            return x
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resize == 2 else F.avg_pool2d(x, 2)

    def forward(self, x, emb):
        h = self.in_layers[2](self.resized(self.in_layers[1](self.in_layers[0](x))))
        scale, shift = self.emb_layers(emb)[:, :, None, None].to(h.dtype).chunk(2, 1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(self.resized(x)) + self.out_layers[3](self.out_layers[1](h))


def attend(qkv, heads, new_order):
    """Attention over the last axis of qkv [N, 3C, T]: all queries, keys and values in turn, or (the older
    order) those of each head in turn."""
    n, c, length = qkv.shape
    split = (n, 3, heads, c // (3 * heads), length) if new_order else (n, heads, 3, c // (3 * heads), length)
    q, k, v = qkv.reshape(split).transpose(-1, -2).unbind(1 if new_order else 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, c // 3, length)


class Attention(nn.Module):
    def __init__(self, channels, heads, new_order):
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))
        self.heads, self.new_order = heads, new_order

    def forward(self, x, emb):
        h = attend(self.qkv(self.norm(x).flatten(2)), self.heads, self.new_order)
        return x + self.proj_out(h).view(x.shape)


class AttentionPool(nn.Module):
    """The answer at an extra token, the mean of all."""
    def __init__(self, side, channels, heads, out):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(channels, side * side + 1) / channels ** 0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out, 1)
        self.heads = heads

    def forward(self, x):
        x = x.flatten(2)
        x = torch.cat([x.mean(-1, keepdim=True), x], -1) + self.positional_embedding
        return self.c_proj(attend(self.qkv_proj(x), self.heads, True)[:, :, :1])[:, :, 0]


class Step(nn.ModuleList):
    """Layers in a row that all see the time embedding."""
    def forward(self, x, emb):
        for layer in self:
            x = layer(x, emb)
        return x


class Plain(nn.Conv2d):
    def forward(self, x, emb):
        return super().forward(x)


class Encoder(nn.Module):
    """Time embedding, the way down and the middle: what both networks share."""
    def __init__(self, width, depth, c, new_order):
        super().__init__()
        emb, mult, ds = 4 * width, c["channel_mult"], 1
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.attention = lambda ch: Attention(ch, ch // c["num_head_channels"], new_order)
        ch = int(mult[0] * width)
        steps, self.skips = [Step([Plain(3, ch, 3, padding=1)])], [ch]
        for level, m in enumerate(mult):
            for _ in range(depth):
                steps.append(Step([Residual(ch, int(m * width), emb)]))
                ch = int(m * width)
                if ds in c["attention_resolutions_ds"]:
                    steps[-1].append(self.attention(ch))
                self.skips.append(ch)
            if level + 1 < len(mult):
                steps.append(Step([Residual(ch, ch, emb, 0.5)]))
                self.skips.append(ch)
                ds *= 2
        self.input_blocks = nn.ModuleList(steps)
        self.middle_block = Step([Residual(ch, ch, emb), self.attention(ch), Residual(ch, ch, emb)])
        self.channels, self.ds, self.emb = ch, ds, emb

    def embed(self, t):
        half = self.width // 2
        w = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device, dtype=torch.float32))
        a = t[:, None].float() * w
        return self.time_embed(torch.cat([a.cos(), a.sin()], -1))

    def down(self, x, emb):
        kept = []
        for step in self.input_blocks:
            x = step(x, emb)
            kept.append(x)
        return self.middle_block(x, emb), kept


class Unet(Encoder):
    def __init__(self, c):
        width, depth = c["num_channels"], c["num_res_blocks"]
        super().__init__(width, depth, c, c["use_new_attention_order"])
        if c["class_cond"]:
            self.label_emb = nn.Embedding(c["num_classes"], self.emb)
        ch, ds, skips, steps = self.channels, self.ds, list(self.skips), []
        for level, m in reversed(list(enumerate(c["channel_mult"]))):
            for i in range(depth + 1):
                steps.append(Step([Residual(ch + skips.pop(), int(m * width), self.emb)]))
                ch = int(m * width)
                if ds in c["attention_resolutions_ds"]:
                    steps[-1].append(self.attention(ch))
            if level:
                steps[-1].append(Residual(ch, ch, self.emb, 2))
                ds //= 2
        self.output_blocks = nn.ModuleList(steps)
        self.out = nn.Sequential(norm(ch), nn.SiLU(), zeroed(nn.Conv2d(ch, 6 if c["learn_sigma"] else 3, 3, padding=1)))

    def forward(self, x, t, y=None):
        emb = self.embed(t)
        if y is not None:
            emb = emb + self.label_emb(y)
        h, kept = self.down(x, emb)
        for step in self.output_blocks:
            h = step(torch.cat([h, kept.pop()], 1), emb)
        # The noise is asked for to a thousandth where it is all but everything: not in bfloat16.
        with torch.autocast(x.device.type, enabled=False):
            return self.out(h.float())


class Classifier(Encoder):
    def __init__(self, c):
        super().__init__(c["classifier_width"], c["classifier_depth"], c, False)
        pool = AttentionPool(c["image_size"] // self.ds, self.channels, self.channels // c["num_head_channels"], c["num_classes"])
        self.out = nn.Sequential(norm(self.channels), nn.SiLU(), pool)

    def forward(self, x, t):
        return self.out(self.down(x, self.embed(t))[0])


def network(stage, config=CONFIG):
    return {"ddpm": Unet, "classifier": Classifier}[stage](config[stage])


# ---------------------------------------------------------------- data

def sample_single(rng):
    """A scene of one plain object and its class. The object's place, size, slight turn and the background
    (white half of the time, else any other colour) are what a class leaves open."""
    index = int(rng.integers(len(CLASSES)))
    colour, shape = CLASSES[index].split()
    white = colour != "white" and rng.random() < 0.5
    thing = scenes.Thing(shape, colour, rng.choice(["", "large"]))
    s = scenes.Scene([thing], "white" if white else scenes.random_colour(rng, (colour, "white")))
    if rng.random() < 0.4:
        s.place = list(scenes.PLACES)[rng.integers(len(scenes.PLACES))]
    return scenes.layout(s, rng), index


# ---------------------------------------------------------------- noise

def alpha_bar(steps=STEPS):
    """The cosine schedule's cumulative products, float64 as guided-diffusion computes them."""
    f = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = [min(1 - f((i + 1) / steps) / f(i / steps), 0.999) for i in range(steps)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)


def eps_weight(acp, gamma=5.0, most=100.0):
    """Loss weight on the noise: model.v_weight in terms of it, (min(snr, gamma) + 1) / snr, up to `most`.

    The plain loss hardly asks what the noisiest steps settle, the background's and the object's colour:
    there an error of the noise is one 1/snr times as large in the picture.
    """
    snr = acp / (1 - acp)
    return ((snr.clamp(max=gamma) + 1) / snr).clamp(max=most)


def chosen_times(respacing):
    """The training times that a respacing ("50", or "ddim50" with whole strides) keeps, rising."""
    if respacing.startswith("ddim"):
        n = int(respacing[4:])
        return list(range(0, STEPS, next(i for i in range(1, STEPS) if len(range(0, STEPS, i)) == n)))
    n = int(respacing)
    return [round(i * (STEPS - 1) / (n - 1)) for i in range(n)]


def sample(net, classifier, classes, scale, respacing="50", x=None, noises=None, seed=0, eta=0.0, learned=False, **kw):
    """Pictures of the classes, guided. "ddimN" is DDIM, else ancestral sampling (variances: the posterior's,
    or learned). Every picture has its own generator, so that its noise is that of its seed at any scale."""
    acp_all, times, n = alpha_bar(), chosen_times(respacing), len(classes)
    gens = [torch.Generator().manual_seed(seed + i) for i in range(n)]
    draw = lambda: torch.stack([torch.randn(3, PX, PX, generator=g) for g in gens])
    x = draw() if x is None else x
    for i in reversed(range(len(times))):
        a, b = float(acp_all[times[i]]), float(acp_all[times[i - 1]]) if i else 1.0
        t = torch.full((n,), times[i])
        with torch.no_grad():
            out = net(x, t, **kw).float()
        eps = out[:, :3]
        pull = 0.0
        if scale:
            at = x.detach().requires_grad_()
            logp = F.log_softmax(classifier(at, t).float(), -1)[range(n), classes].sum()
            pull = scale * torch.autograd.grad(logp, at)[0]
        x0_of = lambda e: (x - (1 - a) ** 0.5 * e) / a ** 0.5
        beta = 1 - a / b
        noise = (draw() if noises is None else noises[len(times) - 1 - i]) if i else 0.0
        x0 = x0_of(eps).clamp(-1, 1)
        if respacing.startswith("ddim"):
            eps = (x - a ** 0.5 * x0) / (1 - a) ** 0.5 - (1 - a) ** 0.5 * pull
            x0 = x0_of(eps)
            sigma = eta * (beta * (1 - b) / (1 - a)) ** 0.5
            x = b ** 0.5 * x0 + (1 - b - sigma ** 2) ** 0.5 * eps + sigma * noise
        else:
            var = torch.tensor(beta * (1 - b) / (1 - a))
            if learned:                        # between the posterior's (of the last step: the last but one's) and beta
                c = float(acp_all[times[1]])
                low = beta * (1 - b) / (1 - a) if i else (1 - c / a) * (1 - a) / (1 - c)
                frac = (out[:, 3:] + 1) / 2
                var = (frac * math.log(beta) + (1 - frac) * math.log(low)).exp()
            mean = b ** 0.5 * beta / (1 - a) * x0 + (a / b) ** 0.5 * (1 - b) / (1 - a) * x
            x = mean + var * pull + var.sqrt() * noise
    return x.clamp(-1, 1)


# ---------------------------------------------------------------- looking

def load_run(run, stage):
    net = network(stage)
    ck = torch.load(run / f"{stage}.pt", map_location="cpu")
    net.load_state_dict(ck["ema"][stage])
    return net.eval().to(memory_format=torch.channels_last), ck


def to_bytes(x):
    return ((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def diversity(x, classes):
    """Mean distance (root mean square, of pictures in -1..1) between pictures of the same class."""
    x, classes = x.flatten(1), torch.tensor(classes)
    d = torch.cdist(x, x) / x.shape[1] ** 0.5
    same = (classes[:, None] == classes) & ~torch.eye(len(x), dtype=torch.bool)
    return float(d[same].mean())


def judge(args):
    import check_scenes
    import score
    (net, ck), (classifier, cc) = load_run(args.run, "ddpm"), load_run(args.run, "classifier")
    print(f"ddpm {ck['seen']} pictures, classifier {cc['seen']}")
    args.out.mkdir(parents=True, exist_ok=True)
    classes = [i * len(CLASSES) // args.count for i in range(args.count)]
    for scale in map(float, args.scales.split(",")):
        start, made = time.time(), []
        for i in range(0, len(classes), 96):
            made.append(sample(net, classifier, classes[i:i + 96], scale, args.steps, seed=i, eta=args.eta))
        x = torch.cat(made)
        pictures = to_bytes(x)
        right = [check_scenes.check_class(p, CLASSES[c]) for p, c in zip(pictures, classes)]
        mean = {k: round(float(np.mean([r[1][k] for r in right])), 3) for k in right[0][1]}
        name = f"{args.steps}_{scale:g}"
        with torch.no_grad():
            own = torch.cat([classifier(p, torch.zeros(len(p), dtype=torch.long)).argmax(-1) for p in x.split(96)])
        print(f"steps {args.steps} scale {scale:g}: right {np.mean([r[0] for r in right]):.3f} of {len(right)} {mean}, "
              f"the classifier's own word {float((own == torch.tensor(classes)).float().mean()):.3f}, diversity "
              f"{diversity(x, classes):.3f}, {time.time() - start:.0f} s", flush=True)
        score.sheet(list(pictures[::max(1, len(pictures) // 96)][:96]), 12, 80).save(args.out / f"{name}.png")


def verify(case):
    """Largest difference from a case's goldens; fails above 2e-5 (one pass) and 1e-3 (a guided run)."""
    from safetensors.torch import load_file
    config = json.loads((case / "config.json").read_text())
    net, classifier = Unet(config["diffusion"]), Classifier(config["classifier"])
    net.load_state_dict(load_file(case / "diffusion.safetensors"))
    classifier.load_state_dict(load_file(case / "classifier.safetensors"))
    g = load_file(case / "forward.safetensors")
    x, far = g["x"].requires_grad_(), {}
    far["unet"] = (net(x, g["t"], g["y"]) - g["unet.new_order"], 2e-5)
    logits = classifier(x, g["t"])
    far["logits"] = (logits - g["classifier.logits"], 2e-5)
    logp = F.log_softmax(logits, -1)[range(len(x)), g["y"]].sum()
    far["gradient"] = (torch.autograd.grad(logp, x)[0] - g["classifier.grad"], 2e-5)
    for name, respacing in (("ddpm_guided", "10"), ("ddim_guided", "ddim10")):
        r = load_file(case / f"{name}.safetensors")
        assert r["timesteps"].tolist() == chosen_times(respacing)[::-1], r["timesteps"]
        y = json.loads((case / "manifest.json").read_text())["run"]["classes"]
        end = sample(net, classifier, y, 1.0, respacing, r["x"][0], r["noise"], learned=True, y=torch.tensor(y))
        far[name] = (end - r["x"][-1].clamp(-1, 1), 1e-3)
    for name, (d, most) in far.items():
        print(f"{name}: {d.abs().max():.2e}")
        assert d.abs().max() < most, name


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--verify", type=Path, metavar="CASE")
    ap.add_argument("--run", default="runs/adm", type=Path)
    ap.add_argument("--scales", default="0,1,2,5,10")
    ap.add_argument("--steps", default="50", help='respacing: "50", or "ddim25"')
    ap.add_argument("--eta", type=float, default=0.0, help="DDIM's")
    ap.add_argument("--count", type=int, default=192, help="pictures a scale, spread over the classes")
    ap.add_argument("--out", type=Path, default="runs/adm/judged")
    args = ap.parse_args()
    verify(args.verify) if args.verify else judge(args)


if __name__ == "__main__":
    main()
