"""Trains the scenes cascade from nothing: text encoder, base, upscaler; classifier guidance's two networks; a CLIP;
an unCLIP.

    python tools/train.py --out runs/scenes                         # all stages, one after another
    python tools/train.py --out runs/scenes --stages base --budget-minutes base=60
    python tools/train.py --out runs/adm --stages classifier,ddpm   # the unconditional model and its classifier
    python tools/train.py --out runs/clip --stages clip             # the noised CLIP that steers both
    python tools/train.py --out runs/unclip --stages decoder,prior,ar_prior,super_res,upsampler

unCLIP's stages read clip.pt and bpe_simple_vocab.txt in OUT, and begin at the cascade's base.pt, sr256.pt, text.pt and
spiece.model where those lie there too.

Runs on the CPU (bfloat16 autocast, torch.compile; one single-threaded process per core, gradients
averaged after every step, which beats one process with many threads by far) or on CUDA. Each stage trains for its budget of
minutes: the learning rate warms up, holds, and decays to the budget's end. State is saved every few
minutes by an atomic rename; the same command goes on where it stopped, and a larger budget continues a
finished stage. Log: OUT/log.txt; OUT/STAGE.pt holds weights, their moving average (what is exported),
the optimiser and the time spent. OUT/STAGE_*.png are samples on the way.
"""
import argparse
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

import adm
import clip
import model
import scenes
import unclip

DEFAULT_MINUTES = {"text": 5.0, "base": 90.0, "sr256": 15.0, "classifier": 20.0, "ddpm": 60.0, "clip": 80.0, **unclip.MINUTES}
BATCH = {"text": 64, "base": 32, "sr256": 8, "classifier": 32, "ddpm": 32, "clip": 96, **unclip.BATCH}
RATE = {"text": 1e-3, "base": 1e-3, "sr256": 1e-3, "classifier": 1e-3, "ddpm": 1e-3, "clip": 1e-3, **unclip.RATE}
LEVELS = {"sr256": 250}                       # noise augmentation of the low-res picture, up to this step
CROP = 64                                     # side of sr256's training crops
PEEK = ["a red circle", "a small blue star on a yellow background", "a green heart in the top left corner",
        "a red circle to the left of a blue square", "a large yellow ring above a small black cross",
        "three orange triangles", "a striped red square", "a purple star", "four pink hearts on a black background",
        "a cyan heart below a gray diamond", "a dotted green circle", "an orange cross to the right of a blue star",
        "a white square on a brown background", "two cyan rings", "a cat", "a brown triangle above a pink diamond"]


RANK, WORLD = int(os.environ.get("SCENES_RANK", 0)), int(os.environ.get("SCENES_WORLD", 1))


def log(out, text):
    if RANK:
        return
    line = time.strftime("%H:%M:%S ") + text
    print(line, flush=True)
    with open(out / "log.txt", "a") as f:
        f.write(line + "\n")


def save_atomic(obj, path):
    if RANK:
        return
    tmp = path.with_suffix(".tmp")
    torch.save(obj, tmp)
    os.replace(tmp, path)


# ---------------------------------------------------------------- data

def to_tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous() * 2 - 1


def make_batch(stage, n, rng, tok):
    """Token ids (or class numbers), target pictures, (for the upscaler) the clean upscaled low-res picture,
    labels of the captions."""
    if stage in adm.CONFIG:
        made, classes = zip(*(adm.sample_single(rng) for _ in range(n)))
        return torch.tensor(classes), to_tensor(scenes.render(made, adm.PX)), None, None, None
    made = [scenes.sample_scene(rng) for _ in range(n)]
    texts = ["" if rng.random() < 0.1 else scenes.loosen(s.caption, rng) for s in made]
    ids = tok(texts, 0.01, rng)
    known = torch.tensor([float(any(shape in t for shape in scenes.SHAPES)) for t in texts])
    labels = torch.tensor([scenes.labels(s) for s in made])
    if stage == "text":
        return ids, None, None, labels, known
    c = model.STAGES[stage]
    low = None
    if c["low"]:
        low = model.upscale(to_tensor(scenes.render(made, c["low"])), c["px"])
    if stage == "sr256":
        at = rng.uniform(0, c["px"] - CROP, size=(n, 2))
        for i, m in enumerate(made):          # most crops around an object: the plain background teaches little
            if rng.random() < 0.8:
                t = m.things[rng.integers(len(m.things))]
                at[i] = np.array([t.cx, t.cy]) * c["px"] - CROP / 2 + rng.uniform(-36, 36, 2)
        at = (at.clip(0, c["px"] - CROP) / 4).round().astype(int) * 4
        window = np.concatenate([at[:, :1], at[:, 1:], np.full((n, 1), CROP)], 1) / c["px"]
        x = to_tensor(scenes.render(made, CROP, window))
        low = torch.stack([p[:, y:y + CROP, x0:x0 + CROP] for p, (x0, y) in zip(low, at)])
    else:
        x = to_tensor(scenes.render(made, c["px"]))
    return ids, x, low, labels, known


