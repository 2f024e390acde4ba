"""The works of the yardstick: names, shapes, operations, inputs. Nothing here depends on a framework.

A work's inputs are one safetensors file with PyTorch's names and layouts (pictures [N, C, H, W], filters
[out, in, 3, 3], linear weights [out, in], tokens [N, L, C]). All but the U-Nets keep their shape, so that peers
can be timed on a chain of them.
"""
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HEAD_DIM, GROUPS, EPS = 64, 32, 1e-5
TOKENS = 77


@dataclass(frozen=True)
class Work:
    name: str
    kind: str          # matmul, conv3x3, group_norm_silu, attention, resblock, unet
    title: str
    size: tuple        # by kind, see `inputs`
    flops: float = 0   # direct count, a multiply-add is two; a U-Net's is counted by PyTorch
    bytes: float = 0   # read and written once in f32; given where memory is the limit


def matmul(name, rows, inner, cols):
    return Work(name, "matmul", f"product {rows}×{inner}×{cols}", (rows, inner, cols), 2.0 * rows * inner * cols)


def conv(channels, side):
    flops = 2.0 * 9 * channels * channels * side * side
    return Work(f"conv{channels}_{side}", "conv3x3", f"conv 3×3, {channels}@{side}²", (channels, side), flops)


ALL = [
    matmul("mm1024", 1024, 1024, 1024),
    matmul("mm4096x320", 4096, 320, 320),
    conv(128, 64),
    conv(256, 32),
    conv(512, 16),
    conv(64, 256),
    Work("gnsilu", "group_norm_silu", "group norm + SiLU, 256@64²", (256, 64), bytes=2 * 4.0 * 256 * 64 * 64),
    Work("attn", "attention", "attention 8×64×1024", (8, 1024), 4.0 * 8 * 1024 * 1024 * HEAD_DIM),
    Work("resblock", "resblock", "residual block, 256@32²", (256, 32), 2 * 2.0 * 9 * 256 * 256 * 32 * 32),
    Work("scenes1", "unet", "bundled model, base step, batch 2", ("models/scenes/stage_1/unet", 2)),
    Work("scenes2", "unet", "bundled model, 256² step, batch 1", ("models/scenes/stage_2/unet", 1)),
    Work("if_i_m", "unet", "IF-I-M's layout, step, batch 2", ("tools/peers/if_i_m.json", 2)),
]


def select(text):
    """Works by name, comma separated; `kernels`, `steps`, `all` and `none` name groups."""
    groups = {"all": ALL, "none": [], "kernels": [w for w in ALL if w.kind != "unet"], "steps": [w for w in ALL if w.kind == "unet"]}
    known = {w.name: [w] for w in ALL} | groups
    chosen = []
    for name in text.split(","):
        if name.strip() not in known:
            raise SystemExit(f"work `{name}` is unknown; there are: {', '.join(known)}")
        chosen += [w for w in known[name.strip()] if w not in chosen]
    return chosen


def unet_config(work):
    path = ROOT / work.size[0]
    return json.loads((path / "config.json" if path.is_dir() else path).read_text())


def inputs(work):
    """The inputs of a work, by name, from a fixed seed; scaled so that a chain of the work stays in range."""
    rng = np.random.default_rng(7)

    def normal(*shape, scale=1.0):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    def norm(prefix, channels):
        return {prefix + "weight": 1 + normal(channels, scale=0.1), prefix + "bias": normal(channels, scale=0.1)}

    def filters(prefix, channels):
        fan_in = (9 * channels) ** -0.5
        return {prefix + "weight": normal(channels, channels, 3, 3, scale=fan_in),
                prefix + "bias": normal(channels, scale=0.1)}

    if work.kind == "matmul":
        rows, inner, cols = work.size
        return {"x": normal(rows, inner), "weight": normal(cols, inner, scale=inner**-0.5)}
    if work.kind == "attention":
        heads, length = work.size
        return {name: normal(1, length, heads * HEAD_DIM) for name in "qkv"}
    if work.kind == "unet":
        config, batch = unet_config(work), work.size[1]
        side, text = config["sample_size"], config.get("encoder_hid_dim") or config["cross_attention_dim"]
        tensors = {"x": normal(batch, config["in_channels"], side, side), "t": np.full(batch, 500, np.float32),
                   "context": normal(batch, TOKENS, text)}
        if config.get("class_embed_type") == "timestep":
            tensors["noise_level"] = np.full(batch, 100, np.float32)
        return tensors
    channels, side = work.size
    x = {"x": normal(1, channels, side, side)}
    if work.kind == "conv3x3":
        return x | filters("", channels)
    if work.kind == "group_norm_silu":
        return x | norm("", channels)
    return (x | norm("norm1.", channels) | filters("conv1.", channels)
            | norm("norm2.", channels) | filters("conv2.", channels))


def save_tensors(path, tensors):
    """Writes a safetensors file of f32 tensors."""
    header, at = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(np.ascontiguousarray(value, np.float32).tobytes())


def load_tensors(path):
    """Reads a safetensors file of f32 tensors."""
    data = Path(path).read_bytes()
    size, = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        start, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[8 + size + start:8 + size + end], np.float32).reshape(entry["shape"])
    return tensors
