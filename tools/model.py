"""The networks of the scenes cascade, their tokenizer and their noise schedule.

Two U-Nets in the DeepFloyd-IF configuration (text_proj states, pooled text in the time embedding,
added-key attention, scale-shift residual blocks) and one small T5 v1.1 encoder they share:
  base   32 px, text to picture
  sr256  32 -> 256 px, noise augmented, trained on crops (text by the pooled states and in the middle block)
All predict v under the cosine schedule. Trained with three output channels; `export.py` pads six.
"""
import io
import math
from collections import Counter

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from sentencepiece import sentencepiece_model_pb2
from transformers import T5Config, T5EncoderModel

import scenes

TOKENS = 77                 # IFPipeline pads every prompt to 77 tokens
TEXT_DIM = 128
STEPS = 1000

# channels, layers per block, which levels attend, and the side of the training picture
STAGES = {
    "base": dict(px=32, channels=(32, 32, 96, 128), layers=(1, 1, 2, 1), attend=(0, 0, 1, 1), only_cross=False, low=None),
    "sr256": dict(px=256, channels=(16, 16, 32, 64), layers=(1, 1, 1, 1), attend=(0, 0, 0, 0), only_cross=True, low=32),
}


def unet(stage, out_channels=3):
    """The U-Net of a stage. Only blocks, options and names that IF checkpoints use."""
    c = STAGES[stage]
    down = ["SimpleCrossAttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in c["attend"]]
    up = ["SimpleCrossAttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(c["attend"])]
    return UNet2DConditionModel(
        sample_size=c["px"], in_channels=6 if c["low"] else 3, out_channels=out_channels,
        down_block_types=tuple(down), up_block_types=tuple(up), mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=c["channels"], layers_per_block=c["layers"], norm_num_groups=8, act_fn="gelu",
        attention_head_dim=32, cross_attention_dim=64, cross_attention_norm="group_norm",
        only_cross_attention=c["only_cross"], encoder_hid_dim=TEXT_DIM, encoder_hid_dim_type="text_proj",
        addition_embed_type="text", addition_embed_type_num_heads=4, resnet_time_scale_shift="scale_shift",
        class_embed_type="timestep" if c["low"] else None)


def text_encoder(vocab):
    """T5 v1.1, its position bias begun with a sense of order: one head looks back, one ahead, one to the
    side of what went before, one anywhere. From T5's near-zero start the bias, which only grows by about
    the learning rate a step, stays too weak for hundreds of thousands of captions to bind words by order."""
    t5 = T5EncoderModel(T5Config(
        vocab_size=vocab, d_model=TEXT_DIM, d_kv=32, d_ff=256, num_layers=3, num_heads=4, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0))
    bias = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data  # 16 buckets back, 16 ahead
    for head, first in ((0, 1), (1, 17)):
        bias[:, head] -= 1.0
        bias[first:first + 3, head] += torch.tensor([4.0, 2.5, 1.5])
    bias[1:16, 2] += 1.5
    bias[17:32, 2] -= 1.5
    return t5


# ---------------------------------------------------------------- text

def train_tokenizer(path, seed=0):
    """A SentencePiece unigram model of the captions with T5's conventions (pad 0, eos 1, unk 2).

    Trained on captions, so letters and common pieces come from there; then every word of the language
    is made a piece of its own, which the trainer's pruning would not do at this size.
    """
    rng = np.random.default_rng(seed)
    lines = [scenes.sample_scene(rng).caption.lower() for _ in range(20000)]
    words = Counter(w for line in lines for w in line.rstrip(".").split())
    lines += [scenes.loosen("a", rng) for _ in range(2000)]
    lines += ["a b c d e f g h i j k l m n o p q r s t u v w x y z", "0 1 2 3 4 5 6 7 8 9 , . ! ? - ' : ;"] * 50
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="unigram", vocab_size=256, hard_vocab_limit=False,
        character_coverage=1.0, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>",
        unk_piece="<unk>", normalization_rule_name="nmt_nfkc", minloglevel=2)
    proto = sentencepiece_model_pb2.ModelProto.FromString(out.getvalue())
    have = {p.piece: p for p in proto.pieces}
    total = sum(words.values())
    for word, n in words.most_common():
        piece = have.get("\u2581" + word) or proto.pieces.add(piece="\u2581" + word)
        piece.score = math.log(n / total)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    with open(path, "wb") as f:
        f.write(proto.SerializeToString())


class Tokenizer:
    """Ids as T5Tokenizer gives them: pieces, eos, pads up to 77."""
    def __init__(self, path):
        self.sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.vocab = (self.sp.get_piece_size() + 63) // 64 * 64

    def __call__(self, texts, unk_rate=0.0, rng=None):
        ids = torch.zeros(len(texts), TOKENS, dtype=torch.long)
        for i, text in enumerate(texts):
            row = self.sp.encode(text.lower().strip())[:TOKENS - 1]
            if unk_rate and rng.random() < unk_rate and row:
                row[rng.integers(len(row))] = 2
            row = row + [1]
            ids[i, :len(row)] = torch.tensor(row)
        return ids


def encode(t5, ids):
    return t5(input_ids=ids, attention_mask=(ids != 0).long())[0]


class Reader(torch.nn.Module):
    """Reads a scene's labels off the text states, a learned query looking for each: what the text encoder is
    trained by.

    The diffusion loss alone teaches a text encoder slowly which colour goes with which shape and where;
    asking outright takes a minute, and the U-Nets start from states that already say so. Off the mean state
    it fails (a loss of 2.3 of 17.7 after 80,000 captions, which object is which stays a guess); with queries,
    as the U-Nets' attention looks too, it is 0.01 after 40,000.
    """
    def __init__(self):
        super().__init__()
        self.queries = torch.nn.Parameter(torch.randn(len(scenes.LABELS), TEXT_DIM) * 0.02)
        self.out = torch.nn.ModuleList(torch.nn.Linear(TEXT_DIM, n) for n in scenes.LABELS)

    def forward(self, states, labels, known):
        states = states.float()
        found = torch.einsum("btd,qd->bqt", states, self.queries).softmax(-1) @ states
        logits = [out(found[:, i]) for i, out in enumerate(self.out)]
        each = sum(F.cross_entropy(x, labels[:, i], reduction="none") for i, x in enumerate(logits))
        return (each * known).mean()


# ---------------------------------------------------------------- noise

def alpha_bar():
    """squaredcos_cap_v2, the cumulative products (float32, as diffusers holds them)."""
    f = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = [min(1 - f((i + 1) / STEPS) / f(i / STEPS), 0.999) for i in range(STEPS)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), 0)


