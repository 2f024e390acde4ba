"""Writes safetensors from PyTorch's own files (.bin, .pt, .pth, .ckpt), names and numbers as they are.

    python tools/convert.py ddpm-celebahq-256                   # a model folder: beside its .bin files
    python tools/convert.py IF-I-M-v1.0 IF-I-M-converted        # into a new folder, with the JSON and tokenizer files
    python tools/convert.py model.pt model.safetensors          # one file

Folders are walked: pytorch_model* becomes model*, shards and their index and variants (fp16) keep their spelling.
What no encoder needs (a T5's decoder and lm_head) is left out. Files are read with weights_only=True, so nothing in
them is executed. Needs torch and safetensors; one shard at a time is held in memory.
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".th"}
SKIPPED = PICKLES | {".msgpack", ".h5", ".onnx", ".safetensors"}


def wanted(name):
    return not name.startswith(("decoder.", "lm_head."))


def tensors(path):
    """The file's tensors by name: also of checkpoints that hold them under a key, or by DataParallel's names."""
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    found = {name.removeprefix("module."): t for name, t in loaded.items() if isinstance(t, torch.Tensor)}
    if not found:
        raise SystemExit(f"{path}: holds no tensors by name, so is no state dict")
    # clone: tied tensors share their memory, which safetensors refuses
    return {name: t.detach().clone().contiguous() for name, t in found.items()}


def safe_name(name):
    """pytorch_model.fp16-00001-of-00002.bin -> model.fp16-00001-of-00002.safetensors"""
    stem = Path(name).stem
    if stem.startswith("pytorch_model"):
        stem = stem.removeprefix("pytorch_")
    return stem + ".safetensors"


def convert_file(source, target, encoder=False):
    if target.exists():
        return print(f"{target}: already there, left alone")
    found = {name: t for name, t in tensors(source).items() if not encoder or wanted(name)}
    if not found:
        return print(f"{source}: nothing an encoder needs")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(found, target, metadata={"format": "pt"})
    print(f"{source} -> {target}: {len(found)} tensors, {target.stat().st_size / 1e6:.1f} MB")


def convert_index(source, target):
    """pytorch_model.bin.index[.fp16].json: the shards under their new names, the same tensors left out."""
    index = json.loads(source.read_text())
    index["weight_map"] = {n: safe_name(f) for n, f in index["weight_map"].items() if wanted(n)}
    name = source.name.replace("pytorch_model.", "model.", 1) if source.name.startswith("pytorch_model") else source.name
    target = target.parent / name.replace(".bin.index", ".safetensors.index")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(index, indent=2) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("source", type=Path, help="a folder or a file")
    ap.add_argument("target", type=Path, nargs="?", help="a folder or a file [default: beside the source]")
    args = ap.parse_args()
    if args.source.is_file():
        return convert_file(args.source, args.target or args.source.with_suffix(".safetensors"))
    if not args.source.is_dir():
        raise SystemExit(f"{args.source}: no such file or folder")
    target = args.target or args.source
    for path in sorted(p for p in args.source.rglob("*") if p.is_file()):
        to = target / path.relative_to(args.source)
        if path.name.startswith(("pytorch_model", "diffusion_pytorch_model")) and path.suffix in PICKLES:
            # The original-format network at the root of the IF repositories is not what the folders' code reads.
            if path.parent == args.source and (args.source / "unet").is_dir():
                continue
            convert_file(path, to.with_name(safe_name(path.name)), encoder=path.name.startswith("pytorch_model"))
        elif ".bin.index" in path.name and path.suffix == ".json":
            convert_index(path, to)
        elif to != path and path.suffix not in SKIPPED and ".git" not in path.parts and ".cache" not in path.parts:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


if __name__ == "__main__":
    main()
