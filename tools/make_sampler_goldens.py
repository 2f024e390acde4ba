"""Writes kernels-tests/goldens/samplers_more: diffusers' schedulers on random outputs of a network, in every setting that
changes their numbers, in the form of the case `samplers` beside it.

    python tools/make_sampler_goldens.py                        # the project's own case
    python tools/make_sampler_goldens.py FOLDER [NUMBER SEED]   # another: so many settings drawn at random

An entry holds the scheduler's JSON, the timesteps of every call of the network, what the network would get, the outputs, the
noises drawn, and every sample. The spreads are those of float32 against the same scheduler with float64 tensors.
"""
import contextlib
import json
import math
import random
import sys
import warnings
from pathlib import Path

import diffusers
import torch
from diffusers.schedulers import scheduling_dpmsolver_multistep, scheduling_euler_ancestral_discrete
from safetensors.torch import save_file

OWN = Path(__file__).resolve().parent.parent / "kernels-tests/goldens/samplers_more"
SHAPE = (2, 3, 3, 2)
LINEAR = dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
SCALED = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
COSINE = dict(beta_schedule="squaredcos_cap_v2")
DPM, UNIPC, DEIS, PNDM, HEUN, EULER, ANCESTRAL = (
    "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "PNDMScheduler",
    "HeunDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")

