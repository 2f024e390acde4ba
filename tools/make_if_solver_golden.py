"""Writes kernels-tests/goldens/if_dpmsolver: IF's first stage with DPM-Solver++ in 20 steps.

    python tools/make_if_solver_golden.py

diffusers' IFPipeline with the network, the states of the prompts and the first noise of the case if_stage1, its scheduler
replaced by DPMSolverMultistepScheduler.from_config of the folder's own. The spreads are those of float32 against float64.
"""
import json
from pathlib import Path

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, IFPipeline, UNet2DConditionModel
from diffusers.pipelines.deepfloyd_if.pipeline_if import IFPipeline as Pipeline
from safetensors.torch import load_file, save_file

GOLDENS = Path(__file__).resolve().parent.parent / "kernels-tests/goldens"
OUT, BASE = GOLDENS / "if_dpmsolver", GOLDENS / "if_stage1"
STEPS = 20


def run(dtype, scheduler, given, scale):
    """The timesteps, every sample, and the guided output of every call."""
    unet = UNet2DConditionModel.from_pretrained(BASE / "pipeline/unet").to(dtype)
    pipe = IFPipeline(tokenizer=None, text_encoder=None, unet=unet, scheduler=scheduler, safety_checker=None,
                      feature_extractor=None, watermarker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    first = given["x"][0].to(dtype)
    samples, outputs = [first], []
    step = scheduler.step

    def watched(output, *args, **kwargs):
        outputs.append(output)
        return step(output, *args, **kwargs)

    scheduler.step = watched
    Pipeline.prepare_intermediate_images = lambda *_: first
    size = first.shape[-1]
    pipe(prompt_embeds=given["prompt_embeds"].to(dtype), negative_prompt_embeds=given["negative_prompt_embeds"].to(dtype),
         num_inference_steps=STEPS, guidance_scale=scale, height=size, width=size, output_type="pt",
         callback=lambda i, t, x: samples.append(x))
    return scheduler.timesteps, torch.stack(samples), torch.stack(outputs)


def main():
    base = json.loads((BASE / "manifest.json").read_text())
    given = load_file(BASE / "run.safetensors")
    own = json.loads((BASE / "pipeline/scheduler/scheduler_config.json").read_text())
    made = lambda: DPMSolverMultistepScheduler.from_config(own)
    scale = base["run"]["guidance_scale"]
    times, x, outputs = run(torch.float32, made(), given, scale)
    _, exact, _ = run(torch.float64, made(), given, scale)
    tensors = dict(timesteps=times, x=x, model_output=outputs,
                   prompt_embeds=given["prompt_embeds"], negative_prompt_embeds=given["negative_prompt_embeds"])
    spreads = [(a.double() - b).abs().max().item() for a, b in zip(x, exact)]
    OUT.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / "run.safetensors")
    about = {k: {"shape": list(v.shape), "dtype": str(v.dtype).split(".")[1]} for k, v in tensors.items()}
    what = f"IFPipeline.__call__, DPMSolverMultistepScheduler, {STEPS} steps, from if_stage1's first noise and states"
    manifest = {
        "case": "if_dpmsolver", "what": "IF's first stage with DPM-Solver++", "pipeline": "../if_stage1/pipeline",
        "produced_by": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "layout": "all pictures are NCHW float32; safetensors are row-major",
        "tolerance_notes": {
            "forward: max |fp32 - fp64|": base["tolerance_notes"]["forward: max |fp32 - fp64|"],
            "run: max |fp32 - fp64| per step": spreads},
        "run": {**base["run"], "steps": STEPS, "scheduler": json.loads(made().to_json_string())},
        "goldens": {"run.safetensors": {"what": what, "tensors": about}},
    }
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(spreads)


if __name__ == "__main__":
    main()
