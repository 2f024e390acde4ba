"""Writes kernels-tests/goldens/if_lora: IF's first stage with a LoRA of peft on its U-Net and its text encoder.

    python tools/make_lora_golden.py

The network, the prompts, the first noise and the steps' noises of the case if_stage1. The adapters have random factors, and
ranks and alphas that differ from layer to layer; they change matrices and convolutions. diffusers writes the file, reads the
U-Net's part of it again (of T5 it knows no layer's name: that part is read by peft) and draws with it, unmerged; the spreads
are those of float32 against float64.
"""
import json
from pathlib import Path

import diffusers
import peft
import torch
import transformers.integrations.peft
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from diffusers.pipelines.deepfloyd_if.pipeline_if import IFPipeline as Pipeline
from diffusers.schedulers import scheduling_ddpm
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

GOLDENS = Path(__file__).resolve().parent.parent / "kernels-tests/goldens"
OUT, BASE = GOLDENS / "if_lora", GOLDENS / "if_stage1"
FILE = OUT / "lora.safetensors"
LAYERS = r".*(to_q|to_k|to_v|to_out\.0|add_k_proj|add_v_proj|time_emb_proj|conv1|conv_shortcut|linear_2)"
ALPHAS = {"conv1": 1, "add_k_proj": 9}
UNET = LoraConfig(r=3, lora_alpha=5, target_modules=LAYERS, rank_pattern={"conv1": 2}, alpha_pattern=ALPHAS)
TEXT = LoraConfig(r=2, lora_alpha=6, target_modules=["q", "v", "wo"])

# transformers asks for a release of peft that is not out.
transformers.integrations.peft.check_peft_version = lambda **_: None


def pipeline():
    unet = UNet2DConditionModel.from_pretrained(BASE / "pipeline/unet")
    text = T5EncoderModel.from_pretrained(BASE / "pipeline/text_encoder", dtype=torch.float32)
    scheduler = DDPMScheduler.from_pretrained(BASE / "pipeline/scheduler")
    pipe = IFPipeline(tokenizer=None, text_encoder=text, unet=unet, scheduler=scheduler, safety_checker=None,
                      feature_extractor=None, watermarker=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make():
    pipe, g = pipeline(), torch.Generator().manual_seed(16)
    for net, config in ((pipe.unet, UNET), (pipe.text_encoder, TEXT)):
        net.add_adapter(config)
        net.peft_config["default"].base_model_name_or_path = None
        for name, p in net.named_parameters():
            if "lora_" in name:
                p.data = torch.randn(p.shape, generator=g) * 0.12
    nets = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(net) for name, net in nets.items()}
    about = {f"{name}_lora_adapter_metadata": net.peft_config["default"].to_dict() for name, net in nets.items()}
    IFPipeline.save_lora_weights(OUT, **layers, **about, weight_name=FILE.name)


def states(pipe, prompts, dtype):
    """The text encoder's states of prompts, whose ids are those of the case tokens."""
    ids, mask = token_ids(prompts)
    return pipe.text_encoder.to(dtype)(ids, attention_mask=mask)[0]


def token_ids(prompts):
    import sentencepiece
    sp = sentencepiece.SentencePieceProcessor(model_file=str(BASE / "pipeline/tokenizer/spiece.model"))
    ids, mask = torch.zeros(len(prompts), 77, dtype=torch.long), torch.zeros(len(prompts), 77)
    for i, prompt in enumerate(prompts):
        row = sp.encode(prompt.lower().strip())[:76] + [1]
        ids[i, :len(row)], mask[i, :len(row)] = torch.tensor(row), 1
    return ids, mask


def run(dtype, lora, given, base):
    """The states of the prompts, the timesteps, every sample, the guided output and the estimate of every call."""
    pipe = pipeline()
    if lora:
        layers, _, about = pipe.lora_state_dict(OUT, weight_name=FILE.name, return_lora_metadata=True)
        part = lambda name: {k: v for k, v in layers.items() if k.startswith(f"{name}.")}
        pipe.load_lora_into_unet(part("unet"), None, pipe.unet, metadata=about)
        pipe.text_encoder.add_adapter(TEXT)
        text = {k.removeprefix("text_encoder."): v for k, v in part("text_encoder").items()}
        assert not set_peft_model_state_dict(pipe.text_encoder, text, adapter_name="default").unexpected_keys
    pipe.unet.to(dtype)
    with torch.no_grad():
        text = [states(pipe, base["run"][key], dtype) for key in ("prompts", "negative_prompts")]
    first = given["x"][0].to(dtype)
    samples, outputs, estimates, noises = [first], [], [], list(given["noise"].to(dtype))
    step = pipe.scheduler.step

    def watched(output, *args, **kwargs):
        outputs.append(output)
        made = step(output, *args, **kwargs)
        estimates.append(made[1])
        return made

    pipe.scheduler.step = watched
    Pipeline.prepare_intermediate_images = lambda *_: first
    scheduling_ddpm.randn_tensor = lambda *_, **__: noises.pop(0)
    size = first.shape[-1]
    pipe(prompt_embeds=text[0], negative_prompt_embeds=text[1], num_inference_steps=base["run"]["steps"],
         guidance_scale=base["run"]["guidance_scale"], height=size, width=size, output_type="pt",
         callback=lambda i, t, x: samples.append(x))
    return text, pipe.scheduler.timesteps, *map(torch.stack, (samples, outputs, estimates))


def main():
    base = json.loads((BASE / "manifest.json").read_text())
    given = load_file(BASE / "run.safetensors")
    OUT.mkdir(exist_ok=True)
    make()
    text, _, x, *_ = run(torch.float32, False, given, base)
    # Without the LoRA it is the case that was recorded.
    assert (text[0] - given["prompt_embeds"]).abs().max() < 1e-4 and (x - given["x"]).abs().max() < 1e-2
    text, times, x, outputs, estimates = run(torch.float32, True, given, base)
    exact = run(torch.float64, True, given, base)
    tensors = dict(timesteps=times, x=x, model_output=outputs, pred_x0=estimates, noise=given["noise"], prompt_embeds=text[0],
                   negative_prompt_embeds=text[1])
    save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / "run.safetensors")
    far = lambda a, b: (a.double() - b).abs().max().item()
    changes = {"states": far(text[0], given["prompt_embeds"]), "pictures": far(x[-1], given["x"][-1])}
    manifest = {
        "case": "if_lora", "what": "IF's first stage with a LoRA on U-Net and text encoder", "pipeline": "../if_stage1/pipeline",
        "produced_by": {"torch": torch.__version__, "diffusers": diffusers.__version__, "peft": peft.__version__},
        "layout": "all pictures are NCHW float32; safetensors are row-major",
        "tolerance_notes": {
            "forward: max |fp32 - fp64|": max(base["tolerance_notes"]["forward: max |fp32 - fp64|"],
                                              far(outputs[0], exact[3][0]) / (2 * base["run"]["guidance_scale"] - 1)),
            "T5: max |fp32 - fp64|": far(text[0], exact[0][0]),
            "run: max |fp32 - fp64| per step": [far(a, b) for a, b in zip(x, exact[2])],
            "what the LoRA changes: max": changes},
        "run": {**base["run"], "lora": FILE.name},
        "goldens": {"run.safetensors": {
            "what": "IFPipeline.__call__ after load_lora_weights, from if_stage1's first noise and with its steps' noises",
            "tensors": {k: {"shape": list(v.shape), "dtype": str(v.dtype).split(".")[1]} for k, v in tensors.items()}}},
    }
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(json.dumps(manifest["tolerance_notes"], indent=1))


if __name__ == "__main__":
    main()
