"""Writes kernels-tests/goldens/upsampler: an upsampler of our layout with random weights, and what diffusers makes of it.

    python tools/make_upsampler_goldens.py

The network is diffusers' UNet2DModel, sampled by its DDIMScheduler beside the enlarged picture. Two runs: of stored
pictures, some of whose values lie outside [-1, 1], and of those that the stored run of the unCLIP case ends with. The
spreads in the manifest are those of float32 against float64.
"""
import json
from pathlib import Path

import diffusers
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

GOLDENS = Path(__file__).resolve().parent.parent / "kernels-tests/goldens"
OUT = GOLDENS / "upsampler"
SCALE, STEPS = 4, 3
CONFIG = dict(
    sample_size=64, in_channels=6, out_channels=3, block_out_channels=(8, 8, 16), layers_per_block=1,
    down_block_types=("ResnetDownsampleBlock2D",) * 3, up_block_types=("ResnetUpsampleBlock2D",) * 3,
    norm_num_groups=4, resnet_time_scale_shift="scale_shift", add_attention=False)
SCHEDULER = dict(
    num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=True,
    timestep_spacing="trailing")


def weights(net, seed):
    """Random weights of which every one matters."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters():
        fan = p[0].numel() if p.dim() > 1 else 1
        p.data = torch.randn(p.shape, generator=gen) * (0.2 if p.dim() == 1 else 1.2 / fan ** 0.5)
        if "norm" in name and name.endswith("weight"):
            p.data += 1


@torch.no_grad()
def run(net, low, noise, dtype):
    """The samples, the network's outputs and the estimates of all steps."""
    net, scheduler = net.to(dtype), DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(STEPS)
    up = F.interpolate(low.to(dtype).clamp(-1, 1), scale_factor=SCALE, mode="bicubic", antialias=True)
    x = noise.to(dtype)
    xs, outs, estimates = [x], [], []
    for t in scheduler.timesteps:
        out = net(torch.cat([x, up], 1), t).sample
        step = scheduler.step(out, t, x)
        x = step.prev_sample
        xs.append(x), outs.append(out), estimates.append(step.pred_original_sample)
    return dict(upscaled=up, x=torch.stack(xs), net_out=torch.stack(outs), pred_x0=torch.stack(estimates),
                timesteps=scheduler.timesteps)


def main():
    net = UNet2DModel(**CONFIG)
    weights(net, 7)
    net.save_pretrained(OUT / "pipeline")
    DDIMScheduler(**SCHEDULER).save_pretrained(OUT / "pipeline/scheduler")
    index = {"_class_name": "ancestral.Upsampler", "num_inference_steps": STEPS, "scale": SCALE}
    (OUT / "pipeline/model_index.json").write_text(json.dumps(index, indent=1) + "\n")
    gen = torch.Generator().manual_seed(11)
    own = 0.8 * torch.randn(2, 3, 6, 8, generator=gen)
    unclip = load_file(GOLDENS / "unclip/run.safetensors")["super_res.x"][-1]
    notes, files = {}, {}
    for name, low, what in [("run", own, "pictures of 8x6, enlarged four times"),
                            ("unclip", unclip[:1], "the first picture of the unCLIP case's run, enlarged four times")]:
        noise = torch.randn(*low.shape[:2], *(SCALE * s for s in low.shape[2:]), generator=gen)
        found, exact = run(net, low, noise, torch.float32), run(net, low, noise, torch.float64)
        net.float()
        spread = lambda a, b: (a.double() - b).abs().max().item()
        spreads = [spread(a, b) for a, b in zip(found["x"], exact["x"])]
        notes[f"{name}: max |fp32 - fp64| per step"] = spreads
        if name == "run":
            notes["forward: max |fp32 - fp64|"] = spread(found["net_out"][0], exact["net_out"][0])
            notes["forward: output std"] = found["net_out"][0].std().item()
        else:
            # That run ends somewhat off, too: by so much at random.
            ends = json.loads((GOLDENS / "unclip/manifest.json").read_text())["tolerance_notes"]
            off = ends["super_res: max |fp32 - fp64| per step"][-1]
            moved = run(net, low + off * torch.randn(low.shape, generator=gen).sign(), noise, torch.float64)
            net.float()
            spreads[1:] = [s + (a - b).abs().max().item() for s, a, b in zip(spreads[1:], moved["x"][1:], exact["x"][1:])]
            # The engine comes to its start and its end; what is between is the other run's.
            found = {"noise": found["x"][0], "last": found["x"][-1]}
        tensors = {k: v.contiguous() for k, v in (found | (dict(low_res=low) if name == "run" else {})).items()}
        save_file(tensors, OUT / f"{name}.safetensors")
        about = {k: {"shape": list(v.shape), "dtype": str(v.dtype).split(".")[1]} for k, v in tensors.items()}
        files[f"{name}.safetensors"] = {"what": what, "tensors": about}

    manifest = {
        "case": "upsampler", "what": "our upsampler: UNet2DModel beside the enlarged picture, DDIM, v-prediction",
        "produced_by": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "layout": "all pictures are NCHW float32; safetensors are row-major",
        "params": sum(p.numel() for p in net.parameters()), "tolerance_notes": notes, "goldens": files,
    }
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
