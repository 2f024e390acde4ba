"""Small random CLIP encoders in every layout, and what PyTorch computes from them: embeddings, Semantic Diffusion
Guidance's four terms with their gradients by autograd, and a short guided run.

    python tools/make_sdg_goldens.py                    # writes kernels-tests/goldens/sdg

Needs torch, transformers and safetensors. The encoders are written here from the maths; transformers' folder is
computed by transformers itself, GLIDE's by the weights in kernels-tests/goldens/glide. Everything is computed in
float64 and, for the spread that the manifest states, once more in float32. The terms are those of src/pipeline/clip:

    text, content   100 cos(z, aim)
    structure       -100 / maps  sum_j  |F_j - F'_j|^2 / |F'_j|^2
    style           -100 / maps  sum_j  |G_j - G'_j|^2 / |G'_j|^2,   G = F^T F / (places * channels)
"""
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import adm

ROOT = Path(__file__).resolve().parent.parent / "kernels-tests/goldens"
OUT = ROOT / "sdg"
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)[:, None, None]
SCALE = 100.0
EMBED = 48


def normalised(x, side):
    if x.shape[2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
    return ((x + 1) / 2 - MEAN.to(x.dtype)) / STD.to(x.dtype)


# ---------------------------------------------------------------- encoders

class SelfAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) / width ** 0.5)
        self.in_proj_bias = nn.Parameter(0.1 * torch.randn(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.heads = width // 64

    def forward(self, x, mask: torch.Tensor):
        n, length, width = x.shape
        split = F.linear(x, self.in_proj_weight, self.in_proj_bias).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5 + mask, -1)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(n, length, width))


class FeedForward(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        h = self.c_fc(x)
        return self.c_proj(h * torch.sigmoid(1.702 * h))


class Block(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.attn, self.mlp = SelfAttention(width), FeedForward(width, hidden)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x, mask: torch.Tensor):
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width, hidden, layers):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, hidden) for _ in range(layers))


class Vision(nn.Module):
    """Embedding and the patches' states after every block."""
    def __init__(self, side, patch, width, hidden, layers):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, hidden, layers)
        self.proj = nn.Parameter(torch.randn(width, EMBED) / width ** 0.5)

    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(x.shape[0], 1, x.shape[2])
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        maps = []
        for block in self.transformer.resblocks:
            x = block(x, torch.zeros(1, dtype=x.dtype))
            maps.append(x[:, 1:])
        return self.ln_post(x[:, 0]) @ self.proj, maps


