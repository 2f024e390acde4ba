"""Samples the exported folder with diffusers' own IF pipelines (which proves its layout).

    python tools/sample.py --model models/scenes --kind single --count 200 --out runs/eval/single
    python tools/sample.py --model models/scenes --prompt "a red circle" --out runs/one

Writes 00000.png ... and prompts.jsonl ({"file", "prompt"} per line), which check_scenes.py scores.
Kinds: single, pair (seen combinations) and held (held-out ones, half single half pair).
"""
import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import scenes

warnings.filterwarnings("ignore")


def prompts_of(kind, count, seed=12345):
    """Evaluation prompts, plainly worded, from a seed that training never uses."""
    rng = np.random.default_rng([seed, {"single": 1, "pair": 2, "held": 3, "count": 4}[kind]])
    made = []
    for i in range(count):
        k = {"held": "pair" if i % 2 else "single"}.get(kind, kind)
        made.append(scenes.sample_scene(rng, k, held_out=kind == "held", plain=True).caption)
    return made


def load(folder):
    """The cascade's pipelines and their defaults."""
    from diffusers import DDIMScheduler, IFPipeline, IFSuperResolutionPipeline
    from diffusers.utils import logging
    logging.set_verbosity_error()
    plan = [s for s in json.loads((folder / "cascade.json").read_text())["stages"] if not s.get("optional")]
    pipes = []
    for i, s in enumerate(plan):
        cls = IFSuperResolutionPipeline if i else IFPipeline
        extra = dict(text_encoder=None, tokenizer=None) if i else {}
        pipe = cls.from_pretrained(folder / s["path"], safety_checker=None, watermarker=None, feature_extractor=None,
                                   requires_safety_checker=False, torch_dtype=torch.float32, **extra)
        if s["sampler"] == "ddim":
            pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        pipe.unet = pipe.unet.to(memory_format=torch.channels_last)
        pipes.append(pipe)
    return plan, pipes


def override(plan, items):
    """Applies settings worded as STAGE.NAME=VALUE."""
    for item in items:
        key, value = item.split("=")
        stage, name = key.split(".")
        plan[int(stage) - 1][name] = json.loads(value) if value[0] in "0123456789." else value


@torch.inference_mode()
def generate(plan, pipes, prompts, seed):
    """256-px pictures (uint8) for a list of prompts, and every stage's output."""
    states, empty = pipes[0].encode_prompt(prompts, do_classifier_free_guidance=True)
    gen = torch.Generator().manual_seed(seed)
    image, seen = None, []
    for s, pipe in zip(plan, pipes):
        kw = dict(prompt_embeds=states, negative_prompt_embeds=empty, num_inference_steps=s["steps"],
                  guidance_scale=s["guidance_scale"], generator=gen, output_type="pt")
        if s["sampler"] == "ddim":
            kw["eta"] = s["eta"]
        if image is not None:
            kw.update(image=image, noise_level=s["noise_level"])
        with torch.autocast("cpu", torch.bfloat16, enabled=generate.bf16):
            image = pipe(**kw).images.float().clamp(-1, 1)
        seen.append(image)
    return [((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy() for x in seen]


generate.bf16 = False


def main():
    from PIL import Image
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default="models/scenes", type=Path)
    ap.add_argument("--kind", default="single", choices=["single", "pair", "held", "count"])
    ap.add_argument("--prompt", action="append")
    ap.add_argument("--count", type=int, default=200)
    ap.add_argument("--batch", type=int, default=25)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--stages", type=int, default=2, help="stop after this many stages")
    ap.add_argument("--set", action="append", default=[], help="override a default, as 1.guidance_scale=5")
    ap.add_argument("--bf16", action="store_true", help="bfloat16 autocast: faster on CPUs that have it")
    ap.add_argument("--threads", type=int, default=0)
    ap.add_argument("--out", required=True, type=Path)
    args = ap.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    generate.bf16 = args.bf16
    args.out.mkdir(parents=True, exist_ok=True)
    plan, pipes = load(args.model)
    override(plan, args.set)
    plan, pipes = plan[:args.stages], pipes[:args.stages]
    prompts = args.prompt or prompts_of(args.kind, args.count)
    t0 = time.time()
    with open(args.out / "prompts.jsonl", "w") as f:
        for at in range(0, len(prompts), args.batch):
            part = prompts[at:at + args.batch]
            for j, px in enumerate(generate(plan, pipes, part, args.seed + at)[-1]):
                name = f"{at + j:05d}.png"
                Image.fromarray(px).resize((256, 256), Image.BICUBIC).save(args.out / name)
                f.write(json.dumps({"file": name, "prompt": part[j]}) + "\n")
    print(f"{len(prompts)} pictures in {time.time() - t0:.0f} s: {args.out}")


if __name__ == "__main__":
    main()
