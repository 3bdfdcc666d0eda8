#!/usr/bin/env python3
"""Writes tiny.gguf (a random llama model, F16), tiny.json (tokens) and tiny.logits.f32 (their golden logits).

The forward pass below is the definition in plain Python floats (float64), written apart from the engine: the
golden is what the model means, not what our code once said. Run it in tests/data; the output is reproducible.
"""

import json
import math
import random
import struct

N_VOCAB, N_EMBD, N_LAYER, N_FF = 128, 64, 2, 96
N_HEAD, N_HEAD_KV, HEAD_DIM = 4, 2, 32  # 4 * 32 != 64: head_dim is its own number
EPS, BASE, CONTEXT = 1e-5, 10000.0, 2048
N_TOKENS = 100
F32, F16 = 0, 1


def half(value):
    return struct.unpack("<e", struct.pack("<e", value))[0]


def single(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def make_model(rng):
    """name -> (rows of values, ggml type); a vector is one row."""
    tensors = {}

    def matrix(name, rows, cols, spread=1.0):
        sigma = spread / math.sqrt(cols)
        tensors[name] = ([[half(rng.gauss(0, sigma)) for _ in range(cols)] for _ in range(rows)], F16)

    def norm(name):
        tensors[name] = ([[single(1 + rng.gauss(0, 0.2)) for _ in range(N_EMBD)]], F32)

    matrix("token_embd.weight", N_VOCAB, N_EMBD, 4.0)
    norm("output_norm.weight")
    matrix("output.weight", N_VOCAB, N_EMBD, 1.5)
    for i in range(N_LAYER):
        p = f"blk.{i}."
        norm(p + "attn_norm.weight")
        matrix(p + "attn_q.weight", N_HEAD * HEAD_DIM, N_EMBD, 2.0)
        matrix(p + "attn_k.weight", N_HEAD_KV * HEAD_DIM, N_EMBD, 2.0)
        matrix(p + "attn_v.weight", N_HEAD_KV * HEAD_DIM, N_EMBD)
        matrix(p + "attn_output.weight", N_EMBD, N_HEAD * HEAD_DIM)
        norm(p + "ffn_norm.weight")
        matrix(p + "ffn_gate.weight", N_FF, N_EMBD)
        matrix(p + "ffn_up.weight", N_FF, N_EMBD)
        matrix(p + "ffn_down.weight", N_EMBD, N_FF)
    return tensors


def write_gguf(path, tensors):
    def string(text):
        data = text.encode()
        return struct.pack("<Q", len(data)) + data

    def u32(key, value):
        return string("llama." + key) + struct.pack("<II", 4, value)

    def f32(key, value):
        return string("llama." + key) + struct.pack("<If", 6, value)

    metadata = [
        string("general.architecture") + struct.pack("<I", 8) + string("llama"),
        u32("context_length", CONTEXT), u32("embedding_length", N_EMBD), u32("block_count", N_LAYER),
        u32("feed_forward_length", N_FF), u32("attention.head_count", N_HEAD),
        u32("attention.head_count_kv", N_HEAD_KV), u32("attention.key_length", HEAD_DIM),
        u32("attention.value_length", HEAD_DIM), u32("rope.dimension_count", HEAD_DIM),
        u32("vocab_size", N_VOCAB), f32("rope.freq_base", BASE), f32("attention.layer_norm_rms_epsilon", EPS),
    ]
    records, data = b"", b""
    for name, (rows, kind) in tensors.items():
        dims = [len(rows[0])] + ([len(rows)] if kind == F16 else [])
        records += string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        records += struct.pack("<IQ", kind, len(data))
        for row in rows:
            data += struct.pack(f"<{len(row)}{'e' if kind == F16 else 'f'}", *row)
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata) + records
    with open(path, "wb") as file:
        file.write(head + b"\0" * (-len(head) % 32) + data)


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def apply(rows, x):
    return [dot(row, x) for row in rows]


def rms_norm(x, weight):
    factor = 1 / math.sqrt(math.fsum(v * v for v in x) / len(x) + single(EPS))
    return [v * factor * w for v, w in zip(x, weight)]


def rope(head, pos):
    out = list(head)
    for i in range(HEAD_DIM // 2):
        angle = pos * BASE ** (-2 * i / HEAD_DIM)
        c, s = math.cos(angle), math.sin(angle)
        out[2 * i] = head[2 * i] * c - head[2 * i + 1] * s
        out[2 * i + 1] = head[2 * i] * s + head[2 * i + 1] * c
    return out


def heads(x):
    return [x[i:i + HEAD_DIM] for i in range(0, len(x), HEAD_DIM)]


def softmax(scores):
    top = max(scores)
    weights = [math.exp(s - top) for s in scores]
    total = math.fsum(weights)
    return [w / total for w in weights]


def forward(tensors, tokens):
    def rows(name):
        return tensors[name][0]

    keys = [[] for _ in range(N_LAYER)]  # [layer][position][kv head][dim]
    values = [[] for _ in range(N_LAYER)]
    logits = []
    for pos, token in enumerate(tokens):
        h = list(rows("token_embd.weight")[token])
        for i in range(N_LAYER):
            p = f"blk.{i}."
            x = rms_norm(h, rows(p + "attn_norm.weight")[0])
            q = [rope(head, pos) for head in heads(apply(rows(p + "attn_q.weight"), x))]
            keys[i].append([rope(head, pos) for head in heads(apply(rows(p + "attn_k.weight"), x))])
            values[i].append(heads(apply(rows(p + "attn_v.weight"), x)))
            mixed = []
            for j in range(N_HEAD):
                kv = j // (N_HEAD // N_HEAD_KV)
                weights = softmax([dot(q[j], key[kv]) / math.sqrt(HEAD_DIM) for key in keys[i]])
                mixed += [math.fsum(w * value[kv][d] for w, value in zip(weights, values[i])) for d in range(HEAD_DIM)]
            h = [a + b for a, b in zip(h, apply(rows(p + "attn_output.weight"), mixed))]
            x = rms_norm(h, rows(p + "ffn_norm.weight")[0])
            gate, up = apply(rows(p + "ffn_gate.weight"), x), apply(rows(p + "ffn_up.weight"), x)
            inner = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up)]
            h = [a + b for a, b in zip(h, apply(rows(p + "ffn_down.weight"), inner))]
        logits.append(apply(rows("output.weight"), rms_norm(h, rows("output_norm.weight")[0])))
    return logits


def main():
    rng = random.Random(20)
    tensors = make_model(rng)
    tokens = [rng.randrange(N_VOCAB) for _ in range(N_TOKENS)]
    write_gguf("tiny.gguf", tensors)
    with open("tiny.json", "w") as file:
        json.dump({"tokens": tokens}, file)
        file.write("\n")
    with open("tiny.logits.f32", "wb") as file:
        for row in forward(tensors, tokens):
            file.write(struct.pack(f"<{len(row)}f", *row))


if __name__ == "__main__":
    main()