class Clip(nn.Module):
    """OpenAI's archive: both encoders, and numbers beside them."""
    def __init__(self, visual, vocab=1088, context=77, width=64, hidden=96, layers=2):
        super().__init__()
        self.visual = visual
        self.transformer = Transformer(width, hidden, layers)
        self.token_embedding = nn.Embedding(vocab, width)
        self.positional_embedding = nn.Parameter(0.5 * torch.randn(context, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, EMBED) / width ** 0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(SCALE)))
        for name, value in [("input_resolution", 32), ("context_length", context), ("vocab_size", vocab)]:
            self.register_buffer(name, torch.tensor(value))

    def forward(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf"), dtype=x.dtype).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        return self.ln_final(x)[torch.arange(ids.shape[0]), ids.argmax(-1)] @ self.text_projection


class Pool(nn.Module):
    def __init__(self, side, width):
        super().__init__()
        self.positional_embedding = nn.Parameter(0.2 * torch.randn(side ** 2 + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, EMBED)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        split = lambda h: h.view(*h.shape[:2], -1, 64).transpose(1, 2)
        q, k, v = split(self.q_proj(x[:, :1])), split(self.k_proj(x)), split(self.v_proj(x))
        weights = torch.softmax(q @ k.transpose(-1, -2) / 8, -1)
        return self.c_proj((weights @ v).transpose(1, 2).flatten(1))


class Bottleneck(nn.Module):
    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(c) for c in (planes, planes, 4 * planes))
        self.downsample = None
        if stride > 1 or inputs != 4 * planes:
            self.downsample = nn.Sequential()
            self.downsample.add_module("0", nn.Conv2d(inputs, 4 * planes, 1, bias=False))
            self.downsample.add_module("1", nn.BatchNorm2d(4 * planes))
        self.stride = stride

    def forward(self, x, modulate):
        halved = lambda h: F.avg_pool2d(h, self.stride) if self.stride > 1 else h
        h = F.relu(modulate(self.bn1(self.conv1(x))))
        h = F.relu(modulate(self.bn2(self.conv2(h))))
        h = modulate(self.bn3(self.conv3(halved(h))))
        return F.relu(h + (x if self.downsample is None else self.downsample(halved(x))))


class ResNet(nn.Module):
    def __init__(self, width, layers, side):
        super().__init__()
        half, inputs = width // 2, width
        self.conv1 = nn.Conv2d(3, half, 3, 2, 1, bias=False)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, bias=False)
        self.conv3 = nn.Conv2d(half, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(c) for c in (half, half, width))
        for level, count in enumerate(layers):
            planes, blocks = width << level, []
            for i in range(count):
                blocks.append(Bottleneck(inputs, planes, 2 if level and i == 0 else 1))
                inputs = 4 * planes
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))
        self.attnpool = Pool(side // 32, inputs)

    def forward(self, x, modulate=lambda h: h):
        for conv, bn in [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)]:
            x = F.relu(modulate(bn(conv(x))))
        x = F.avg_pool2d(x, 2)
        maps = [x]
        for level in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in level:
                x = block(x, modulate)
            maps.append(x)
        return self.attnpool(x), [m.flatten(2).transpose(1, 2) for m in maps]


class Noised(nn.Module):
    """SDG's: the residual network told the timestep."""
    def __init__(self, width, layers, side, time=16, emb=32):
        super().__init__()
        self.net, self.time = ResNet(width, layers, side), time
        norms = [width // 2, width // 2, width]
        for level, count in enumerate(layers):
            norms += count * [width << level, width << level, 4 * width << level]
        self.norms = norms
        self.time_embed = nn.Sequential(nn.Linear(time, emb), nn.ReLU(), nn.Linear(emb, emb))
        self.emb_layers = nn.Sequential(nn.ReLU(), nn.Linear(emb, 2 * sum(norms)))

    def published(self):
        """Its tensors as SDG's code names them."""
        first = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7, "layer1": 10, "layer2": 11, "layer3": 12}
        named = {}
        for name, value in self.state_dict().items():
            if name.startswith("net."):
                part, rest = name[4:].split(".", 1)
                part = {"attnpool": "attn_pool", "layer4": "layer4"}.get(part) or f"visual_frozen.{first[part]}"
                name = f"{part}.{rest}"
            named[name] = value
        return named

    def forward(self, x, t):
        half = self.time // 2
        w = torch.exp(-math.log(10000) / half * torch.arange(half, dtype=torch.float32))
        a = (t[:, None].float() * w).to(x.dtype)
        all = self.emb_layers(self.time_embed(torch.cat([a.cos(), a.sin()], -1)))
        parts = iter(torch.split(all, [c for c in self.norms for _ in range(2)], 1))
        modulate = lambda h: h * (1 + next(parts)[:, :, None, None]) + next(parts)[:, :, None, None]
        return self.net(x, modulate)


