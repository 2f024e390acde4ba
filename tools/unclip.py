"""A small unCLIP of scenes (Ramesh et al. 2022, arXiv:2204.06125) in Karlo's layouts: two priors, decoder, enlargers.

CLIP is that of clip.py, as it is: its embeddings are the encoders' raw outputs at time 0, its captions' states
those of every token behind the output layer norm.

    python tools/unclip.py --run runs/unclip       # what CLIP says of both priors' embeddings; pictures of every stage
"""
import argparse
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import AttnAddedKVProcessor
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from torch import nn

import clip
import model
import scenes

LENGTH = clip.CONFIG["max_text_len"]
SHORT = 28                   # training cuts captions' padding: what is hidden need not be computed
WIDTH = clip.CONFIG["n_embd"]
STATES = clip.CONFIG["n_head_text"] * clip.CONFIG["n_head_state_text"]
TOKENS = 4                   # of a picture's embedding in the decoder's context
CONTEXT = 64


def to_tensor(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous() * 2 - 1


# ---------------------------------------------------------------- CLIP

class Clip:
    """The run's CLIP, not trained on."""
    def __init__(self, run, compiled=False):
        nets, self.tok, _ = clip.load_run(run)
        self.image, self.text = (nets[k].requires_grad_(False) for k in ("image", "text"))
        self.see = torch.compile(self.image) if compiled else self.image

    @torch.no_grad()
    def pictures(self, x):
        """Embeddings [n, E] of pictures [n, 3, 32, 32]."""
        return self.see(x, torch.zeros(len(x), dtype=torch.long))[0].float()

    @torch.no_grad()
    def captions(self, ids, lens):
        """States of all tokens [n, L, E], embeddings [n, E], and which tokens are none of the padding [n, L]."""
        embeds, _, h = self.text(ids, lens)
        return self.text.blocks["output"].ln(h), embeds, torch.arange(ids.shape[1]) < lens[:, None]

    def ids(self, texts, length=LENGTH):
        ids, lens = self.tok(texts, length)
        return F.pad(ids, (0, length - ids.shape[1])), lens

    def read(self, texts, length=LENGTH):
        return self.captions(*self.ids(texts, length))

    def fits(self, text):
        return len(self.tok.encode(text)) + 2 <= SHORT


def loosened(clip, s, rng):
    text = scenes.loosen(s.caption, rng)
    return text if clip.fits(text) else s.caption


def spread_times(n, steps):
    return ((torch.arange(n) + torch.rand(n)) / n * steps).long().clamp(max=steps - 1)


def inherit(net, path, part="unet"):
    """Takes over the averaged weights of another run's network wherever names and shapes agree."""
    if path.exists():
        old, own = torch.load(path, map_location="cpu")["ema"][part], net.state_dict()
        net.load_state_dict({**own, **{k: v for k, v in old.items() if k in own and own[k].shape == v.shape}})


# ---------------------------------------------------------------- decoder

def decoder():
    c = model.STAGES["base"]
    down = ["SimpleCrossAttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in c["attend"]]
    up = ["SimpleCrossAttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(c["attend"])]
    return UNet2DConditionModel(
        sample_size=c["px"], in_channels=3, out_channels=3, down_block_types=tuple(down), up_block_types=tuple(up),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", block_out_channels=c["channels"], layers_per_block=c["layers"],
        norm_num_groups=8, act_fn="gelu", attention_head_dim=32, cross_attention_dim=CONTEXT,
        class_embed_type="identity", resnet_time_scale_shift="scale_shift")


def text_proj():
    return UnCLIPTextProjModel(clip_extra_context_tokens=TOKENS, clip_embeddings_dim=WIDTH, cross_attention_dim=CONTEXT,
                               time_embed_dim=4 * model.STAGES["base"]["channels"][0])


class Decoder:
    """Draws the picture of an embedding. Half of the captions are dropped, so that the embedding says nearly all;
    in a tenth of the cases the embedding is dropped as well, for guidance."""
    def __init__(self, run, compiled):
        self.clip, self.acp = Clip(run, compiled), model.alpha_bar()
        self.net, self.proj = decoder().to(memory_format=torch.channels_last), text_proj()
        self.net.set_attn_processor(AttnAddedKVProcessor())      # a fifth less time a step than the fused one
        self.modules = {"decoder": self.net, "text_proj": self.proj}
        inherit(self.net, run / "base.pt")

    def batch(self, n, rng, step):
        made = [scenes.sample_scene(rng) for _ in range(n)]
        u = rng.random(n)
        ids, lens = self.clip.ids(["" if p < 0.55 else loosened(self.clip, s, rng) for s, p in zip(made, u)], SHORT)
        return to_tensor(scenes.render(made, 32)), ids, lens, torch.from_numpy(u < 0.1)

    def condition(self, embeddings, captions):
        states, embeds, mask = captions
        context, time = self.proj(image_embeddings=embeddings, prompt_embeds=embeds, text_encoder_hidden_states=states,
                                  do_classifier_free_guidance=False)
        return dict(encoder_hidden_states=context, class_labels=time, attention_mask=F.pad(mask, (TOKENS, 0), value=True))

    def loss(self, net, batch, progress):
        x, ids, lens, dropped = batch
        x = x.contiguous(memory_format=torch.channels_last)
        t, noise = spread_times(len(x), model.STEPS), torch.randn_like(x)
        a = self.acp[t]
        with torch.autocast("cpu", torch.bfloat16):
            embeddings, captions = self.clip.pictures(x), self.clip.captions(ids, lens)
            null = self.proj.learned_classifier_free_guidance_embeddings
            kw = self.condition(torch.where(dropped[:, None], null, embeddings), captions)
            v = net(model.mix(x, noise, a), t, **kw).sample
        err = (v.float() - model.velocity(x, noise, a)).square().mean((1, 2, 3))
        return (err * model.v_weight(a)).mean()

    @torch.no_grad()
    def sample(self, embeddings, texts, scale=3.0, steps=25, seed=0, generators=None):
        """DDIM; the unconditional half has the learned embedding and no caption."""
        n = len(embeddings)
        null = self.proj.learned_classifier_free_guidance_embeddings.expand(n, -1)
        both = [torch.cat(p) for p in zip(self.clip.read([""] * n), self.clip.read(texts))]
        kw = self.condition(torch.cat([null, embeddings]), both)
        x = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        ts = [round(model.STEPS - i * model.STEPS / steps) - 1 for i in range(steps)]
        for i, t in enumerate(ts):
            u, c = self.net(torch.cat([x, x]), torch.full((2 * n,), t), **kw).sample.chunk(2)
            v = u + scale * (c - u)
            a, b = self.acp[t], self.acp[ts[i + 1]] if i + 1 < steps else torch.tensor(1.0)
            x0 = (a.sqrt() * x - (1 - a).sqrt() * v).clamp(-1, 1)
            x = b.sqrt() * x0 + (1 - b).sqrt() * (x - a.sqrt() * x0) / (1 - a).sqrt()
        return x.clamp(-1, 1)

    def peek(self):
        """True pictures, those of their embeddings at two scales, and with their captions too; what CLIP says."""
        rng = np.random.default_rng([5, 77])
        made = [scenes.sample_scene(rng, plain=True) for _ in range(16)]
        x, none = to_tensor(scenes.render(made, 32)), [""] * 16
        z, rows, words = self.clip.pictures(x), [x], []
        for name, texts, scale in (("scale 1", none, 1.0), ("scale 3", none, 3.0), ("scale 3, caption", [s.caption for s in made], 3.0)):
            rows.append(self.sample(z, texts, scale))
            near = F.cosine_similarity(self.clip.pictures(rows[-1]), z)
            words.append(f"{name}: cosine {near.mean():.3f}, rms to the true picture {(rows[-1] - x).square().mean().sqrt():.3f}")
        return torch.cat(rows), 16, words


# ---------------------------------------------------------------- priors

KNOWN = 8192                  # scenes by which embeddings are normalised, rotated and cut into buckets
LAYERS, HEADS, HEAD = 5, 4, 32
DRAWS = 8                     # noises a caption is trained with at once
COMPONENTS, BUCKETS, DOTS = 40, 128, 32


def statistics(run, seed=0):
    """Embeddings of pictures, and their scalar products with those of their captions, both normalised; kept in
    the run's folder, for all its priors."""
    path = run / "embeddings.pt"
    if not path.exists():
        c, rng, z, dots = Clip(run), np.random.default_rng([seed, 99]), [], []
        for _ in range(KNOWN // 128):
            made = [scenes.sample_scene(rng) for _ in range(128)]
            z.append(c.pictures(to_tensor(scenes.render(made, 32))))
            dots.append(F.cosine_similarity(z[-1], c.read([s.caption for s in made], SHORT)[1]))
        torch.save((torch.cat(z), torch.cat(dots)), path)
    return torch.load(path)


def attend(q, k, v, heads, hidden):
    """Attention by hand: torch's fused one takes longer on the CPU at this size. `hidden` [n, 1, Lq, Lk] is added."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    w = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + hidden
    return (w.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def prior():
    net = PriorTransformer(num_attention_heads=HEADS, attention_head_dim=HEAD, num_layers=LAYERS, embedding_dim=WIDTH,
                           num_embeddings=LENGTH)
    for p in (net.positional_embedding, net.prd_embedding):
        nn.init.normal_(p, std=0.1)
    return net


class PriorForward(nn.Module):
    """PriorTransformer's forward over captions whose padding is cut, and over several noisy embeddings of each.

    A caption's tokens see nothing of the step's (time, noisy embedding, answer), so they are computed once for all
    of its draws: x [n, draws, E], t [n, draws] to the clean embeddings [n, draws, E].
    """
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, states, embeds, mask):
        net, (n, draws, _), length = self.net, x.shape, states.shape[1]
        time = net.time_embedding(net.time_proj(t.flatten())).view(n, draws, -1)
        last = net.prd_embedding.expand(n, draws, -1)
        places = net.positional_embedding[0]
        step = torch.stack([time, net.proj_in(x), last], 2) + places[LENGTH + 1:]
        caption = torch.cat([net.encoder_hidden_states_proj(states), net.embedding_proj(embeds)[:, None]], 1)
        h = torch.cat([caption + torch.cat([places[:length], places[LENGTH:LENGTH + 1]]), step.flatten(1, 2)], 1)
        size, before = h.shape[1], length + 1
        at = torch.arange(size)
        group = (at - before).div(3, rounding_mode="floor").clamp(min=-1)
        seen = (at[None] <= at[:, None]) & ((group[None] == -1) | (group[None] == group[:, None]))
        mask = F.pad(mask, (0, size - length), value=True)
        hidden = torch.where(seen & mask[:, None], 0.0, -10000.0)[:, None]
        for block in net.transformer_blocks:
            a, y = block.attn1, block.norm1(h)
            h = h + a.to_out[0](attend(a.to_q(y), a.to_k(y), a.to_v(y), HEADS, hidden))
            h = h + block.ff(block.norm3(h))
        return net.proj_to_clip_embeddings(net.norm_out(h[:, before + 2::3]))


class Prior:
    """Draws a picture's embedding for a caption by diffusion; predicts the clean one (section 2.2)."""
    def __init__(self, run, compiled):
        self.clip, self.acp, self.net = Clip(run, compiled), model.alpha_bar(), PriorForward(prior())
        self.modules = {"prior": self.net.net}
        z = statistics(run)[0]
        for name, value in (("clip_mean", z.mean(0, keepdim=True)), ("clip_std", z.std(0, keepdim=True))):
            getattr(self.net.net, name).requires_grad_(False).copy_(value)

    def batch(self, n, rng, step):
        made = [scenes.sample_scene(rng) for _ in range(n)]
        dropped = rng.random(n) < 0.1
        ids, lens = self.clip.ids(["" if d else loosened(self.clip, s, rng) for s, d in zip(made, dropped)], SHORT)
        return to_tensor(scenes.render(made, 32)), ids, lens, torch.from_numpy(dropped)

    def loss(self, net, batch, progress):
        x, ids, lens, _ = batch
        n = len(x)
        t = spread_times(n * DRAWS, model.STEPS).view(DRAWS, n).T
        with torch.autocast("cpu", torch.bfloat16):
            z, captions = self.clip.pictures(x), self.clip.captions(ids, lens)
            z = ((z - self.net.net.clip_mean) / self.net.net.clip_std)[:, None]
            a = self.acp[t][..., None]
            noisy = a.sqrt() * z + (1 - a).sqrt() * torch.randn(n, DRAWS, WIDTH)
            return (net(noisy, t, *captions).float() - z).square().mean()

    @torch.no_grad()
    def sample(self, texts, scale=1.0, steps=25, seed=0, most=5.0):
        """As UnCLIPScheduler samples: every step's posterior, the estimate clipped."""
        n, g = len(texts), torch.Generator().manual_seed(seed)
        both = [torch.cat(p) for p in zip(self.clip.read([""] * n, SHORT), self.clip.read(texts, SHORT))]
        x = torch.randn(n, WIDTH, generator=g)
        ts = [round(i * (model.STEPS - 1) / (steps - 1)) for i in reversed(range(steps))]
        for i, t in enumerate(ts):
            u, c = self.net(torch.cat([x, x])[:, None], torch.full((2 * n, 1), t), *both)[:, 0].chunk(2)
            x0 = (u + scale * (c - u)).clamp(-most, most)
            a = self.acp[t]
            if i + 1 == steps:
                return x0 * self.net.net.clip_std + self.net.net.clip_mean
            b = self.acp[ts[i + 1]]
            beta = 1 - a / b
            x = b.sqrt() * beta / (1 - a) * x0 + (a / b).sqrt() * (1 - b) / (1 - a) * x
            x += (beta * (1 - b) / (1 - a)).sqrt() * torch.randn(n, WIDTH, generator=g)

    def peek(self):
        return None, 0, [f"scale {s:g}: {score(self, self.sample, scale=s)}" for s in (1.0, 2.0, 4.0)]


def bucket_waves(buckets, width):
    """Smooth vectors of buckets [buckets, width], neighbours alike, so that their order need not be learned."""
    at = (torch.arange(buckets) + 0.5)[:, None] / buckets
    w = math.pi * torch.arange(1, width // 2 + 1) * 0.5
    fade = 1 / (1 + torch.arange(width // 2) / 16)
    return torch.cat([(at * w).cos() * fade, (at * w).sin() * fade], 1)


class SelfAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, hidden):
        return self.to_out(attend(self.to_q(x), self.to_k(x), self.to_v(x), HEADS, hidden))


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.proj_out(F.gelu(self.proj_in(x)))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.ff = SelfAttention(width), FeedForward(width)

    def forward(self, x, hidden):
        x = x + self.attn(self.norm1(x), hidden)
        return x + self.ff(self.norm2(x))


class AutoregressivePrior(nn.Module):
    """Tokens: the caption's states, its embedding, the quantised scalar product of it and the picture's, then the
    picture's principal components, quantised, but for the last one. Returns the logits of all components."""
    config = dict(num_layers=LAYERS, num_attention_heads=HEADS, attention_head_dim=HEAD, embedding_dim=WIDTH,
                  text_states_dim=STATES, max_text_len=LENGTH, num_components=COMPONENTS, num_buckets=BUCKETS,
                  num_dot_buckets=DOTS)

    def __init__(self):
        super().__init__()
        width = HEADS * HEAD
        self.text_states_proj, self.text_embed_proj = nn.Linear(STATES, width), nn.Linear(WIDTH, width)
        self.dot_embedding, self.component_embedding = nn.Embedding(DOTS + 1, width), nn.Embedding(BUCKETS, width)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(LENGTH + 1 + COMPONENTS, width))
        self.transformer_blocks = nn.ModuleList(Block(width) for _ in range(LAYERS))
        self.norm_out, self.to_logits = nn.LayerNorm(width), nn.Linear(width, BUCKETS)
        with torch.no_grad():
            self.dot_embedding.weight[:DOTS] = bucket_waves(DOTS, width)
            self.dot_embedding.weight[DOTS] = 0.0
            self.component_embedding.weight.copy_(bucket_waves(BUCKETS, width))
            self.to_logits.weight.copy_(bucket_waves(BUCKETS, width) * 0.2)
        for name, size in (("pca_mean", (WIDTH,)), ("pca_components", (COMPONENTS, WIDTH)), ("bucket_low", (COMPONENTS,)),
                           ("bucket_width", (COMPONENTS,)), ("dot_low", (1,)), ("dot_width", (1,))):
            self.register_buffer(name, torch.zeros(size))

    @torch.no_grad()
    def fit(self, z, dots):
        """Principal components of embeddings, and buckets that hold them but for a share of 1e-4 at either end."""
        self.pca_mean.copy_(z.mean(0))
        _, vectors = torch.linalg.eigh(torch.cov(z.T.double()))
        self.pca_components.copy_(vectors.flip(1).T[:COMPONENTS])
        c = self.components(z)
        for low, width, values, count in ((self.bucket_low, self.bucket_width, c, BUCKETS),
                                          (self.dot_low, self.dot_width, dots[:, None], DOTS)):
            ends = torch.quantile(values, torch.tensor([1e-4, 1 - 1e-4]), 0)
            low.copy_(ends[0])
            width.copy_((ends[1] - ends[0]) / count)

    def components(self, z):
        return (z - self.pca_mean) @ self.pca_components.T

    def quantise(self, c):
        return ((c - self.bucket_low) / self.bucket_width).floor().long().clamp(0, BUCKETS - 1)

    def embedding(self, index):
        return self.pca_mean + (self.bucket_low + (index + 0.5) * self.bucket_width) @ self.pca_components

    def dot(self, dots):
        return ((dots - self.dot_low) / self.dot_width).floor().long().clamp(0, DOTS - 1)

    def forward(self, states, embeds, mask, dots, index):
        """Captions as Clip reads them (their padding may be cut), dots [n], the components so far [n, at most K - 1]."""
        length = states.shape[1]
        h = torch.cat([self.text_states_proj(states), self.text_embed_proj(embeds)[:, None],
                       self.dot_embedding(dots)[:, None], self.component_embedding(index)], 1)
        after = h.shape[1] - length
        h = h + torch.cat([self.positional_embedding[:length], self.positional_embedding[LENGTH:LENGTH + after]])
        mask = F.pad(mask, (0, after), value=True)
        hidden = torch.where(torch.ones(h.shape[1], h.shape[1], dtype=torch.bool).tril() & mask[:, None], 0.0, -10000.0)
        for block in self.transformer_blocks:
            h = block(h, hidden[:, None])
        return self.to_logits(self.norm_out(h[:, length + 1:]))


class Autoregressive:
    """Draws a picture's embedding for a caption component by component (section 2.2)."""
    def __init__(self, run, compiled):
        self.clip, self.net = Clip(run, compiled), AutoregressivePrior()
        self.modules = {"prior_ar": self.net}
        z, dots = statistics(run)
        self.net.fit(z, dots)
        self.default = int(self.net.dot(dots.quantile(0.75)))

    batch = Prior.batch

    def loss(self, net, batch, progress):
        x, ids, lens, dropped = batch
        with torch.autocast("cpu", torch.bfloat16):
            z, (states, embeds, mask) = self.clip.pictures(x), self.clip.captions(ids, lens)
            dots = self.net.dot(F.cosine_similarity(z, embeds.float())).masked_fill(dropped, DOTS)
        index = self.net.quantise(self.net.components(z))
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(states, embeds, mask, dots, index[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), index.flatten())

    @torch.no_grad()
    def sample(self, texts, scale=1.0, temperature=1.0, seed=0):
        n, g = len(texts), torch.Generator().manual_seed(seed)
        both = [torch.cat(p) for p in zip(self.clip.read([""] * n, SHORT), self.clip.read(texts, SHORT))]
        dots = torch.tensor([DOTS] * n + [self.default] * n)
        index = torch.zeros(n, 0, dtype=torch.long)
        for _ in range(COMPONENTS):
            u, c = self.net(*both, dots, torch.cat([index, index]))[:, -1].chunk(2)
            p = ((u + scale * (c - u)) / temperature).softmax(-1)
            index = torch.cat([index, torch.multinomial(p, 1, generator=g)], 1)
        return self.net.embedding(index)

    def peek(self):
        return None, 0, [f"scale {s:g}, temperature {t:g}: {score(self, self.sample, scale=s, temperature=t)}"
                         for s, t in ((1.0, 1.0), (1.0, 0.5), (2.0, 0.5), (4.0, 1.0))]


def score(task, sample, count=100, **options):
    """What CLIP says of embeddings drawn for captions of new scenes."""
    rng, made, keys = np.random.default_rng([7, 77]), [], set()
    while len(made) < count:
        s = scenes.sample_scene(rng, plain=True)
        if (key := tuple(scenes.labels(s))) not in keys:
            keys.add(key)
            made.append(s)
    texts = [s.caption for s in made]
    true = task.clip.pictures(to_tensor(scenes.render(made, 32)))
    said = task.clip.read(texts, SHORT)[1]
    drawn = sample(texts, **options)
    words = []
    for name, z in (("drawn", drawn), ("true", true)):
        fit = clip.unit(z) @ clip.unit(said).T
        right = (fit.argmax(1) == torch.arange(count)).float().mean()
        words.append(f"{name} fits its caption {fit.diagonal().mean():.3f}, best of {count} for {right:.2f}")
    near = clip.unit(drawn) @ clip.unit(true).T
    hit = (near.argmax(1) == torch.arange(count)).float().mean()
    return f"{words[0]}; near its picture's {near.diagonal().mean():.3f}, nearest of {count} for {hit:.2f}; {words[1]}"


# ---------------------------------------------------------------- enlargers

ENLARGERS = {                 # sides before and after, channels by level; what its weights begin at
    "super_res": dict(low=32, px=256, channels=(16, 16, 32, 64), groups=8, begin=("sr256.pt", "unet")),
    "upsampler": dict(low=256, px=1024, channels=(16, 16, 32, 64), groups=8, begin=("super_res.pt", "super_res")),
}
CROP = 64
MARGIN = 4                    # pixels of the low picture around a crop


def enlarger(stage):
    c = ENLARGERS[stage]
    levels = len(c["channels"])
    return UNet2DModel(
        sample_size=c["px"], in_channels=6, out_channels=3, down_block_types=("ResnetDownsampleBlock2D",) * levels,
        up_block_types=("ResnetUpsampleBlock2D",) * levels, block_out_channels=c["channels"], layers_per_block=1,
        norm_num_groups=c["groups"], act_fn="gelu", resnet_time_scale_shift="scale_shift", add_attention=False)


@torch.no_grad()
def inherit_time(net, run):
    """Fits the time embedding to that of sr256, which adds a noise level and a caption to it: there, a low level and
    what captions come to on average. Without it, what else is inherited begins as noise."""
    old, tok = model.unet("sr256"), model.Tokenizer(run / "spiece.model")
    t5, rng = model.text_encoder(tok.vocab), np.random.default_rng(0)
    old.load_state_dict(torch.load(run / "sr256.pt", map_location="cpu")["ema"]["unet"])
    t5.load_state_dict(torch.load(run / "text.pt", map_location="cpu")["ema"]["t5"])
    t, level = torch.arange(model.STEPS), torch.tensor([20])
    texts = [scenes.sample_scene(rng).caption for _ in range(64)]
    states = model.encode(t5, tok(texts))
    want = (old.time_embedding(old.time_proj(t)) + old.class_embedding(old.time_proj(level))
            + old.add_embedding(states).mean(0))
    mlp = net.time_embedding
    h = F.silu(mlp.linear_1(net.time_proj(t)))
    found = torch.linalg.lstsq(F.pad(h, (0, 1), value=1.0).double(), want.double(), driver="gelsd").solution.float()
    mlp.linear_2.weight.copy_(found[:-1].T)
    mlp.linear_2.bias.copy_(found[-1])


def enlarged(low, px):
    """As Karlo's pipeline shows the small picture to its enlarger."""
    return F.interpolate(low.clamp(-1, 1), (px, px), mode="bicubic", antialias=True)


def worn(low):
    """Small pictures as a stage before might leave them: blurred and noisy, each by a little of its own."""
    n = len(low)
    sigma = 0.6 * torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.7) + 1e-3
    at = torch.arange(-2, 3).float()
    k = (-at ** 2 / (2 * sigma ** 2)).exp()[..., 0, :]               # [n, 1, 5]
    k = k / k.sum(-1, keepdim=True)
    k = (k[..., None] * k[:, :, None]).repeat_interleave(3, 0)       # [3n, 1, 5, 5]
    flat = F.pad(low.reshape(1, 3 * n, *low.shape[2:]), (2, 2, 2, 2), mode="replicate")
    low = F.conv2d(flat, k, groups=3 * n).view(low.shape)
    return low + 0.1 * torch.rand(n, 1, 1, 1) ** 2 * torch.randn_like(low)


class Enlarger:
    """Enlarges a picture; trained on crops, most of them about an object's outline or texture."""
    def __init__(self, stage, run, compiled):
        self.run, self.stage, self.c, self.acp = run, stage, ENLARGERS[stage], model.alpha_bar()
        self.net = enlarger(stage).to(memory_format=torch.channels_last)
        self.modules = {stage: self.net}
        inherit(self.net, run / self.c["begin"][0], self.c["begin"][1])
        if stage == "super_res" and all((run / name).exists() for name in ("sr256.pt", "text.pt", "spiece.model")):
            inherit_time(self.net, run)

    def batch(self, n, rng, step):
        low, px = self.c["low"], self.c["px"]
        times, side = px // low, CROP // (px // low) + 2 * MARGIN
        made = [scenes.sample_scene(rng) for _ in range(n)]
        at = rng.uniform(0, 1, size=(n, 2))
        for i, s in enumerate(made):
            if rng.random() < 0.85:
                t = s.things[rng.integers(len(s.things))]
                far = t.size * rng.uniform(0, 0.55)      # from the object's middle
                angle = rng.uniform(0, 2 * np.pi)
                at[i] = t.cx + far * np.cos(angle), t.cy + far * np.sin(angle)
        # The window's corner in pixels of the low picture; what lies outside the picture is its border, continued.
        at = (at * low - side / 2).round().astype(int)
        lows, rows = [], np.arange(side)
        if low <= 64:
            whole = to_tensor(scenes.render(made, low))
            at = at.clip(-MARGIN, low - side + MARGIN)
            for p, (x, y) in zip(whole, at):
                lows.append(p[:, (y + rows).clip(0, low - 1)][:, :, (x + rows).clip(0, low - 1)])
            lows = torch.stack(lows)
        else:
            at = at.clip(0, low - side)
            lows = to_tensor(scenes.render(made, side, np.concatenate([at, np.full((n, 1), side)], 1) / low))
        window = np.concatenate([at + MARGIN, np.full((n, 1), CROP // times)], 1) / low
        x = to_tensor(scenes.render(made, CROP, window))
        m = MARGIN * times
        return x, enlarged(worn(lows), side * times)[:, :, m:-m, m:-m].contiguous()

    def loss(self, net, batch, progress):
        x, low = (p.contiguous(memory_format=torch.channels_last) for p in batch)
        t, noise = spread_times(len(x), model.STEPS), torch.randn_like(x)
        a = self.acp[t]
        with torch.autocast("cpu", torch.bfloat16):
            v = net(torch.cat([model.mix(x, noise, a), low], 1), t).sample
        err = (v.float() - model.velocity(x, noise, a)).square().mean((1, 2, 3))
        return (err * model.v_weight(a)).mean()

    @torch.no_grad()
    def sample(self, low, steps, seed=0):
        """DDIM from pictures of any size."""
        low = enlarged(low, low.shape[-1] * self.c["px"] // self.c["low"])
        x = torch.randn(low.shape, generator=torch.Generator().manual_seed(seed))
        ts = [round(model.STEPS - i * model.STEPS / steps) - 1 for i in range(steps)]
        for i, t in enumerate(ts):
            with torch.autocast("cpu", torch.bfloat16):
                v = self.net(torch.cat([x, low], 1).contiguous(memory_format=torch.channels_last), t).sample.float()
            a, b = self.acp[t], self.acp[ts[i + 1]] if i + 1 < steps else torch.tensor(1.0)
            x0 = (a.sqrt() * x - (1 - a).sqrt() * v).clamp(-1, 1)
            x = b.sqrt() * x0 + (1 - b).sqrt() * (x - a.sqrt() * x0) / (1 - a).sqrt()
        return x

    def peek(self):
        """Columns: enlarged bicubic, drawn, true; a quarter of the picture in the upsampler's case."""
        rng = np.random.default_rng([6, 77])
        made = [scenes.sample_scene(rng, plain=True) for _ in range(6)]
        low, px = self.c["low"], self.c["px"]
        share = 256 / px
        at = np.array([[np.clip(v - share / 2, 0, 1 - share) for v in (s.things[0].cx, s.things[0].cy)] for s in made])
        at = (at * low).round() / low
        window = np.concatenate([at, np.full((6, 1), share)], 1)
        small, x = (to_tensor(scenes.render(made, p, window)) for p in (round(low * share), 256))
        plain, words = enlarged(small, 256), []
        rms = lambda y: f"{(y - x).square().mean().sqrt():.4f}"
        for steps in (1, 2, 4, 7):
            y = self.sample(small, steps)
            hurt = self.sample(small + 0.05 * torch.randn(small.shape, generator=torch.Generator().manual_seed(1)), steps)
            words.append(f"{steps} steps: rms {rms(y)}, of grainy ones {rms(hurt)}, bicubic {rms(plain)}")
        return torch.cat([plain, hurt, y, x]), 6, words


TASKS = {"decoder": Decoder, "prior": Prior, "ar_prior": Autoregressive,
         **{k: partial(Enlarger, k) for k in ENLARGERS}}
BATCH = {"decoder": 32, "prior": 64, "ar_prior": 64, "super_res": 16, "upsampler": 16}
RATE = {"decoder": 1e-3, "prior": 1e-3, "ar_prior": 1e-3, "super_res": 1e-3, "upsampler": 1e-3}
MINUTES = {"decoder": 55.0, "prior": 12.0, "ar_prior": 15.0, "super_res": 12.0, "upsampler": 15.0}


# ---------------------------------------------------------------- looking

def load_run(run, stage):
    """A stage with its averaged weights."""
    task, ck = TASKS[stage](run, False), torch.load(run / f"{stage}.pt", map_location="cpu")
    for k, m in task.modules.items():
        m.load_state_dict(ck["ema"][k])
        m.eval()
    print(f"{stage}: {ck['seen']} pictures, {ck['spent'] / 60:.1f} min")
    return task


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--run", default="runs/unclip", type=Path)
    ap.add_argument("--stages", default="prior,ar_prior,decoder,super_res,upsampler")
    ap.add_argument("--count", type=int, default=100, help="captions")
    args = ap.parse_args()
    for stage in args.stages.split(","):
        task, start = load_run(args.run, stage), time.time()
        if stage == "prior":
            for scale in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
                start = time.time()
                words = score(task, task.sample, args.count, scale=scale)
                print(f"  scale {scale:g}: {words}, {time.time() - start:.1f} s", flush=True)
        elif stage == "ar_prior":
            for scale, temperature in ((1.0, 1.0), (1.0, 0.7), (1.0, 0.3), (1.5, 1.0), (2.0, 1.0), (2.0, 0.5), (4.0, 1.0)):
                start = time.time()
                words = score(task, task.sample, args.count, scale=scale, temperature=temperature)
                print(f"  scale {scale:g}, temperature {temperature:g}: {words}, {time.time() - start:.1f} s", flush=True)
        else:
            from train import show
            pictures, columns, words = task.peek()
            show(args.run, f"{stage}_judged", pictures, columns)
            print("\n".join(f"  {w}" for w in words), flush=True)


if __name__ == "__main__":
    main()
