"""The demo model's network: llama architecture, written plainly. Shapes: B batch, T tokens."""
import torch
import torch.nn as nn
import torch.nn.functional as F

D, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, ROPE_BASE, EPS = 256, 5, 2, 1, 128, 640, 50000.0, 1e-5


def rms_norm(x, weight):
    scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + EPS)
    return x * scale.to(x.dtype) * weight.to(x.dtype)


def rope(x, cos, sin):
    """Rotates pairs (2i, 2i+1) of (B, heads, T, HEAD_DIM)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Block(nn.Module):
    # Parameter names are short because export_gguf.py maps them to llama.cpp's one by one.
    def __init__(self):
        super().__init__()
        self.an, self.fn = nn.Parameter(torch.ones(D)), nn.Parameter(torch.ones(D))
        self.q = nn.Linear(D, HEADS * HEAD_DIM, bias=False)
        self.k = nn.Linear(D, KV_HEADS * HEAD_DIM, bias=False)
        self.v = nn.Linear(D, KV_HEADS * HEAD_DIM, bias=False)
        self.o = nn.Linear(HEADS * HEAD_DIM, D, bias=False)
        self.g, self.u = nn.Linear(D, FFN, bias=False), nn.Linear(D, FFN, bias=False)
        self.d = nn.Linear(FFN, D, bias=False)


class Model(nn.Module):
    def __init__(self, n_vocab):
        super().__init__()
        self.e = nn.Embedding(n_vocab, D)
        self.b = nn.ModuleList(Block() for _ in range(LAYERS))
        self.n = nn.Parameter(torch.ones(D))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02 if isinstance(module, nn.Embedding) else D**-0.5 * 0.7)
        for block in self.b:  # residual branches start small
            block.o.weight.data *= (2 * LAYERS) ** -0.5
            block.d.weight.data *= (2 * LAYERS) ** -0.5

    def forward(self, tokens):
        """(B, T) ids -> (B, T, D) normed hidden states; logits are those times the tied embedding."""
        batch, length = tokens.shape
        x = self.e(tokens).bfloat16()
        angles = torch.outer(torch.arange(length).float(),
                             ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM))
        cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
        mask = torch.full((length, length), float("-inf"), dtype=torch.bfloat16).triu(1)

        def heads(y, n):
            return y.view(batch, length, n, HEAD_DIM).transpose(1, 2)

        for block in self.b:
            h = rms_norm(x, block.an)
            q, k = rope(heads(block.q(h), HEADS), cos, sin), rope(heads(block.k(h), KV_HEADS), cos, sin)
            v = heads(block.v(h), KV_HEADS)
            k, v = (y.repeat_interleave(HEADS // KV_HEADS, 1) for y in (k, v))
            weights = torch.softmax((q * HEAD_DIM**-0.5) @ k.transpose(-1, -2) + mask, -1)
            x = x + block.o((weights @ v).transpose(1, 2).reshape(batch, length, HEADS * HEAD_DIM))
            h = rms_norm(x, block.fn)
            x = x + block.d(F.silu(block.g(h)) * block.u(h))
        return rms_norm(x, self.n)

    def logits(self, tokens):
        return F.linear(self(tokens), self.e.weight)
