"""ONNX Runtime: its CPU provider, or its WebGPU provider (built in, or the plugin)."""
import os

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from worker import CHAIN, clock, serve, slope
from works import EPS, GROUPS, HEAD_DIM, load_tensors

MICROSOFT = "com.microsoft"


class Model:
    """An ONNX graph under construction."""

    def __init__(self, tensors, fused):
        self.tensors, self.fused, self.nodes, self.initializers = tensors, fused, [], {}

    def weight(self, name, value=None):
        value = self.tensors[name] if value is None else value
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(self, op, inputs, domain="", **attributes):
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], domain=domain, **attributes))
        return out

    def conv(self, x, prefix):
        inputs = [x, self.weight(prefix + "weight"), self.weight(prefix + "bias")]
        return self.node("Conv", inputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def norm_silu(self, x, prefix):
        # Group norm as PyTorch's exporter writes it: instance norm of the groups, then gain and offset by channel.
        channels = len(self.tensors[prefix + "weight"])
        grouped = self.weight("grouped", np.array([0, GROUPS, -1], np.int64))
        ones = self.weight("ones", np.ones(GROUPS, np.float32))
        zeros = self.weight("zeros", np.zeros(GROUPS, np.float32))
        shape = self.node("Shape", [x])
        h = self.node("InstanceNormalization", [self.node("Reshape", [x, grouped]), ones, zeros], epsilon=EPS)
        h = self.node("Reshape", [h, shape])
        by_channel = {n: self.tensors[prefix + n].reshape(channels, 1, 1) for n in ("weight", "bias")}
        h = self.node("Mul", [h, self.weight(prefix + "gain", by_channel["weight"])])
        h = self.node("Add", [h, self.weight(prefix + "offset", by_channel["bias"])])
        return self.node("Mul", [h, self.node("Sigmoid", [h])])

    def link(self, kind, x):
        if kind == "matmul":
            return self.node("MatMul", [x, self.weight("w", self.tensors["weight"].T)])
        if kind == "conv3x3":
            return self.conv(x, "")
        if kind == "group_norm_silu":
            return self.norm_silu(x, "")
        if kind == "attention" and self.fused:
            heads = self.tensors["q"].shape[-1] // HEAD_DIM
            return self.node("MultiHeadAttention", [x, "k", "v"], MICROSOFT, num_heads=heads)
        if kind == "attention":
            scale = self.weight("scale", np.array(HEAD_DIM**-0.5, np.float32))
            scores = self.node("Mul", [self.node("MatMul", [x, "k"]), scale])
            return self.node("MatMul", [self.node("Softmax", [scores], axis=-1), "v"])
        if kind == "resblock":
            h = self.conv(self.norm_silu(x, "norm1."), "conv1.")
            return self.node("Add", [self.conv(self.norm_silu(h, "norm2."), "conv2."), x])
        raise ValueError(f"unknown kind {kind}")

    def bytes(self, kind, links):
        names = ["q", "k", "v"] if kind == "attention" else ["x"]
        y = names[0]
        for _ in range(links):
            y = self.link(kind, y)
        info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.tensors[n].shape) for n in names]
        out = helper.make_tensor_value_info(y, TensorProto.FLOAT, self.tensors[names[0]].shape)
        graph = helper.make_graph(self.nodes, "work", info, [out], list(self.initializers.values()))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return model.SerializeToString(), names


class Ort:
    def open(self, device, dtype):
        if dtype != "f32":
            raise RuntimeError("only f32 is set up")
        self.works, self.options = {}, ort.SessionOptions()
        self.options.log_severity_level = 3
        threads = int(os.environ.get("PEER_THREADS", 0)) or os.cpu_count()
        self.options.intra_op_num_threads = threads
        # Spinning threads would take the next peer's time.
        self.options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        self.options.add_session_config_entry("session.force_spinning_stop", "1")
        # The WebGPU provider's fused attention is off by 2 % on software Vulkan: products and softmax there.
        self.fused = device == "cpu"
        if device == "cpu":
            self.providers = ["CPUExecutionProvider"]
            return f"ONNX Runtime {ort.__version__}, CPU, {threads} threads"
        if "WebGpuExecutionProvider" in ort.get_available_providers():
            self.providers = ["WebGpuExecutionProvider"]
        else:
            import onnxruntime_ep_webgpu as plugin
            ort.register_execution_provider_library("webgpu", plugin.get_library_path())
            found = [d for d in ort.get_ep_devices() if d.ep_name == plugin.get_ep_name()]
            if not found:
                raise RuntimeError("the WebGPU plugin finds no device")
            self.providers = None
            self.options.add_provider_for_devices(found[:1], {})
        return f"ONNX Runtime {ort.__version__}, WebGPU (the adapter Dawn takes)"

    def session(self, tensors, kind, links):
        model, names = Model(tensors, self.fused).bytes(kind, links)
        onnx.checker.check_model(onnx.load_from_string(model), full_check=False)
        session = ort.InferenceSession(model, self.options, providers=self.providers)
        if self.providers == ["WebGpuExecutionProvider"] and session.get_providers()[0] != self.providers[0]:
            raise RuntimeError("the WebGPU provider does not open a device")
        feeds = {name: np.ascontiguousarray(tensors[name]) for name in names}
        return lambda: session.run(None, feeds)[0]

    def prepare(self, name, kind, inputs, folder):
        tensors = load_tensors(inputs)
        if kind == "attention" and not self.fused:
            # [1, L, heads * 64] to [1, heads, L, 64], keys to [1, heads, 64, L].
            for n, value in tensors.items():
                axes = (0, 2, 3, 1) if n == "k" else (0, 2, 1, 3)
                tensors[n] = value.reshape(*value.shape[:2], -1, HEAD_DIM).transpose(axes)
        short, long = (self.session(tensors, kind, links) for links in (1, CHAIN))
        first = clock(short)
        short(), long(), long()
        self.works[name] = (short, long, kind)
        return first

    def run(self, name, runs):
        return slope(*self.works[name][:2], runs)

    def read(self, name):
        short, _, kind = self.works[name]
        y = short()
        return y.transpose(0, 2, 1, 3) if kind == "attention" and not self.fused else y

    def drop(self, name):
        self.works.pop(name, None)


if __name__ == "__main__":
    serve(Ort())
