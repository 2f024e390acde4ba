"""Writes the trained cascade as DeepFloyd-IF pipeline folders, in float16, with its defaults.

    python tools/export.py --run runs/scenes --to models/scenes
    python tools/export.py --run runs/adm --to models/adm-scenes --stages ddpm,classifier
    python tools/export.py --run runs/clip --to models/clip-scenes --stages clip

stage_1 is an IFPipeline (with tokenizer and T5 encoder), stage_2 an IFSuperResolutionPipeline that takes
stage_1's prompt embeddings. The averaged weights are written. The networks predict three
channels (v); IF's pipelines split six, so conv_out gets three rows of zeros, which nothing reads because
variance_type is fixed_small. cascade.json holds the default steps, guidance and noise levels.

The unconditional model and its classifier become diffusion.safetensors and classifier.safetensors in
guided-diffusion's layout; config.json holds the flags of both, the classes' names and the defaults.

The noised CLIP becomes clip_image_enc.safetensors, clip_text_enc.safetensors, clip_config.yaml (with the learned scale of its
logits) and tokenizer/bpe_simple_vocab.txt, named as GLIDE's.
"""
import argparse
import json
import os
import shutil
from pathlib import Path

import torch
import yaml
from diffusers import DDPMScheduler
from safetensors.torch import save_file

import adm
import clip
import model

DEFAULTS = [
    {"path": "stage_1", "steps": 25, "guidance_scale": 4.0, "sampler": "ddpm", "eta": 1.0},
    {"path": "stage_2", "steps": 8, "guidance_scale": 1.0, "noise_level": 20, "sampler": "ddim", "eta": 0.0},
]
STAGE_NAMES = ["base", "sr256"]
ADM_FILES = {"ddpm": "diffusion", "classifier": "classifier"}
ADM_DEFAULTS = {"steps": "50", "sampler": "ddpm", "guidance_scale": 10.0}


def write_json(path, obj):
    path.write_text(json.dumps(obj, indent=2) + "\n")


def schedulers(folder, upscaler):
    """v-prediction, fixed small variance, x0 clipped to [-1, 1] (dynamic thresholding at a maximum of one)."""
    common = dict(beta_schedule="squaredcos_cap_v2", num_train_timesteps=model.STEPS)
    DDPMScheduler(prediction_type="v_prediction", variance_type="fixed_small", thresholding=True, sample_max_value=1.0,
                  dynamic_thresholding_ratio=0.95, timestep_spacing="trailing", **common).save_pretrained(folder / "scheduler")
    if upscaler:
        DDPMScheduler(**common).save_pretrained(folder / "image_noising_scheduler")


def write_unet(folder, stage, weights):
    folder.mkdir(parents=True, exist_ok=True)
    net = model.unet(stage, out_channels=6)
    weights = dict(weights)
    for name in ("conv_out.weight", "conv_out.bias"):
        w = weights[name]
        weights[name] = torch.cat([w, torch.zeros_like(w)])
    net.load_state_dict(weights)
    net.half().save_pretrained(folder)