class Feeder:
    """Batches from a background thread, reproducible from (seed, worker, step)."""
    def __init__(self, make, n, seed, step, rank):
        self.q = queue.Queue(4)
        self.stop = False

        def work(step):
            while not self.stop:
                rng = np.random.default_rng([seed, rank, step])
                item = make(n, rng, step)
                while not self.stop:
                    try:
                        self.q.put(item, timeout=1)
                        break
                    except queue.Full:
                        pass
                step += 1
        threading.Thread(target=work, args=(step,), daemon=True).start()

    def next(self):
        return self.q.get()


# ---------------------------------------------------------------- training

def share(params, extra):
    """Averages the gradients (in place) and a few extra numbers over the workers."""
    if WORLD == 1:
        return extra
    params = [p for p in params if p.grad is not None]
    flat = torch.cat([p.grad.reshape(-1) for p in params] + [torch.tensor(extra)])
    dist.all_reduce(flat)
    flat /= WORLD
    at = 0
    for p in params:
        p.grad.copy_(flat[at:at + p.numel()].view_as(p))
        at += p.numel()
    return flat[at:].tolist()


class Average:
    """Exponential moving average of weights; the horizon grows with the run up to `limit`."""
    def __init__(self, modules, limit=0.9985):
        self.modules, self.limit = modules, limit
        self.shadow = {k: {n: p.detach().clone().float() for n, p in m.state_dict().items()} for k, m in modules.items()}

    @torch.no_grad()
    def update(self, step):
        d = min(self.limit, (1 + step) / (20 + step))
        for k, m in self.modules.items():
            s = self.shadow[k]
            names = [n for n, _ in m.named_parameters()]
            torch._foreach_lerp_([s[n] for n in names], [m.get_parameter(n).detach() for n in names], 1 - d)


def rate_at(progress, step, warm=200):
    """Warm-up, plateau, cosine decay over the last half of the budget to 2 %."""
    decay = 1.0 if progress < 0.5 else 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1, (progress - 0.5) / 0.5)))
    return min(1.0, (step + 1) / warm) * decay