class Glide:
    """GLIDE's noised picture encoder from its file's tensors."""
    def __init__(self, path):
        self.w = {k: v.double() for k, v in torch.load(path, weights_only=True).items()}
        self.head = 16

    def to(self, dtype):
        self.w = {k: v.to(dtype) for k, v in self.w.items()}
        return self

    def __call__(self, x, t):
        w = lambda name: self.w[f"blocks.{name}"]
        norm = lambda name, h: F.layer_norm(h, h.shape[-1:], w(f"{name}.g"), w(f"{name}.b"), 1e-5)
        patch = w("input.patch_proj")
        h = F.conv2d(x, patch, stride=patch.shape[-1]).flatten(2).transpose(1, 2)
        h = norm("input.ln", torch.cat([w("input.w_t")[t][:, None], h], 1) + w("input.w_pos"))
        maps, i = [], 0
        while f"blocks.block_{i}.f_attn.ln.g" in self.w:
            b = f"block_{i}."
            a = norm(b + "f_attn.ln", h)
            split = lambda y: y.view(*y.shape[:2], -1, self.head).transpose(1, 2)
            q = split(F.linear(a, w(b + "f_attn.f_q.w"), w(b + "f_attn.f_q.b")))
            k = split(F.linear(a, w(b + "f_attn.f_k.w")))
            v = split(F.linear(a, w(b + "f_attn.f_v.w"), w(b + "f_attn.f_v.b")))
            a = (torch.softmax(q @ k.transpose(-1, -2) / self.head ** 0.5, -1) @ v).transpose(1, 2).flatten(2)
            h = h + F.linear(a, w(b + "f_attn.f_c.w"), w(b + "f_attn.f_c.b"))
            a = F.gelu(F.linear(norm(b + "f_mlp.ln", h), w(b + "f_mlp.f_1.w"), w(b + "f_mlp.f_1.b")))
            h = h + F.linear(a, w(b + "f_mlp.f_2.w"), w(b + "f_mlp.f_2.b"))
            maps.append(h[:, 1:])
            i += 1
        return F.linear(norm("output.ln", h[:, 0]), w("output.f.w")), maps


def randomise(net, halves=True):
    """Norms and biases that do something, and numbers that a file of halves holds exactly."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.dim() == 1 and "class_embedding" not in name:
                p.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * torch.randn_like(p))
            elif p.dim() == 4:
                nn.init.kaiming_normal_(p)
        for name, b in net.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(0.2 * torch.randn_like(b))
            elif name.endswith("running_var"):
                b.copy_(0.5 + torch.rand_like(b))
        if halves:
            # OpenAI's archives, too, keep the logit scale as it is.
            for p in [*(p for p in net.parameters() if p.dim()), *(b for b in net.buffers() if b.is_floating_point())]:
                p.copy_(p.half().to(p.dtype))
    return net.eval()


# ---------------------------------------------------------------- schedules

def alpha_bars(kind):
    if kind == "linear":
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        return torch.cumprod(1 - betas, 0)
    return adm.alpha_bar()


# ---------------------------------------------------------------- terms

def gram(m):
    return m.transpose(1, 2) @ m / (m.shape[1] * m.shape[2])


def share(found, example):
    size = lambda d: d.flatten(1).pow(2).sum(1)
    return -sum(size(f - e) / size(e) for f, e in zip(found, example)) / len(found)


def terms(see, x, vector, example):
    """Each term by picture; `see` gives embedding and maps of -1 to 1 pictures."""
    z, maps = see(x)
    with torch.no_grad():
        z_example, maps_example = see(example)
    cosine = lambda a, b: (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1)
    grams = [[gram(m) for m in list] for list in (maps, maps_example)]
    return {
        "text": SCALE * cosine(z, vector),
        "content": SCALE * cosine(z, z_example),
        "structure": SCALE * share(maps, maps_example),
        "style": SCALE * share(*grams),
    }


MIX = {"text": 1.5, "content": 0.75, "structure": 0.5, "style": 0.25}


def scored(see, x, vector, example):
    """Scalars and gradients of all terms, and of their mix."""
    out = {}
    for name in [*MIX, "mix"]:
        at = x.clone().requires_grad_(True)
        found = terms(see, at, vector, example)
        value = sum(w * found[k] for k, w in MIX.items()) if name == "mix" else found[name]
        out[f"{name}.value"] = value.detach()
        out[f"{name}.gradient"] = torch.autograd.grad(value.sum(), at)[0]
    return out


# ---------------------------------------------------------------- a run

def posterior(acp, chosen):
    """The respaced chain's coefficients, as guided-diffusion has them."""
    bars = acp[chosen]
    before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    betas = 1 - bars / before
    variance = betas * (1 - before) / (1 - bars)
    return bars, before, betas, variance


