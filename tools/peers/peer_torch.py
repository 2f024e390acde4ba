"""PyTorch, eager, on the CPU or a CUDA device; also makes the references and the random IF-I-M."""
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from worker import clock, serve
from works import EPS, GROUPS, HEAD_DIM, load_tensors


def unet_class():
    from diffusers import UNet2DConditionModel
    from diffusers.utils import logging
    logging.set_verbosity_error()
    return UNet2DConditionModel


def build(kind, inputs, folder, device, dtype, channels_last):
    """A function without arguments that computes the work."""
    tensors = {name: torch.from_numpy(value.copy()).to(device) for name, value in load_tensors(inputs).items()}
    layout = torch.channels_last if channels_last else torch.contiguous_format
    t = {name: value.to(dtype, memory_format=layout if value.dim() == 4 else torch.contiguous_format)
         for name, value in tensors.items()}
    if kind == "matmul":
        x, w = t["x"], t["weight"].t().contiguous()
        return lambda: x @ w
    if kind == "attention":
        q, k, v = (t[n].unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for n in "qkv")
        return lambda: F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    if kind == "conv3x3":
        return lambda: F.conv2d(t["x"], t["weight"], t["bias"], padding=1)
    if kind == "group_norm_silu":
        return lambda: F.silu(F.group_norm(t["x"], GROUPS, t["weight"], t["bias"], EPS))
    if kind == "resblock":
        def block():
            h = t["x"]
            for i in "12":
                h = F.silu(F.group_norm(h, GROUPS, t[f"norm{i}.weight"], t[f"norm{i}.bias"], EPS))
                h = F.conv2d(h, t[f"conv{i}.weight"], t[f"conv{i}.bias"], padding=1)
            return h + t["x"]
        return block
    if kind == "unet":
        unet = unet_class().from_pretrained(folder, torch_dtype=dtype).to(device).eval()
        unet = unet.to(memory_format=layout)
        level = {"class_labels": tensors["noise_level"]} if "noise_level" in tensors else {}
        return lambda: unet(t["x"], tensors["t"], t["context"], return_dict=False, **level)[0]
    raise ValueError(f"unknown kind {kind}")


class Torch:
    def open(self, device, dtype):
        torch.set_grad_enabled(False)
        self.threads = int(os.environ.get("PEER_THREADS", 0)) or torch.get_num_threads()
        torch.set_num_threads(self.threads)
        self.dtype = {"f32": torch.float32, "f16": torch.float16}[dtype]
        # f32 means f32: no TF32, as everybody else's; f16 gets cuDNN's own search.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        self.works = {}
        if device == "cpu":
            self.device = torch.device("cpu")
            return f"PyTorch {torch.__version__}, CPU, {self.threads} threads"
        wanted = device.lower()
        for i in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(i)
            if wanted in ("gpu", "auto") or wanted in name.lower() or name.lower() in wanted:
                self.device = torch.device("cuda", i)
                return f"PyTorch {torch.__version__}, {name}, CUDA {torch.version.cuda}"
        raise RuntimeError(f"PyTorch sees no CUDA device `{device}`")

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def once(self, work):
        work()
        self.wait()

    def prepare(self, name, kind, inputs, folder):
        # Which of its two picture layouts serves PyTorch better differs by work and machine: the better one counts.
        layouts = [False] if kind in ("matmul", "attention") else [False, True]
        best = None
        for channels_last in layouts:
            work = build(kind, inputs, folder, self.device, self.dtype, channels_last)
            first = clock(lambda: self.once(work))
            tries = [clock(lambda: self.once(work)) for _ in range(1 if first > 2e3 else 5)]
            took = statistics.median(tries)
            if best is None or took < best[0]:
                best = (took, first, work)
        self.works[name] = (kind, best[2])
        return best[1]

    def run(self, name, runs):
        kind, work = self.works[name]
        if self.device.type == "cpu" or kind == "unet":
            return statistics.median(clock(lambda: self.once(work)) for _ in range(runs))
        # Many in flight: launches overlap the device's work, and the wait at the end is shared.
        self.wait()
        started = time.perf_counter()
        for _ in range(runs):
            work()
        self.wait()
        return (time.perf_counter() - started) * 1e3 / runs

    def read(self, name):
        return self.works[name][1]().float().cpu().numpy()

    def drop(self, name):
        self.works.pop(name, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def reference(self, name, kind, inputs, file, folder=None):
        """Writes the result in f64 (U-Nets in f32) and answers the floating-point operations PyTorch counts."""
        from torch.utils.flop_counter import FlopCounterMode
        dtype = torch.float32 if kind == "unet" else torch.float64
        work = build(kind, inputs, folder, torch.device("cpu"), dtype, False)
        with FlopCounterMode(display=False) as counter:
            y = work()
        y.float().contiguous().numpy().tofile(file)
        return counter.get_total_flops()

    def make(self, config, folder):
        """Saves a U-Net of this config with random weights; answers how many."""
        torch.manual_seed(7)
        config = json.loads(Path(config).read_text())
        layout = config.pop("_layout", None)
        unet = unet_class().from_config(config)
        names = {name: list(p.shape) for name, p in unet.state_dict().items()}
        if layout and (len(names), sum(p.numel() for p in unet.parameters())) != tuple(layout):
            raise RuntimeError(f"this diffusers builds another network: {len(names)} tensors, {layout[0]} expected")
        unet.save_pretrained(folder)
        return sum(p.numel() for p in unet.parameters())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    serve(Torch())
