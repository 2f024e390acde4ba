"""Small random autoregressive priors (DALL-E 2, Ramesh et al. 2022, section 2.2) and what PyTorch computes from them:
logits of known sequences, and guided runs with their numbers, tokens and embeddings.

    python tools/make_ar_prior_goldens.py               # writes kernels-tests/goldens/ar_prior

Needs torch and safetensors. Everything is computed in float64 and, for the spread that the manifest states, once more
in float32. A run computes every component from the whole sequence before it; there is no cache here.
"""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

OUT = Path(__file__).resolve().parent.parent / "kernels-tests/goldens/ar_prior"


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("to_q", "to_k", "to_v", "to_out")})
        self.ff = nn.ModuleDict({"proj_in": nn.Linear(width, 4 * width), "proj_out": nn.Linear(4 * width, width)})

    def forward(self, x, hidden):
        h = self.norm1(x)
        split = lambda name: self.attn[name](h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split("to_q"), split("to_k"), split("to_v")
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(hidden[:, None], float("-inf"))
        x = x + self.attn["to_out"]((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.ff["proj_out"](F.gelu(self.ff["proj_in"](self.norm2(x))))


class Prior(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, width = c, c["num_attention_heads"] * c["attention_head_dim"]
        self.prefix = c["max_text_len"] + 2
        self.text_states_proj = nn.Linear(c["text_states_dim"], width)
        self.text_embed_proj = nn.Linear(c["embedding_dim"], width)
        self.dot_embedding = nn.Embedding(c["num_dot_buckets"] + 1, width)
        self.component_embedding = nn.Embedding(c["num_buckets"], width)
        self.positional_embedding = nn.Parameter(torch.randn(self.prefix + c["num_components"] - 1, width))
        self.transformer_blocks = nn.ModuleList(Block(width, c["num_attention_heads"]) for _ in range(c["num_layers"]))
        self.norm_out, self.to_logits = nn.LayerNorm(width), nn.Linear(width, c["num_buckets"])
        axes = torch.linalg.qr(torch.randn(c["embedding_dim"], c["num_components"], dtype=torch.float64))[0].T
        spread = torch.linspace(2, 0.3, c["num_components"])
        for name, value in {
            "pca_mean": torch.randn(c["embedding_dim"]), "pca_components": axes.float().contiguous(),
            "bucket_low": -2.5 * spread, "bucket_width": 5 * spread / c["num_buckets"],
            "dot_low": torch.tensor([0.1]), "dot_width": torch.tensor([0.05]),
        }.items():
            self.register_buffer(name, value)

    def forward(self, states, embeds, lens, dots, components):
        """Logits of all components that follow `components` [N, any number]: [N, number + 1, B]."""
        tokens = torch.cat([self.text_states_proj(states), self.text_embed_proj(embeds)[:, None],
                            self.dot_embedding(dots)[:, None], self.component_embedding(components)], 1)
        count = tokens.shape[1]
        x = tokens + self.positional_embedding[:count]
        places = torch.arange(count)
        padding = (places >= lens[:, None]) & (places < self.c["max_text_len"])
        later = places[None, :] > places[:, None]
        for block in self.transformer_blocks:
            x = block(x, later[None] | padding[:, None])
        return self.to_logits(self.norm_out(x[:, self.prefix - 1:]))

    def run(self, states, embeds, lens, scale, temperature, uniforms):
        """Tokens [N, K] and the logits they were drawn from [K, rows, B]: the second caption's, guided away from the first
        one where the scale is above 1, over the temperature; the unconditional rows come first."""
        count, keep = uniforms.shape[0], slice(0 if scale > 1 else 1, 2)
        rows = lambda x: x[keep].repeat_interleave(count, 0)
        dots = torch.tensor([self.c["num_dot_buckets"], self.c["dot_default"]])
        given = [rows(x) for x in (states, embeds, lens, dots)]
        tokens, seen, margin = torch.zeros(count, 0, dtype=torch.int64), [], 1.0
        for k in range(self.c["num_components"]):
            logits = self(*given, tokens.repeat(len(given[0]) // count, 1))[:, -1]
            seen.append(logits)
            conditional = logits[-count:].double()
            guided = conditional if scale <= 1 else logits[:count] + scale * (conditional - logits[:count].double())
            shares = (guided / temperature).softmax(-1).cumsum(-1)
            at = uniforms[:, k].double()
            margin = min(margin, float((shares[:, :-1] - at[:, None]).abs().min()))
            drawn = (shares <= at[:, None]).sum(-1).clamp(max=self.c["num_buckets"] - 1)
            tokens = torch.cat([tokens, drawn[:, None]], 1)
        # A draw nearer to the end of its share would not say which one is right.
        assert margin > 1e-4, f"a draw by {margin}: take another seed"
        return tokens, torch.stack(seen)

    def embeddings(self, tokens):
        values = self.bucket_low + (tokens + 0.5) * self.bucket_width
        return self.pca_mean + values @ self.pca_components


def randomise(net):
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "norm" in name:
                p.copy_(torch.randn_like(p) * 0.2 + (1 if name.endswith("weight") else 0))
            elif p.dim() == 1:
                p.normal_(0, 0.1)
            elif "embedding" not in name:
                p.normal_(0, (1 if "to_logits" in name else 1.5) / p.shape[1] ** 0.5)
    return net


PRIORS = {
    "small": dict(num_layers=2, num_attention_heads=2, attention_head_dim=8, embedding_dim=12, text_states_dim=12,
                  max_text_len=6, num_components=8, num_buckets=10, num_dot_buckets=5, dot_default=3),
    "odd": dict(num_layers=3, num_attention_heads=3, attention_head_dim=7, embedding_dim=17, text_states_dim=11,
                max_text_len=9, num_components=13, num_buckets=19, num_dot_buckets=4, dot_default=0),
}

manifest = {
    "what": "autoregressive priors: logits of known sequences, and runs",
    "produced_by": {"torch": torch.__version__, "tool": "tools/make_ar_prior_goldens.py"},
    "priors": {}, "goldens": {}, "tolerance_notes": {},
}


def case(name, config, seed, scale, temperature):
    runs = {"guided": {"guidance_scale": scale, "temperature": temperature},
            "plain": {"guidance_scale": 1.0, "temperature": 1.0}}
    torch.manual_seed(seed)
    net = randomise(Prior(config)).eval()
    folder = OUT / name / "prior_ar"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoregressivePrior", **config}, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "diffusion_pytorch_model.safetensors")
    g = torch.Generator().manual_seed(seed + 1)
    length, below = config["max_text_len"], lambda n, *shape: torch.randint(n, shape, generator=g)
    rows, pictures = 3, 2
    given = {
        "states": torch.randn(rows, length, config["text_states_dim"], generator=g),
        "embeds": torch.randn(rows, config["embedding_dim"], generator=g),
        "lens": torch.tensor([2, length - 1, length]),
        "dots": below(config["num_dot_buckets"] + 1, rows),
        "components": below(config["num_buckets"], rows, config["num_components"] - 1),
        "uniforms": torch.stack([torch.rand(config["num_components"], generator=torch.Generator().manual_seed(seed + i))
                                 for i in range(pictures)]),
    }
    results = []
    for dtype in (torch.float64, torch.float32):
        net.to(dtype)
        cast = {k: v.to(dtype) if k in ("states", "embeds") else v for k, v in given.items()}
        caption = [cast[k][:2] for k in ("states", "embeds", "lens")]
        with torch.no_grad():
            out = {"logits": net(*(cast[k] for k in ("states", "embeds", "lens", "dots", "components")))}
            for run, by in runs.items():
                tokens, logits = net.run(*caption, by["guidance_scale"], by["temperature"], given["uniforms"])
                out |= {f"{run}.logits": logits, f"{run}.tokens": tokens, f"{run}.embeddings": net.embeddings(tokens)}
        results.append(out)
    exact, rounded = results
    assert all(torch.equal(exact[k], rounded[k]) for k in exact if k.endswith("tokens"))
    spread = {k: float((exact[k] - rounded[k].double()).abs().max()) for k in exact if exact[k].is_floating_point()}
    tensors = {k: v.float() if v.dtype == torch.float64 else v for k, v in {**given, **exact}.items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / f"{name}.safetensors")
    manifest["priors"][name] = {"seed": seed, **runs}
    manifest["tolerance_notes"][name] = spread
    describe = {k: {"dtype": str(v.dtype).removeprefix("torch."), "shape": list(v.shape)} for k, v in tensors.items()}
    manifest["goldens"][f"{name}.safetensors"] = {"what": "logits of known sequences; runs", "tensors": describe}
    peak = {k: f"{v:.1e} of {float(exact[k].abs().max()):.1e}" for k, v in spread.items()}
    print(name, peak, exact["guided.tokens"].tolist())


if __name__ == "__main__":
    case("small", PRIORS["small"], 20240615, 2.0, 0.8)
    case("odd", PRIORS["odd"], 20240614, 3.0, 1.3)
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