def guided_run(unet, see_at, acp, vector, example, start, noise, example_noise):
    """DDPM with fixed small variance, the mean shifted by variance times the score of the mix."""
    chosen = adm.chosen_times(str(len(noise)))
    bars, before, betas, variance = posterior(acp, chosen)
    xs, x0s, x = [start], [], start
    for step, i in enumerate(reversed(range(len(chosen)))):
        t = torch.full((x.shape[0],), chosen[i])
        with torch.no_grad():
            eps = unet(x, t)
        x0 = ((x - (1 - bars[i]).sqrt() * eps) / bars[i].sqrt()).clamp(-1, 1)
        mean = (betas[i] * before[i].sqrt() * x0 + (1 - before[i]) * (1 - betas[i]).sqrt() * x) / (1 - bars[i])
        noised = bars[i].sqrt() * example + (1 - bars[i]).sqrt() * example_noise[step]
        score = scored(lambda p: see_at(p, t), x, vector, noised)["mix.gradient"]
        mean = mean + variance[i] * score * RUN_WEIGHT
        x = (mean + (variance[i].sqrt() * noise[step] if i else 0)).to(x.dtype)
        xs.append(x)
        x0s.append(x0)
    return {"x": torch.stack(xs), "timesteps": torch.tensor(chosen[::-1]), "pred_x0": torch.stack(x0s)}


RUN_WEIGHT = 0.1


class Unet(adm.Unet):
    """The recipe's network in the type of its weights, float64 too."""
    def embed(self, t):
        half = self.width // 2
        w = torch.exp(-math.log(10000) / half * torch.arange(half, dtype=torch.float32))
        a = t[:, None].float() * w
        return self.time_embed(torch.cat([a.cos(), a.sin()], -1).to(self.out[2].weight.dtype))

    def forward(self, x, t):
        emb = self.embed(t)
        h, kept = self.down(x, emb)
        for step in self.output_blocks:
            h = step(torch.cat([h, kept.pop()], 1), emb)
        return self.out(h)


# ---------------------------------------------------------------- files

manifest = {
    "what": "Semantic Diffusion Guidance: CLIP encoders in every layout, four terms, a guided run",
    "produced_by": {"torch": torch.__version__, "transformers": transformers.__version__, "tool": "tools/make_sdg_goldens.py"},
    "logit_scale": SCALE,
    "mix": MIX,
    "run_weight": RUN_WEIGHT,
    "encoders": {},
    "tolerance_notes": {},
}


def describe(tensors):
    return {k: {"dtype": str(v.dtype).removeprefix("torch."), "shape": list(v.shape)} for k, v in tensors.items()}


def store(name, what, exact, rounded, given):
    """Writes a golden in float32 and notes how far float32 is from float64."""
    spread = {k: float((exact[k].double() - rounded[k].double()).abs().max()) for k in exact}
    tensors = {k: v.float().clone().contiguous() if v.is_floating_point() else v for k, v in {**given, **exact}.items()}
    save_file(tensors, OUT / f"{name}.safetensors")
    manifest.setdefault("goldens", {})[f"{name}.safetensors"] = {"what": what, "tensors": describe(tensors)}
    manifest["tolerance_notes"][name] = spread
    print(name, {k: f"{v:.1e} of {float(exact[k].abs().max()):.1e}" for k, v in spread.items() if exact[k].is_floating_point()})