def write_tokenizer(folder, spiece):
    """The files of a slow T5Tokenizer without sentinel tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(spiece, folder / "spiece.model")
    token = lambda s: {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", {k: token(v) for k, v in names.items()})
    write_json(folder / "tokenizer_config.json", {
        "added_tokens_decoder": {str(i): dict(token(s), special=True) for i, s in enumerate(names.values())},
        "additional_special_tokens": [], "clean_up_tokenization_spaces": True, "extra_ids": 0, "legacy": True,
        "model_max_length": model.TOKENS, "sp_model_kwargs": {}, "tokenizer_class": "T5Tokenizer", **names})


def write_text_encoder(folder, weights, vocab):
    t5 = model.text_encoder(vocab)
    t5.load_state_dict(weights)
    t5.half().save_pretrained(folder)


def write_index(folder, upscaler, text):
    none = [None, None]
    index = {"_class_name": "IFSuperResolutionPipeline" if upscaler else "IFPipeline", "_diffusers_version": "0.35.2",
             "feature_extractor": none}
    if upscaler:
        index["image_noising_scheduler"] = ["diffusers", "DDPMScheduler"]
    index.update({
        "requires_safety_checker": False, "safety_checker": none, "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"] if text else none,
        "tokenizer": ["transformers", "T5Tokenizer"] if text else none,
        "unet": ["diffusers", "UNet2DConditionModel"], "watermarker": none})
    write_json(folder / "model_index.json", index)


def write_adm(run, folder):
    for stage, name in ADM_FILES.items():
        ck = torch.load(run / f"{stage}.pt", map_location="cpu")
        adm.network(stage).load_state_dict(ck["ema"][stage])
        save_file({k: v.half().contiguous() for k, v in ck["ema"][stage].items()}, folder / f"{name}.safetensors")
        print(f"{stage}: step {ck['step']}, {ck['seen']} pictures, {ck['spent'] / 60:.1f} min")
    write_json(folder / "config.json", {**{name: adm.CONFIG[stage] for stage, name in ADM_FILES.items()},
                                        "classes": adm.CLASSES, "defaults": ADM_DEFAULTS})


def write_clip(run, folder):
    nets, tok, ck = clip.load_run(run)
    for kind in ("image", "text"):
        weights = {k: v.half().contiguous() for k, v in nets[kind].state_dict().items()}
        save_file(weights, folder / f"clip_{kind}_enc.safetensors")
    scale = round(float(nets["heads"].log_scale.exp().clamp(max=100)), 4)
    config = {"logit_scale": scale, **clip.CONFIG, "n_vocab": tok.vocab}
    (folder / "clip_config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "tokenizer").mkdir()
    shutil.copyfile(run / "bpe_simple_vocab.txt", folder / "tokenizer/bpe_simple_vocab.txt")
    print(f"clip: step {ck['step']}, {ck['seen']} pictures, {ck['spent'] / 60:.1f} min, logit scale {scale}")


def write_cascade(run, folder, stages):
    tok = model.Tokenizer(run / "spiece.model")
    for stage in stages:
        sub = folder / f"stage_{STAGE_NAMES.index(stage) + 1}"
        sub.mkdir(parents=True)
        ck = torch.load(run / f"{stage}.pt", map_location="cpu")
        upscaler = stage != "base"
        write_unet(sub / "unet", stage, ck["ema"]["unet"])
        schedulers(sub, upscaler)
        if not upscaler:
            write_tokenizer(sub / "tokenizer", run / "spiece.model")
            write_text_encoder(sub / "text_encoder", torch.load(run / "text.pt", map_location="cpu")["ema"]["t5"], tok.vocab)
        write_index(sub, upscaler, not upscaler)
        print(f"{stage}: step {ck['step']}, {ck['seen']} pictures, {ck['spent'] / 60:.1f} min")
    write_json(folder / "cascade.json", {"stages": DEFAULTS[:len(stages)]})


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--run", default="runs/scenes", type=Path)
    ap.add_argument("--to", default="models/scenes", type=Path)
    ap.add_argument("--stages", default="base,sr256")
    args = ap.parse_args()
    tmp = args.to.with_name(args.to.name + ".new")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    stages = args.stages.split(",")
    if set(stages) == set(ADM_FILES):
        write_adm(args.run, tmp)
    elif stages == ["clip"]:
        write_clip(args.run, tmp)
    else:
        write_cascade(args.run, tmp, stages)
    if args.to.exists():
        for keep in ("README.md",):
            if (args.to / keep).exists():
                shutil.copyfile(args.to / keep, tmp / keep)
        shutil.rmtree(args.to)
    os.replace(tmp, args.to)
    size = sum(p.stat().st_size for p in args.to.rglob("*") if p.is_file())
    print(f"{args.to}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