SETTINGS = [
    (DPM, 6, dict(LINEAR, solver_order=1, timestep_spacing="trailing")),
    (DPM, 20, dict(COSINE, solver_order=3, timestep_spacing="leading", prediction_type="sample")),
    (DPM, 16, dict(SCALED, solver_order=3, lower_order_final=False, prediction_type="v_prediction", steps_offset=1)),
    (DPM, 8, dict(LINEAR, algorithm_type="sde-dpmsolver++", solver_type="heun", euler_at_final=True)),
    (DPM, 17, dict(LINEAR, algorithm_type="sde-dpmsolver++", solver_order=3, final_sigmas_type="sigma_min")),
    (DPM, 8, dict(SCALED, algorithm_type="dpmsolver", final_sigmas_type="sigma_min")),
    (DPM, 9, dict(SCALED, algorithm_type="dpmsolver", solver_type="heun", final_sigmas_type="sigma_min", thresholding=True)),
    (DPM, 16, dict(LINEAR, algorithm_type="dpmsolver", solver_order=3, final_sigmas_type="sigma_min")),
    (DPM, 8, dict(LINEAR, algorithm_type="sde-dpmsolver", final_sigmas_type="sigma_min")),
    (DPM, 7, dict(SCALED, algorithm_type="sde-dpmsolver", solver_type="heun", final_sigmas_type="sigma_min")),
    (DPM, 10, dict(COSINE, use_karras_sigmas=True, prediction_type="v_prediction", lambda_min_clipped=-5.1)),
    (DPM, 10, dict(COSINE, lambda_min_clipped=-5.1, timestep_spacing="leading")),
    (DPM, 10, dict(COSINE, lambda_min_clipped=-4.0, timestep_spacing="trailing", solver_order=3)),
    (DPM, 8, dict(LINEAR, use_lu_lambdas=True)),
    (DPM, 8, dict(LINEAR, use_exponential_sigmas=True, prediction_type="sample")),
    (DPM, 8, dict(LINEAR, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")),
    (DPM, 8, dict(LINEAR, thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0, variance_type="learned")),
    (UNIPC, 8, dict(LINEAR, solver_order=1)),
    (UNIPC, 12, dict(SCALED, solver_order=3, disable_corrector=[0, 3], timestep_spacing="leading", steps_offset=1)),
    (UNIPC, 16, dict(LINEAR, solver_order=3, final_sigmas_type="sigma_min", lower_order_final=False, solver_type="bh1")),
    (UNIPC, 8, dict(LINEAR, predict_x0=False, final_sigmas_type="sigma_min", thresholding=True)),
    (UNIPC, 8, dict(LINEAR, predict_x0=False, final_sigmas_type="sigma_min", solver_type="bh1", solver_order=3)),
    (UNIPC, 8, dict(LINEAR, thresholding=True, sample_max_value=1.5, timestep_spacing="trailing")),
    (UNIPC, 8, dict(LINEAR, use_karras_sigmas=True, prediction_type="v_prediction")),
    (UNIPC, 8, dict(LINEAR, use_exponential_sigmas=True, prediction_type="sample", final_sigmas_type="zero")),
    (UNIPC, 8, dict(LINEAR, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")),
    (DEIS, 8, dict(LINEAR, solver_order=1)),
    (DEIS, 16, dict(SCALED, solver_order=3, timestep_spacing="leading", steps_offset=1)),
    (DEIS, 10, dict(COSINE, solver_order=3, prediction_type="v_prediction", thresholding=True)),
    (DEIS, 15, dict(LINEAR, use_karras_sigmas=True, prediction_type="sample", timestep_spacing="trailing")),
    (DEIS, 9, dict(LINEAR, use_exponential_sigmas=True, prediction_type="sample", lower_order_final=False)),
    (PNDM, 7, dict(LINEAR, prediction_type="v_prediction", set_alpha_to_one=True)),
    (PNDM, 9, dict(LINEAR, timestep_spacing="linspace")),
    (PNDM, 10, dict(SCALED, skip_prk_steps=True, timestep_spacing="trailing", prediction_type="v_prediction")),
    (PNDM, 8, dict(COSINE, skip_prk_steps=True, timestep_spacing="linspace")),
    (PNDM, 2, dict(LINEAR, skip_prk_steps=True)),
    (HEUN, 5, dict(LINEAR, timestep_spacing="leading", steps_offset=1, clip_sample=True)),
    (HEUN, 5, dict(COSINE, prediction_type="v_prediction", timestep_spacing="trailing")),
    (HEUN, 5, dict(beta_schedule="exp", prediction_type="sample")),
    (HEUN, 5, dict(use_karras_sigmas=True, clip_sample=True, clip_sample_range=2.0)),
    (HEUN, 5, dict(use_exponential_sigmas=True)),
    (EULER, 7, dict(LINEAR, timestep_spacing="leading", steps_offset=1, final_sigmas_type="sigma_min")),
    (EULER, 7, dict(LINEAR, use_karras_sigmas=True, sigma_min=0.05, sigma_max=20.0)),
    (EULER, 7, dict(SCALED, use_exponential_sigmas=True, prediction_type="sample")),
    (EULER, 7, dict(LINEAR, interpolation_type="log_linear", timestep_type="continuous")),
    (EULER, 7, dict(LINEAR, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")),
    (ANCESTRAL, 7, dict(LINEAR, prediction_type="v_prediction")),
    (ANCESTRAL, 7, dict(COSINE, timestep_spacing="trailing")),
]


def drawn(pick):
    """Settings at random."""
    kind = pick.choice([DPM, DPM, UNIPC, UNIPC, DEIS, PNDM, HEUN, EULER, ANCESTRAL])
    betas = pick.choice([LINEAR, SCALED, COSINE, dict(LINEAR, beta_end=0.01)])
    config = dict(betas, timestep_spacing=pick.choice(["linspace", "leading", "trailing"]), steps_offset=pick.choice([0, 1]))
    predictions = ["epsilon", "v_prediction"] + ["sample"] * (kind not in (PNDM, ANCESTRAL))
    config["prediction_type"] = pick.choice(predictions)
    config["num_train_timesteps"] = pick.choice([1000, 1000, 100, 400])
    if kind in (DPM, UNIPC, DEIS):
        config["solver_order"] = pick.choice([1, 2, 3])
        config["lower_order_final"] = pick.choice([True, True, False])
        config["thresholding"] = pick.choice([True, False])
        config["sample_max_value"] = pick.choice([1.0, 1.5])
    if kind in (DPM, UNIPC, EULER):
        config["final_sigmas_type"] = pick.choice(["zero", "sigma_min"])
        config["rescale_betas_zero_snr"] = pick.choice([True, False, False])
    if kind == DPM:
        config["algorithm_type"] = pick.choice(["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"])
        config["solver_type"] = pick.choice(["midpoint", "heun"])
        config["euler_at_final"] = pick.choice([True, False])
        config["use_lu_lambdas"] = pick.choice([True, False, False])
        config["lambda_min_clipped"] = pick.choice([-float("inf"), -5.1, -3.0])
    if kind == UNIPC:
        config["solver_type"] = pick.choice(["bh1", "bh2"])
        config["predict_x0"] = pick.choice([True, False])
        config["disable_corrector"] = pick.choice([[], [0], [1, 2]])
    if kind == PNDM:
        config["skip_prk_steps"] = pick.choice([True, False])
        config["set_alpha_to_one"] = pick.choice([True, False])
    if kind == HEUN:
        config["clip_sample"] = pick.choice([True, False])
    if kind in (DPM, UNIPC, DEIS, HEUN, EULER):
        which = pick.choice([None, None, "use_karras_sigmas", "use_exponential_sigmas"])
        if which:
            config[which] = True
    return kind, pick.randint(4, 20), config


class Drawn:
    """Noises in the order drawn, the same ones for both runs."""

    def __init__(self, gen):
        self.gen, self.noises, self.at = gen, [], 0

    def __call__(self, shape, dtype=None, **_):
        if self.at == len(self.noises):
            self.noises.append(torch.randn(SHAPE, generator=self.gen))
        self.at += 1
        return self.noises[self.at - 1].to(dtype)


@contextlib.contextmanager
def noises(source):
    """Schedulers draw from this."""
    modules = [scheduling_dpmsolver_multistep, scheduling_euler_ancestral_discrete]
    before = [module.randn_tensor for module in modules]
    for module in modules:
        module.randn_tensor = source
    source.at = 0
    yield
    for module, draw in zip(modules, before):
        module.randn_tensor = draw


def run(kind, steps, config, z, outputs, source, dtype):
    """Timesteps, inputs and samples."""
    scheduler = getattr(diffusers, kind)(**config)
    scheduler.set_timesteps(steps)
    if dtype == torch.float64:
        for name in ["sigmas", "alphas_cumprod", "final_alpha_cumprod"]:
            if hasattr(scheduler, name):
                setattr(scheduler, name, getattr(scheduler, name).double())
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # otherwise equal timesteps at the start are taken for the second of them
    x = z.to(dtype) * scheduler.init_noise_sigma
    xs, inputs = [x], []
    with noises(source):
        for i, t in enumerate(scheduler.timesteps):
            if i == len(outputs):
                outputs.append(torch.randn(channels(config), generator=source.gen))
            inputs.append(scheduler.scale_model_input(x, t))
            x = scheduler.step(outputs[i].to(dtype), t, x).prev_sample
            xs.append(x)
    return scheduler, torch.stack(inputs), xs


def channels(config):
    learned = config.get("variance_type") in ("learned", "learned_range")
    return (SHAPE[0], SHAPE[1] * (2 if learned else 1), *SHAPE[2:])


def entry(name, kind, steps, config, seed):
    gen = torch.Generator().manual_seed(seed)
    source, outputs, z = Drawn(gen), [], torch.randn(SHAPE, generator=gen)
    scheduler, inputs, found = run(kind, steps, config, z, outputs, source, torch.float32)
    drawn_here = source.at
    _, _, exact = run(kind, steps, config, z, outputs, source, torch.float64)
    tensors = dict(
        timesteps=scheduler.timesteps.double(), model_input=inputs, model_output=torch.stack(outputs), x=torch.stack(found))
    if drawn_here:
        tensors["noise"] = torch.stack(source.noises)
    if hasattr(scheduler, "sigmas"):
        tensors["sigmas"] = scheduler.sigmas.double()
    about = dict(
        name=name, config=json.loads(scheduler.to_json_string()), steps=steps, network_calls=len(outputs),
        noises_drawn=drawn_here, spread=[(a.double() - b).abs().max().item() for a, b in zip(found, exact)],
        magnitude=[a.abs().max().item() for a in found])
    return about, {f"{name}/{key}": value.contiguous() for key, value in tensors.items()}


def main():
    warnings.simplefilter("ignore")
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OWN
    settings = SETTINGS
    if len(sys.argv) > 3:
        pick = random.Random(int(sys.argv[3]))
        settings = [drawn(pick) for _ in range(int(sys.argv[2]))]
    entries, tensors = [], {}
    for i, (kind, steps, config) in enumerate(settings):
        try:
            about, found = entry(f"{i:02}", kind, steps, config, 1000 + i)
            assert settings is SETTINGS or all(map(math.isfinite, about["magnitude"])), "no numbers"
        except Exception as why:  # settings at random that diffusers refuses
            if settings is SETTINGS:
                raise
            print(f"{i:02} {kind} {steps} {config}: {type(why).__name__} {str(why)[:90]}")
            continue
        entries.append(about)
        tensors |= found
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "samplers.safetensors")
    manifest = {
        "case": "samplers_more", "what": "diffusers' samplers on random outputs: timesteps, inputs, every x",
        "produced_by": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "layout": "NCHW float32; time lists float64", "entries": entries,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