def case(name, files, see, schedule, size, seed):
    """Terms of an encoder at two pictures of `size`. `see(dtype)` gives a function of pictures and times."""
    g = torch.Generator().manual_seed(seed)
    height, width = size
    normal = lambda *shape: torch.randn(*shape, generator=g)
    smooth = lambda n: F.interpolate(normal(n, 3, 4, 4), (height, width), mode="bicubic").clamp(-1, 1)
    clean = smooth(2)
    given = {"example": smooth(1), "vector": F.normalize(normal(2, EMBED_OF[name]), dim=1)}
    if schedule:
        t = torch.tensor([437, 437])
        bar = alpha_bars(schedule)[t[0]]
        given |= {"t": t, "noise": normal(2, 3, height, width)}
        given["x"] = (bar.sqrt() * clean + (1 - bar).sqrt() * normal(2, 3, height, width)).float()
    else:
        bar, t = torch.tensor(0.3, dtype=torch.float64), None
        given["x"] = clean
    results = []
    for dtype in (torch.float64, torch.float32):
        look = see(dtype)
        at = (lambda p: look(p, t)) if schedule else look
        cast = {k: v.to(dtype) for k, v in given.items() if v.is_floating_point()}
        example = cast["example"].expand(2, -1, -1, -1)
        if schedule:
            example = bar.sqrt().to(dtype) * example + (1 - bar).sqrt().to(dtype) * cast["noise"]
        embeds, maps = at(cast["x"])
        out = {"embeds": embeds.detach(), **{f"map.{j}": m.detach() for j, m in enumerate(maps)}}
        out |= scored(at, cast["x"], cast["vector"], example)
        if not schedule:
            gain = (1 / bar.sqrt()).to(dtype)
            out |= {k: gain * v for k, v in out.items() if k.endswith("gradient")}
        results.append(out)
    exact, rounded = results
    # Maps are large; their spread, and a corner of each, say enough.
    corner = lambda out: {k: v[:, :2, :8] if k.startswith("map") else v for k, v in out.items()}
    store(f"terms_{name}", f"{name}: embedding, corners of the maps, four terms, their mix, gradients", corner(exact),
          corner(rounded), given)
    manifest["encoders"][name] = {"files": files, "schedule": schedule, "alpha_bar": float(bar)}


EMBED_OF = {"vit": EMBED, "resnet": EMBED, "transformers": 40, "sdg": EMBED, "glide": 32}


def text_case(name, what, encode, ids):
    results = [{"embeds": encode(dtype)(ids).detach()} for dtype in (torch.float64, torch.float32)]
    store(f"text_{name}", what, *results, {"ids": ids})