def mix(x, noise, acp):
    """x_t of a clean picture."""
    a = acp.view(-1, 1, 1, 1)
    return a.sqrt() * x + (1 - a).sqrt() * noise


def velocity(x, noise, acp):
    a = acp.view(-1, 1, 1, 1)
    return a.sqrt() * noise - (1 - a).sqrt() * x


def v_weight(acp, gamma=5.0):
    """Loss weight on v: that of the plain v loss, its low-noise end capped in the manner of min-SNR.

    In terms of the clean picture this is min(snr, gamma) + 1. Min-SNR proper, min(snr, gamma), all but
    ignores the noisiest steps, where a picture of few flat shapes gets its composition.
    """
    snr = acp / (1 - acp)
    return (snr.clamp(max=gamma) + 1) / (snr + 1)


def upscale(low, px):
    """The conditioning picture at the stage's size, as IFSuperResolutionPipeline makes it."""
    return F.interpolate(low, (px, px), mode="bilinear", align_corners=True)


@torch.no_grad()
def sample(net, states, empty, px, steps=25, scale=3.0, low=None, level=100, seed=0):
    """A plain DDIM sampler for looking at progress; the measured samples come from diffusers' pipelines."""
    acp = alpha_bar()
    g = torch.Generator().manual_seed(seed)
    n = len(states)
    x = torch.randn(n, 3, px, px, generator=g)
    kw = {}
    if low is not None:
        low = mix(upscale(low, px), torch.randn(n, 3, px, px, generator=g), acp[torch.full((n,), level)])
        kw["class_labels"] = torch.full((2 * n,), level)
    text = torch.cat([empty.expand(n, -1, -1), states])
    ts = [round(STEPS - i * STEPS / steps) - 1 for i in range(steps)]
    for i, t in enumerate(ts):
        inp = x if low is None else torch.cat([x, low], 1)
        u, c = net(torch.cat([inp, inp]), torch.full((2 * n,), t), text, **kw).sample[:, :6].float().chunk(2)
        v = (u + scale * (c - u))[:, :3]
        a, b = acp[t], acp[ts[i + 1]] if i + 1 < steps else torch.tensor(1.0)
        x0 = (a.sqrt() * x - (1 - a).sqrt() * v).clamp(-1, 1)
        eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
        x = b.sqrt() * x0 + (1 - b).sqrt() * eps
    return x.clamp(-1, 1)