def show(out, stage, x, columns):
    n, px = len(x), x.shape[-1]
    img = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    img = img.reshape(n // columns, columns, px, px, 3).transpose(0, 2, 1, 3, 4).reshape(n // columns * px, columns * px, 3)
    side = max(128, px)
    Image.fromarray(img).resize((side * columns, side * n // columns), 0).save(out / f"{stage}_peek.png")


def restore(ema, weights):
    for k, m in ema.modules.items():
        m.load_state_dict(weights[k])


def peek(out, stage, net, t5, tok, ema, device, task):
    """Contact sheet of the averaged weights on fixed prompts or classes."""
    if RANK or stage in ("text", "classifier"):
        return
    keep = {k: {n: p.clone() for n, p in m.state_dict().items()} for k, m in ema.modules.items()}
    for k, m in ema.modules.items():
        m.load_state_dict(ema.shadow[k])
    if task:
        pictures, columns, words = task.peek()
        for line in words:
            log(out, f"{stage}: {line}")
        if pictures is not None:
            show(out, stage, pictures, columns)
        restore(ema, keep)
        return
    if stage == "clip":
        if device.type == "cpu":
            for name, shares in clip.judge(ema.modules["image"], ema.modules["text"], tok, repeat=1)[1]:
                log(out, f"clip: {name}: " + " ".join(f"{s:.3f}" for s in shares))
        restore(ema, keep)
        return
    if stage == "ddpm":
        guide = adm.load_run(out, "classifier")[0] if (out / "classifier.pt").exists() else None
        show(out, stage, torch.cat([adm.sample(net, guide, [3 * i for i in range(32)], scale, "25")
                                    for scale in ((0, 4) if guide else (0,))]), 8)
        restore(ema, keep)
        return
    c = model.STAGES[stage]
    with torch.no_grad():
        s, e = (model.encode(t5, tok(t).to(device)).float().cpu() for t in (PEEK, [""]))
    low = None
    if c["low"]:                               # true low-res pictures of other scenes with their own captions
        made = [scenes.sample_scene(np.random.default_rng(i)) for i in range(8 if stage == "sr256" else 16)]
        with torch.no_grad():
            s = model.encode(t5, tok([m.caption for m in made]).to(device)).float().cpu()
        low = to_tensor(scenes.render(made, c["low"]))
    if device.type == "cpu":
        x = model.sample(net, s, e, c["px"], 20 if low is None else 6, 3.0 if low is None else 1.0, low)
        show(out, stage, x, 4)
    restore(ema, keep)


def diffusion_loss(stage, net, t5, ids, x, low, acp):
    """The weighted v loss of one batch, its times spread evenly over the schedule."""
    n, kw = len(x), {}
    x = x.contiguous(memory_format=torch.channels_last)
    t = ((torch.arange(n) + torch.rand(n)) / n * model.STEPS).long().clamp(max=model.STEPS - 1).to(x.device)
    noise = torch.randn_like(x)
    xt, v = model.mix(x, noise, acp[t]), model.velocity(x, noise, acp[t])
    if low is not None:
        level = torch.randint(0, LEVELS[stage], (n,)).to(x.device)
        low = low.to(x.device)
        xt = torch.cat([xt, model.mix(low, torch.randn_like(low), acp[level])], 1)
        kw["class_labels"] = level
    with torch.autocast(x.device.type, torch.bfloat16):
        with torch.no_grad():
            states = model.encode(t5, ids)
        pred = net(xt, t, states, **kw).sample
    err = (pred.float() - v).square().mean((1, 2, 3))
    return (err * model.v_weight(acp[t])).mean()


def adm_loss(stage, net, classes, x, acp, progress):
    """The weighted noise loss of one batch, or the classifier's cross-entropy on its noisy pictures.

    White noise has a mean over the picture of 1/32, but that mean, against the signal's, is all that says which
    colour the background has when little else is left. Group norms of two channels all but remove it, and a
    thousandth of the loss does not teach to keep it: after 18,000 pictures nothing of it was predicted. So
    the noise gets an offset of its own at first, gone by the last part of the run, and its mean counts more.
    """
    n = len(x)
    x = x.contiguous(memory_format=torch.channels_last)
    spread = (torch.arange(n) + torch.rand(n)) / n
    # The classifier learns shapes where they can be seen; the diffusion model's hardest steps are the noisiest.
    spread = spread ** 1.5 if stage == "classifier" else 1 - (1 - spread) ** 1.5
    t = (spread * adm.STEPS).long().clamp(max=adm.STEPS - 1).to(x.device)
    noise = torch.randn_like(x)
    if stage == "ddpm":
        noise += 0.1 * min(1.0, max(0.0, (0.85 - progress) / 0.25)) * torch.randn(n, 3, 1, 1, device=x.device)
    with torch.autocast(x.device.type, torch.bfloat16):
        out = net(model.mix(x, noise, acp[t]), t).float()
    if stage == "classifier":
        return torch.nn.functional.cross_entropy(out, classes)
    err = out - noise
    err = err.square().mean((1, 2, 3)) + 2 * err.mean((2, 3)).square().mean(1)
    return (err * adm.eps_weight(acp[t])).mean()


def train_stage(out, stage, minutes, args, device):
    torch.manual_seed(args.seed)
    tok = t5 = task = None
    if stage in unclip.TASKS:
        task = unclip.TASKS[stage](out, args.compile)
    elif stage == "clip":
        tok = clip.Tokenizer(out / "bpe_simple_vocab.txt")
    elif stage not in adm.CONFIG:
        tok = model.Tokenizer(out / "spiece.model")
        t5 = model.text_encoder(tok.vocab).to(device)
    if task:
        net, modules = task.net, task.modules
    elif stage in adm.CONFIG:
        net = adm.network(stage).to(device).to(memory_format=torch.channels_last)
        modules = {stage: net}
    elif stage == "clip":
        modules = {k: m.to(device) for k, m in clip.networks(tok.vocab).items()}
        net = modules["image"]
    elif stage == "text":                        # the text encoder learns to read, then stays as it is
        net, reader = None, model.Reader().to(device)
        modules = {"t5": t5, "reader": reader}
    else:
        t5.load_state_dict(torch.load(out / "text.pt", map_location=device)["ema"]["t5"])
        t5.requires_grad_(False)
        net = model.unet(stage).to(device).to(memory_format=torch.channels_last)
        modules = {"unet": net}
    params = [p for m in modules.values() for p in m.parameters()]
    opt = torch.optim.AdamW(params, lr=RATE[stage], betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema, step, seen, spent = Average(modules), 0, 0, 0.0
    path = out / f"{stage}.pt"
    if path.exists():
        ck = torch.load(path, map_location=device)
        for k, m in modules.items():
            m.load_state_dict(ck["model"][k])
            ema.shadow[k] = ck["ema"][k]
        opt.load_state_dict(ck["opt"])
        step, seen, spent = ck["step"], ck["seen"], ck["spent"]
    if spent >= minutes * 60:
        log(out, f"{stage}: already trained for {spent / 60:.1f} min")
        return
    size = sum(p.numel() for p in params) / 1e6
    log(out, f"{stage}: {size:.2f} M parameters, batch {BATCH[stage]}, from step {step}, "
             f"{spent / 60:.1f} of {minutes:g} min spent")

    def state():
        return {"model": {k: m.state_dict() for k, m in modules.items()}, "ema": ema.shadow, "opt": opt.state_dict(),
                "step": step, "seen": seen, "spent": spent, "stage": stage}
    if args.init_only:
        save_atomic(state(), path)
        return
    torch.manual_seed(args.seed + 1000 * RANK + step)
    make = (task.batch if task else (lambda n, rng, step: clip.make_batch(n, rng, tok, step)) if stage == "clip" else
            (lambda n, rng, step: make_batch(stage, n, rng, tok)))
    feed = Feeder(make, BATCH[stage] // WORLD, args.seed, step, RANK)
    acp = (adm.alpha_bar().float() if stage in (*adm.CONFIG, "clip") else model.alpha_bar()).to(device)
    kind = device.type
    fast = torch.compile(net) if args.compile and net else net
    losses, mark, last_save, last_peek, start = [], time.time(), time.time(), time.time(), step
    halt = []
    for name in (signal.SIGTERM, signal.SIGINT):  # stop cleanly: save, then go
        signal.signal(name, lambda *_: halt.append(1))
    stop = False
    while spent < minutes * 60 and not stop:
        for g in opt.param_groups:
            since = step - clip.READING if stage == "clip" and step >= clip.READING else step
            g["lr"] = float(RATE[stage] * rate_at(spent / (minutes * 60), since))
        batch = feed.next()
        n = 0 if stage == "clip" and step < clip.READING else BATCH[stage] // WORLD
        if task:
            loss = task.loss(fast, batch, spent / (minutes * 60))
        elif stage == "clip":
            loss = clip.loss(fast, modules["text"], modules["heads"], [b.to(device) for b in batch], acp,
                             torch.autocast(kind, torch.bfloat16))
        else:
            ids, x, low, labels, known = batch
        if stage == "text":
            with torch.autocast(kind, torch.bfloat16):
                loss = reader(model.encode(t5, ids.to(device)), labels.to(device), known.to(device))
        elif stage in adm.CONFIG:
            loss = adm_loss(stage, fast, ids.to(device), x.to(device), acp, spent / (minutes * 60))
        elif not task and stage != "clip":
            loss = diffusion_loss(stage, fast, t5, ids.to(device), x.to(device), low, acp)
        loss.backward()
        mean_loss, asked, spent = share(params, [loss.item(), float(len(halt) > 0), spent])
        stop = asked > 0
        for m in modules.values():
            torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + n * WORLD
        ema.update(step)
        losses.append(mean_loss)
        now = time.time()
        if step - start > 2:              # compilation is not training
            spent += now - mark
        mark = now
        if len(losses) == 100:
            log(out, f"{stage} step {step} seen {seen} min {spent / 60:.1f} loss {np.mean(losses):.4f} "
                     f"lr {opt.param_groups[0]['lr']:.2e}")
            losses = []
        if now - last_save > args.save_minutes * 60:
            save_atomic(state(), path)
            last_save = now
        if now - last_peek > args.peek_minutes * 60:
            peek(out, stage, net, t5, tok, ema, device, task)
            last_peek = mark = time.time()
    feed.stop = True
    save_atomic(state(), path)
    if WORLD > 1:
        dist.barrier()                     # the next stage reads what has just been saved
    if stop:
        log(out, f"{stage}: stopped at step {step}")
        sys.exit(1)
    peek(out, stage, net, t5, tok, ema, device, task)
    log(out, f"{stage}: done, {step} steps, {seen} pictures, {spent / 60:.1f} min on {args.hardware}")


def launch(out, world):
    """Starts one process per worker with this command line; an interrupt or SIGTERM is passed on to them."""
    (out / "rendezvous").unlink(missing_ok=True)
    crew = [subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, "SCENES_RANK": str(r),
            "SCENES_WORLD": str(world), "OMP_NUM_THREADS": "1"}) for r in range(world)]
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: [p.send_signal(signal.SIGTERM) for p in crew])
    return max(abs(p.wait()) for p in crew)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default="runs/scenes", type=Path)
    ap.add_argument("--stages", default="text,base,sr256")
    ap.add_argument("--budget-minutes", default="", help="text=5,base=90,sr256=15")
    ap.add_argument("--batch", default="", help="ddpm=16, other batches than the usual")
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--workers", type=int, default=0, help="processes; 0: one per core on the CPU, one on CUDA")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--save-minutes", type=float, default=3)
    ap.add_argument("--peek-minutes", type=float, default=8)
    ap.add_argument("--no-compile", dest="compile", action="store_false")
    ap.add_argument("--init-only", action="store_true", help="write untrained states (to try the export) and stop")
    args = ap.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.device)
    world = args.workers or (os.cpu_count() if device.type == "cpu" else 1)
    stages = args.stages.split(",")
    if WORLD == 1 and "clip" in stages and not (args.out / "bpe_simple_vocab.txt").exists():
        clip.train_tokenizer(args.out / "bpe_simple_vocab.txt", args.seed)
    if WORLD == 1 and not set(stages) <= {*adm.CONFIG, *unclip.TASKS, "clip"} and not (args.out / "spiece.model").exists():
        model.train_tokenizer(args.out / "spiece.model", args.seed)
    if world > 1 and WORLD == 1 and not args.init_only:
        sys.exit(launch(args.out, world))
    if WORLD > 1:
        dist.init_process_group("gloo", init_method=f"file://{args.out.resolve()}/rendezvous", rank=RANK, world_size=WORLD)
    torch.set_num_threads(1 if WORLD > 1 else int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    torch.set_float32_matmul_precision("high")
    args.hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{world} CPU cores ({platform.machine()})"
    minutes = dict(DEFAULT_MINUTES)
    for item in filter(None, args.budget_minutes.split(",")):
        name, value = item.split("=")
        minutes[name] = float(value)
    for item in filter(None, args.batch.split(",")):
        name, value = item.split("=")
        BATCH[name] = int(value)
    log(args.out, f"{' '.join(sys.argv)} on {args.hardware}, torch {torch.__version__}, minutes {json.dumps(minutes)}")
    for stage in stages:
        train_stage(args.out, stage, minutes[stage], args, device)


if __name__ == "__main__":
    main()