def main():
    torch.manual_seed(20240502)
    OUT.mkdir(parents=True, exist_ok=True)
    plain = lambda net: lambda dtype: (lambda n: lambda x: n(normalised(x, n.side)))(with_side(net, dtype))
    noised = lambda net: lambda dtype: (lambda n: lambda x, t: n(normalised(x, n.side), t))(with_side(net, dtype))

    def with_side(net, dtype):
        side = net.side
        net = net.to(dtype)
        net.side = side
        return net

    # OpenAI's archive is a scripted module in halves.
    vit = randomise(Clip(Vision(32, 8, 128, 64, 2), hidden=48))
    vit.visual.side = 32
    vit.half()
    vit.logit_scale.data = torch.tensor(math.log(SCALE))
    torch.jit.save(torch.jit.script(vit), OUT / "vit.pt")
    vit.float()
    case("vit", ["vit.pt"], plain(vit.visual), None, (24, 20), 1)
    ids = torch.zeros(3, 77, dtype=torch.int64)
    for row, text in enumerate([[5, 17, 300], [512, 9, 9, 40, 7, 1000, 64, 3], []]):
        ids[row, : len(text) + 2] = torch.tensor([1086, *text, 1087])
    text_case("vit", "OpenAI's text encoder: the state at the largest id, projected", lambda d: vit.to(d), ids)

    resnet = randomise(ResNet(4, [1, 1, 2, 1], 64))
    resnet.side = 64
    state = {f"visual.{k}": v.half() if v.dim() == 4 else v for k, v in resnet.state_dict().items()}
    torch.save({"state_dict": state}, OUT / "resnet.pt")
    case("resnet", ["resnet.pt"], plain(resnet), None, (24, 36), 2)

    config = transformers.CLIPConfig(
        projection_dim=40, logit_scale_init_value=math.log(SCALE),
        text_config=dict(vocab_size=1073, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         max_position_embeddings=77, eos_token_id=1072, bos_token_id=1071, projection_dim=40, hidden_act="gelu"),
        vision_config=dict(hidden_size=40, intermediate_size=56, num_hidden_layers=5, num_attention_heads=4, image_size=32,
                           patch_size=8, projection_dim=40, hidden_act="gelu"))
    hf = randomise(transformers.CLIPModel(config), halves=False)
    hf.config._attn_implementation = "eager"
    hf.save_pretrained(OUT / "transformers")

    def see_hf(dtype):
        model = hf.to(dtype)

        def see(x):
            out = model.vision_model(pixel_values=normalised(x, 32), output_hidden_states=True)
            # The ends of quarters of five blocks.
            maps = [out.hidden_states[i][:, 1:] for i in (2, 3, 4, 5)]
            return model.visual_projection(out.pooler_output), maps
        return see
    case("transformers", ["transformers"], see_hf, None, (32, 32), 3)
    ids = torch.full((3, 77), 1072, dtype=torch.int64)
    for row, text in enumerate([[5, 17, 300], [512, 9, 9, 40, 7, 1000, 64, 3], []]):
        ids[row, : len(text) + 1] = torch.tensor([1071, *text])
    def read_hf(dtype):
        model = hf.to(dtype)
        return lambda ids: model.text_projection(model.text_model(input_ids=ids).pooler_output)
    text_case("transformers", "transformers' text encoder: the state at the first end, projected", read_hf, ids)
    hf.float()

    sdg = randomise(Noised(4, [1, 2, 1, 1], 64))
    sdg.side = 64
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in sdg.published().items()}, OUT / "sdg.pt")
    case("sdg", ["sdg.pt"], noised(sdg), "linear", (32, 32), 4)

    glide = Glide(ROOT / "glide/clip_image_enc.pt")
    case("glide", ["../glide/clip_image_enc.pt"],
         lambda dtype: (lambda n: lambda x, t: n(normalised(x, 16), t))(glide.to(dtype)), "squaredcos_cap_v2", (16, 24), 5)

    unet_config = dict(image_size=16, num_channels=32, channel_mult=[1], num_res_blocks=1, attention_resolutions_ds=[],
                       num_head_channels=16, num_classes=1, learn_sigma=False, sigma_small=True, class_cond=False,
                       use_scale_shift_norm=True, resblock_updown=True, use_new_attention_order=True,
                       noise_schedule="linear", diffusion_steps=1000, rescale_timesteps=False)
    unet = Unet(unet_config)
    with torch.no_grad():
        for p in unet.parameters():
            p.copy_((p if p.abs().max() > 0 else 0.05 * torch.randn_like(p)).half().float())
    folder = OUT / "diffusion"
    folder.mkdir(exist_ok=True)
    save_file({k: v.half() for k, v in unet.state_dict().items()}, folder / "diffusion.safetensors")
    (folder / "config.json").write_text(json.dumps({"diffusion": unet_config}, indent=1))
    g = torch.Generator().manual_seed(6)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    steps, shape = 6, (2, 3, 16, 16)
    given = {"example": F.interpolate(normal(1, 3, 4, 4), (16, 16), mode="bicubic").clamp(-1, 1),
             "vector": F.normalize(normal(2, EMBED), dim=1), "noise": normal(steps, *shape),
             "example_noise": normal(steps, *shape)}
    start, results = normal(*shape), []
    for dtype in (torch.float64, torch.float32):
        see = noised(sdg)(dtype)
        c = {k: v.to(dtype) for k, v in given.items()}
        results.append(guided_run(unet.to(dtype), see, alpha_bars("linear"), c["vector"],
                                  c["example"].expand(2, -1, -1, -1), start.to(dtype), c["noise"], c["example_noise"]))
    exact, rounded = results
    store("run", "DDPM of 6 steps over a tiny unconditional ADM, steered by the mix", exact, rounded, given)
    per_step = (exact["x"] - rounded["x"].double()).abs().flatten(1).max(1).values
    manifest["tolerance_notes"]["run per step"] = per_step.tolist()
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()
