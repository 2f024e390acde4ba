"""A thousand steps of AdamW on the tiny DDPM of the goldens, by PyTorch: kernels-tests/goldens/train_run/losses.json.

    python tools/make_train_run.py

Batches follow from seeds alone, so that they need not be stored: torch.Generator("cpu") is what our noise streams are, bit
for bit. Eight pictures: picture i is tanh of the 4 x 4 upscaled normals of seed i. Step s draws from seed 1000 + s: two
timesteps (24 low bits over 2^24, times T), then the noise. The pictures of step s are 2 s and 2 s + 1, modulo 8.
"""
import json
from pathlib import Path

import torch
from diffusers import UNet2DModel

ROOT = Path(__file__).resolve().parent.parent / "kernels-tests/goldens"
STEPS, BATCH, RATE = 1000, 2, 1e-3


def main():
    torch.set_num_threads(1)
    net = UNet2DModel.from_pretrained(ROOT / "ddpm/pipeline/unet").train(False)
    scheduler = json.loads((ROOT / "ddpm/pipeline/scheduler/scheduler_config.json").read_text())
    assert scheduler["beta_schedule"] == "linear", scheduler
    betas = torch.linspace(scheduler["beta_start"], scheduler["beta_end"], scheduler["num_train_timesteps"])
    acp = torch.cumprod(1 - betas, 0)
    side = net.config.sample_size
    seeded = lambda seed: torch.Generator("cpu").manual_seed(seed)
    small = [torch.randn(3, side // 4, side // 4, generator=seeded(i)) for i in range(8)]
    pictures = torch.stack([torch.tanh(p.repeat_interleave(4, 1).repeat_interleave(4, 2)) for p in small])
    opt = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses = []
    for step in range(STEPS):
        g = seeded(1000 + step)
        t = (torch.rand(BATCH, generator=g) * len(acp)).long().clamp(max=len(acp) - 1)
        noise = torch.randn(BATCH, 3, side, side, generator=g)
        x0 = pictures[[(BATCH * step + i) % 8 for i in range(BATCH)]]
        a = acp[t].view(-1, 1, 1, 1)
        loss = (net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t).sample - noise).square().mean()
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        losses.append(float(f"{loss.item():.6g}"))
    out = ROOT / "train_run"
    out.mkdir(exist_ok=True)
    manifest = {"case": "train_run", "what": "losses of a thousand steps of AdamW on batches made from seeds",
                "produced_by": {"torch": torch.__version__}, "checkpoint": "ddpm/pipeline", "rate": RATE,
                "batch": BATCH, "losses": losses}
    (out / "losses.json").write_text(json.dumps(manifest) + "\n")
    print(sum(losses[:100]) / 100, sum(losses[-100:]) / 100)


if __name__ == "__main__":
    main()
