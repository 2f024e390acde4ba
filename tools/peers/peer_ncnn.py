"""ncnn through Vulkan or on the CPU: nets written as its own text and binary formats, Winograd left on."""
import os
import struct
import tempfile
from pathlib import Path

import ncnn
import numpy as np

from worker import CHAIN, clock, serve, slope
from works import EPS, GROUPS, HEAD_DIM, load_tensors


class Model:
    """A net under construction: one line a layer, and the weights in the layers' order."""

    def __init__(self, tensors):
        self.tensors, self.lines, self.data, self.blobs = tensors, [], b"", 0

    def layer(self, kind, inputs, outputs=1, *, name=None, **parameters):
        names = [name or f"b{self.blobs + i}" for i in range(outputs)]
        self.blobs += outputs
        text = " ".join(f"{k[1:]}={v}" for k, v in parameters.items())
        self.lines.append(f"{kind} l{len(self.lines)} {len(inputs)} {outputs} {' '.join([*inputs, *names])} {text}")
        return names[0] if outputs == 1 else names

    def raw(self, value):
        self.data += np.ascontiguousarray(value, np.float32).tobytes()

    def tagged(self, value):
        self.data += struct.pack("<I", 0)  # what follows is f32
        self.raw(value)

    def conv(self, x, prefix):
        w = self.tensors[prefix + "weight"]
        y = self.layer("Convolution", [x], _0=len(w), _1=3, _4=1, _5=1, _6=w.size)
        self.tagged(w)
        self.raw(self.tensors[prefix + "bias"])
        return y

    def norm_silu(self, x, prefix):
        y = self.layer("GroupNorm", [x], _0=GROUPS, _1=len(self.tensors[prefix + "weight"]), _2=EPS, _3=1)
        self.raw(self.tensors[prefix + "weight"])
        self.raw(self.tensors[prefix + "bias"])
        return self.layer("Swish", [y])

    def link(self, kind, x, variant):
        if kind == "matmul":
            w = self.tensors["weight"]
            cols, inner = w.shape
            if variant == "gemm":
                y = self.layer("Gemm", [x], _2=0, _3=1, _5=1, _6=1, _7=0, _8=cols, _9=inner, _10=-1)
            elif variant == "inner_product":
                y = self.layer("InnerProduct", [x], _0=cols, _1=0, _2=w.size)
            else:
                y = self.layer("Convolution", [x], _0=cols, _1=1, _5=0, _6=w.size)
            self.tagged(w)
            return y
        if kind == "conv3x3":
            return self.conv(x, "")
        if kind == "group_norm_silu":
            return self.norm_silu(x, "")
        if kind == "attention":
            return self.layer("SDPA", [x, self.keys.pop(), self.values.pop()])
        if kind == "resblock":
            a, b = self.layer("Split", [x], 2)
            h = self.conv(self.norm_silu(a, "norm1."), "conv1.")
            h = self.conv(self.norm_silu(h, "norm2."), "conv2.")
            return self.layer("BinaryOp", [h, b], _0=0)
        raise ValueError(f"unknown kind {kind}")

    def chain(self, kind, links, variant):
        names = "qkv" if kind == "attention" else "x"
        first, *others = (self.layer("Input", [], name=name) for name in names)
        if others:
            # A blob has one reader here, so each link gets a copy's name.
            copies = [self.layer("Split", [o], links) if links > 1 else [o] for o in others]
            self.keys, self.values = copies
        y = first
        for _ in range(links):
            y = self.link(kind, y, variant)
        return y

    def save(self, folder):
        text = "7767517\n%d %d\n%s\n" % (len(self.lines), self.blobs, "\n".join(self.lines))
        param, weights = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_text(text)
        weights.write_bytes(self.data)
        return str(param), str(weights)


class Ncnn:
    def open(self, device, dtype):
        self.half, self.works = dtype == "f16", {}
        wanted = device.lower()
        self.index = None
        if wanted == "cpu":
            self.threads = int(os.environ["PEER_THREADS"])
            return f"ncnn {ncnn.__version__}, CPU, {self.threads} threads"
        names = [ncnn.get_gpu_info(i).device_name() for i in range(ncnn.get_gpu_count())]
        found = [i for i, n in enumerate(names) if wanted in ("gpu", "auto") or wanted in n.lower()]
        if not found:
            raise RuntimeError(f"ncnn sees no Vulkan device `{device}`, only: {', '.join(names) or 'none'}")
        self.index = found[0]
        return f"ncnn {ncnn.__version__}, {names[self.index]}"

    def net(self, tensors, kind, links, variant):
        net = ncnn.Net()
        net.opt.use_vulkan_compute = self.index is not None
        if self.index is None:
            net.opt.num_threads = self.threads
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic"):
            setattr(net.opt, "use_" + option, self.half)
        for option in ("bf16_packed", "bf16_storage"):
            setattr(net.opt, "use_" + option, False)
        if self.index is not None:
            net.set_vulkan_device(self.index)
        model = Model(tensors)
        out = model.chain(kind, links, variant)
        with tempfile.TemporaryDirectory() as folder:
            param, weights = model.save(folder)
            if net.load_param(param) or net.load_model(weights):
                raise RuntimeError(f"ncnn refuses the net ({variant})")
        # A layer without a shader would run on the CPU in silence.
        on_cpu = {layer.type for layer in net.layers() if not layer.support_vulkan}
        if self.index is not None and on_cpu:
            raise RuntimeError(f"ncnn has no Vulkan layer for {', '.join(sorted(on_cpu))}")
        feeds = {}
        for name in "qkv" if kind == "attention" else "x":
            value = tensors[name]
            if kind == "attention":  # [L, heads * 64] to [heads, L, 64]
                value = value[0].reshape(value.shape[1], -1, HEAD_DIM).transpose(1, 0, 2)
            elif kind != "matmul":
                value = value[0]
            elif variant == "convolution":  # rows as pixels
                value = value.T.reshape(value.shape[1], *self.square(len(value)))
            feeds[name] = np.ascontiguousarray(value)

        def run():
            extractor = net.create_extractor()
            for name, value in feeds.items():
                extractor.input(name, ncnn.Mat(value))
            code, y = extractor.extract(out)
            if code:
                raise RuntimeError(f"ncnn fails with {code}")
            return y
        return run

    @staticmethod
    def square(rows):
        side = int(rows**0.5)
        return (side, rows // side) if rows % side == 0 else (1, rows)

    def prepare(self, name, kind, inputs, folder):
        tensors = load_tensors(inputs)
        # ncnn has three layers that can be a linear layer; the fastest counts.
        best = None
        for variant in ("inner_product", "gemm", "convolution") if kind == "matmul" else ("",):
            try:
                run = self.net(tensors, kind, 1, variant)
                first = clock(run)
                took = min(clock(run) for _ in range(2))
            except RuntimeError as error:
                refused = error
                continue
            print(f"{name} {variant}: {took:.1f} ms")
            if best is None or took < best[0]:
                best = (took, first, variant, run)
        if best is None:
            raise refused
        _, first, variant, short = best
        long = self.net(tensors, kind, CHAIN, variant)
        long()
        self.works[name] = (short, long, kind, variant)
        return first

    def run(self, name, runs):
        return slope(*self.works[name][:2], runs)

    def read(self, name):
        short, _, kind, variant = self.works[name]
        y = np.array(short())
        if kind == "attention":
            return y.transpose(1, 0, 2)
        if variant == "convolution":
            return y.reshape(len(y), -1).T
        return y

    def drop(self, name):
        self.works.pop(name, None)


if __name__ == "__main__":
    serve(Ncnn())
