#!/usr/bin/env python3
"""Writes a trained demo model as GGUF v3.  usage: export_gguf.py CHECKPOINT OUT f32|f16|q8_0

Needs numpy, torch, sentencepiece and tok.model beside it.
"""
import struct
import sys

import numpy as np
import sentencepiece as spm
import torch

import network as net

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
FORMATS = {"f32": (0, 0), "f16": (1, 1), "q8_0": (8, 7)}  # name -> (ggml type, general.file_type)
U32, I32, FLOAT, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # GGUF value types
LAYER_TENSORS = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "g": "ffn_gate", "u": "ffn_up",
                 "d": "ffn_down"}
N_CTX = 4096


def q8_0(x):
    """Rows of 32-value blocks: fp16 scale d = max|x|/127, then 32 int8."""
    blocks = x.reshape(-1, 32).astype(np.float32)
    d = (np.abs(blocks).max(1) / 127).astype(np.float32)
    inverse = np.where(d > 0, 1 / np.maximum(d, 1e-30), 0)
    out = np.empty((len(blocks), 34), np.uint8)
    out[:, :2] = d.astype(np.float16)[:, None].view(np.uint8)
    out[:, 2:] = np.round(blocks * inverse[:, None]).astype(np.int8).view(np.uint8)
    return out.tobytes()


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


class Writer:
    ALIGN = 32

    def __init__(self):
        self.metadata, self.tensors = [], []

    def put(self, key, kind, payload):
        self.metadata.append(string(key) + struct.pack("<I", kind) + payload)

    def u32(self, key, value):
        self.put(key, U32, struct.pack("<I", value))

    def f32(self, key, value):
        self.put(key, FLOAT, struct.pack("<f", value))

    def boolean(self, key, value):
        self.put(key, BOOL, struct.pack("<B", value))

    def text(self, key, value):
        self.put(key, STRING, string(value))

    def array(self, key, kind, items):
        if kind == STRING:
            body = b"".join(map(string, items))
        else:
            body = struct.pack(f"<{len(items)}{'f' if kind == FLOAT else 'i'}", *items)
        self.put(key, ARRAY, struct.pack("<IQ", kind, len(items)) + body)

    def tensor(self, name, x, ggml_type):
        data = q8_0(x) if ggml_type == 8 else x.astype(np.float16 if ggml_type == 1 else np.float32).tobytes()
        self.tensors.append((name, x.shape[::-1], ggml_type, data))

    def save(self, path):
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(self.tensors), len(self.metadata)) + b"".join(self.metadata)
        offset, blobs = 0, []
        for name, shape, ggml_type, data in self.tensors:
            head += string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            head += struct.pack("<IQ", ggml_type, offset)
            blobs.append(data + b"\0" * (-len(data) % self.ALIGN))
            offset += len(blobs[-1])
        with open(path, "wb") as out:
            out.write(head + b"\0" * (-len(head) % self.ALIGN))
            out.writelines(blobs)


def main():
    if len(sys.argv) != 4 or sys.argv[3] not in FORMATS:
        raise SystemExit(__doc__)
    ggml_type, file_type = FORMATS[sys.argv[3]]
    state = torch.load(sys.argv[1], map_location="cpu")
    tokenizer = spm.SentencePieceProcessor(model_file="tok.model")
    ids = range(tokenizer.vocab_size())

    w = Writer()
    w.text("general.architecture", "llama")
    w.text("general.name", "autoresearch demo 4.5M")
    w.u32("general.file_type", file_type)
    for key, value in {
            "context_length": N_CTX, "embedding_length": net.D, "block_count": net.LAYERS,
            "feed_forward_length": net.FFN, "vocab_size": len(ids), "attention.head_count": net.HEADS,
            "attention.head_count_kv": net.KV_HEADS, "attention.key_length": net.HEAD_DIM,
            "attention.value_length": net.HEAD_DIM, "rope.dimension_count": net.HEAD_DIM}.items():
        w.u32("llama." + key, value)
    w.f32("llama.attention.layer_norm_rms_epsilon", net.EPS)
    w.f32("llama.rope.freq_base", net.ROPE_BASE)

    def token_type(i):
        return (6 if tokenizer.is_byte(i) else 2 if tokenizer.is_unknown(i) else 3 if tokenizer.is_control(i) else 1)

    w.text("tokenizer.ggml.model", "llama")
    w.text("tokenizer.ggml.pre", "default")
    w.array("tokenizer.ggml.tokens", STRING, [tokenizer.id_to_piece(i) for i in ids])
    w.array("tokenizer.ggml.scores", FLOAT, [tokenizer.get_score(i) for i in ids])
    w.array("tokenizer.ggml.token_type", I32, [token_type(i) for i in ids])
    w.u32("tokenizer.ggml.bos_token_id", 1)
    w.u32("tokenizer.ggml.eos_token_id", tokenizer.piece_to_id("<|im_end|>"))
    w.u32("tokenizer.ggml.unknown_token_id", 0)
    w.boolean("tokenizer.ggml.add_bos_token", True)
    w.boolean("tokenizer.ggml.add_eos_token", False)
    w.boolean("tokenizer.ggml.add_space_prefix", True)
    w.text("tokenizer.chat_template", CHAT_TEMPLATE)

    def weights(name):
        return state[name].float().numpy()

    w.tensor("token_embd.weight", weights("e.weight"), ggml_type)
    w.tensor("output_norm.weight", weights("n"), 0)
    for i in range(net.LAYERS):
        w.tensor(f"blk.{i}.attn_norm.weight", weights(f"b.{i}.an"), 0)
        w.tensor(f"blk.{i}.ffn_norm.weight", weights(f"b.{i}.fn"), 0)
        for short, name in LAYER_TENSORS.items():
            w.tensor(f"blk.{i}.{name}.weight", weights(f"b.{i}.{short}.weight"), ggml_type)
    w.save(sys.argv[2])


if __name__ == "__main__":
    main()
