"""Writes the trained cascade as DeepFloyd-IF pipeline folders, in float16, with its defaults.

    python tools/export.py --run runs/scenes --to models/scenes
    python tools/export.py --run runs/adm --to models/adm-scenes --stages ddpm,classifier
    python tools/export.py --run runs/clip --to models/clip-scenes --stages clip
    python tools/export.py --run runs/unclip --to models/unclip-scenes --stages unclip
    python tools/export.py --run runs/unclip --to models/upsampler-scenes --stages upsampler

stage_1 is an IFPipeline (with tokenizer and T5 encoder), stage_2 an IFSuperResolutionPipeline that takes
stage_1's prompt embeddings. The averaged weights are written. The networks predict three
channels (v); IF's pipelines split six, so conv_out gets three rows of zeros, which nothing reads because
variance_type is fixed_small. cascade.json holds the default steps, guidance and noise levels.

The unconditional model and its classifier become diffusion.safetensors and classifier.safetensors in
guided-diffusion's layout; config.json holds the flags of both, the classes' names and the defaults.

The noised CLIP becomes clip_image_enc.safetensors, clip_text_enc.safetensors, clip_config.yaml (with the learned scale of its
logits) and tokenizer/bpe_simple_vocab.txt, named as GLIDE's.

unCLIP becomes a folder in the layout of Karlo's pipeline, less its text encoder (model_index.json names the folder of its
CLIP) and the last super-resolution network, which is the first one; prior_ar/ is the autoregressive prior. What
embeddings are normalised and cut into buckets by stays float32. The upsampler is a folder of its own.
"""
import argparse
import json
import os
import shutil
from pathlib import Path

import torch
import yaml
from diffusers import DDIMScheduler, DDPMScheduler, UnCLIPScheduler
from safetensors.torch import save_file

import adm
import clip
import model
import unclip

DEFAULTS = [
    {"path": "stage_1", "steps": 25, "guidance_scale": 4.0, "sampler": "ddpm", "eta": 1.0},
    {"path": "stage_2", "steps": 8, "guidance_scale": 1.0, "noise_level": 20, "sampler": "ddim", "eta": 0.0},
]
UPSAMPLER = {"path": "../upsampler-scenes", "optional": True}
STAGE_NAMES = ["base", "sr256"]
ADM_FILES = {"ddpm": "diffusion", "classifier": "classifier"}
ADM_DEFAULTS = {"steps": "50", "sampler": "ddpm", "guidance_scale": 10.0}
UNCLIP_DEFAULTS = {
    "prior_num_inference_steps": 25, "prior_guidance_scale": 2.0, "prior_ar_guidance_scale": 2.0,
    "prior_ar_temperature": 0.5, "decoder_num_inference_steps": 25, "decoder_guidance_scale": 4.0,
    "super_res_num_inference_steps": 7}
UPSAMPLER_STEPS = 4
CLIP_RANGE = 5.0              # normalised embeddings of scenes lie within 4.3


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


def averaged(run, stage, part):
    """The averaged weights of a stage's network."""
    ck = torch.load(run / f"{stage}.pt", map_location="cpu")
    print(f"{stage}: step {ck['step']}, {ck['seen']} pictures, {ck['spent'] / 60:.1f} min")
    return ck["ema"][part]


def write_part(folder, weights, net=None, config=None, wide=()):
    """config.json and the weights in float16, but for those named in `wide`."""
    folder.mkdir(parents=True)
    if net is not None:
        net.load_state_dict(weights)
        net.save_config(folder)
    else:
        write_json(folder / "config.json", config)
    save_file({k: (v.float() if k in wide else v.half()).contiguous() for k, v in weights.items()},
              folder / "diffusion_pytorch_model.safetensors")


def plain_ddim(folder):
    """v-prediction without noise of its own. x0 is not clipped: diffusers' DDIM leaves the noise estimate as it was before
    the clip, and under guidance that alone turns the decoder's pictures to rubbish."""
    DDIMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=model.STEPS, prediction_type="v_prediction",
                  clip_sample=False, timestep_spacing="trailing").save_pretrained(folder)


def write_unclip(run, folder):
    both = torch.load(run / "decoder.pt", map_location="cpu")["ema"]
    write_part(folder / "decoder", averaged(run, "decoder", "decoder"), unclip.decoder())
    write_part(folder / "text_proj", both["text_proj"], unclip.text_proj())
    write_part(folder / "prior", averaged(run, "prior", "prior"), unclip.prior(), wide=("clip_mean", "clip_std"))
    ar = unclip.Autoregressive(run, False)
    ar.net.load_state_dict(averaged(run, "ar_prior", "prior_ar"))
    config = {"_class_name": "AutoregressivePrior", **ar.net.config, "dot_default": ar.default}
    write_part(folder / "prior_ar", ar.net.state_dict(), config=config, wide=dict(ar.net.named_buffers()))
    write_part(folder / "super_res_first", averaged(run, "super_res", "super_res"), unclip.enlarger("super_res"))
    UnCLIPScheduler(prediction_type="sample", clip_sample=True, clip_sample_range=CLIP_RANGE,
                    variance_type="fixed_small_log").save_pretrained(folder / "prior_scheduler")
    plain_ddim(folder / "decoder_scheduler")
    plain_ddim(folder / "super_res_scheduler")
    write_json(folder / "model_index.json", {
        "_class_name": "UnCLIPPipeline", "_diffusers_version": "0.35.2", "clip": "../clip-scenes",
        "upsampler": "../upsampler-scenes",
        "prior": ["diffusers", "PriorTransformer"], "prior_scheduler": ["diffusers", "UnCLIPScheduler"],
        "prior_ar": ["ancestral", "AutoregressivePrior"], "text_proj": ["unclip", "UnCLIPTextProjModel"],
        "decoder": ["diffusers", "UNet2DConditionModel"], "decoder_scheduler": ["diffusers", "DDIMScheduler"],
        "super_res_first": ["diffusers", "UNet2DModel"], "super_res_scheduler": ["diffusers", "DDIMScheduler"],
        **UNCLIP_DEFAULTS})


def write_upsampler(run, folder):
    folder.rmdir()
    write_part(folder, averaged(run, "upsampler", "upsampler"), unclip.enlarger("upsampler"))
    plain_ddim(folder / "scheduler")
    write_json(folder / "model_index.json", {"_class_name": "ancestral.Upsampler", "num_inference_steps": UPSAMPLER_STEPS})


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
    write_json(folder / "cascade.json", {"stages": DEFAULTS[:len(stages)] + [UPSAMPLER][:len(stages) == len(DEFAULTS)]})


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
    elif stages == ["unclip"]:
        write_unclip(args.run, tmp)
    elif stages == ["upsampler"]:
        write_upsampler(args.run, tmp)
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
