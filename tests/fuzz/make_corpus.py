#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets into corpus/NAME/. What fuzzing finds is added beside them by hand.

Run it in tests/fuzz; the output is reproducible.
"""

import json
import os
import random
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACK = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
TYPE_F32, TYPE_F16, TYPE_Q8_0 = 0, 1, 8


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def value(kind, v):
    return string(v) if kind == STRING else struct.pack("<" + PACK[kind], v)


def scalar(key, kind, v):
    return string(key) + struct.pack("<I", kind) + value(kind, v)


def array(key, kind, vs):
    return string(key) + struct.pack("<IIQ", ARRAY, kind, len(vs)) + b"".join(value(kind, v) for v in vs)


def gguf(metadata, tensors, version=3):
    records, data = b"", b""
    for name, dims, kind, body in tensors:
        records += string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        records += struct.pack("<IQ", kind, len(data))
        data += body + b"\0" * (-len(body) % 32)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + b"".join(metadata) + records
    return head + b"\0" * (-len(head) % 32) + data


def spm_vocabulary():
    tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xFF>", "\u2581", "ab", "<|im_end|>"] + [chr(97 + i) for i in range(26)]
    types = [2, 3, 3, 6, 6, 1, 1, 3] + [1] * 26
    return len(tokens), [
        scalar("tokenizer.ggml.model", STRING, "llama"), array("tokenizer.ggml.tokens", STRING, tokens),
        array("tokenizer.ggml.scores", F32, [-i for i in range(len(tokens))]),
        array("tokenizer.ggml.token_type", I32, types), scalar("tokenizer.ggml.bos_token_id", U32, 1),
        scalar("tokenizer.ggml.eos_token_id", U32, 2),
    ]


def bpe_vocabulary():
    tokens, other = [], 256
    for b in range(256):
        printable = 33 <= b <= 126 or (b >= 161 and b != 173)
        tokens.append(chr(b if printable else other))
        other += 0 if printable else 1
    tokens += ["ab", "abc", "<|im_end|>", "<|endoftext|>"]
    return len(tokens), [
        scalar("tokenizer.ggml.model", STRING, "gpt2"), scalar("tokenizer.ggml.pre", STRING, "qwen2"),
        array("tokenizer.ggml.tokens", STRING, tokens), array("tokenizer.ggml.merges", STRING, ["a b", "ab c"]),
        array("tokenizer.ggml.token_type", I32, [1] * 258 + [3, 3]), scalar("tokenizer.ggml.eos_token_id", U32, 259),
    ]


def model(rng, vocabulary, kind=TYPE_F16, width=8, more=()):
    n_vocab, keys = vocabulary
    head = 8 if width < 64 else 64
    keys = [
        scalar("general.architecture", STRING, "llama"), scalar("llama.context_length", U32, 64),
        scalar("llama.embedding_length", U32, width), scalar("llama.block_count", U32, 1),
        scalar("llama.feed_forward_length", U32, width), scalar("llama.attention.head_count", U32, width // head),
        scalar("llama.attention.head_count_kv", U32, 1),
        scalar("llama.attention.layer_norm_rms_epsilon", F32, 1e-5), *keys, *more,
    ]

    def matrix(name, cols, rows):
        if kind == TYPE_F16:
            body = b"".join(struct.pack("<e", rng.gauss(0, 1)) for _ in range(cols * rows))
        elif kind == TYPE_Q8_0:
            block = lambda: struct.pack("<e", 0.01) + bytes(rng.randrange(256) for _ in range(32))
            body = b"".join(block() for _ in range(cols * rows // 32))
        return name, (cols, rows), kind, body

    def norm(name):
        return name, (width,), TYPE_F32, struct.pack(f"<{width}f", *[1.0] * width)

    b, kv = "blk.0.", head
    return gguf(keys, [
        matrix("token_embd.weight", width, n_vocab), norm("output_norm.weight"), norm(b + "attn_norm.weight"),
        matrix(b + "attn_q.weight", width, width), matrix(b + "attn_k.weight", width, kv),
        matrix(b + "attn_v.weight", width, kv), matrix(b + "attn_output.weight", width, width),
        norm(b + "ffn_norm.weight"), matrix(b + "ffn_gate.weight", width, width),
        matrix(b + "ffn_up.weight", width, width), matrix(b + "ffn_down.weight", width, width),
    ])


def arch_model(rng, arch, width=16, head=8, n_expert=0, n_used=0):
    """What llama seeds lack: biases (qwen2), or norms of queries and keys and experts with a bias (minimax-m2)."""
    n_vocab, keys = spm_vocabulary()
    p, b, heads, kv = arch + ".", "blk.0.", width // head, head
    keys = [
        scalar("general.architecture", STRING, arch), scalar(p + "context_length", U32, 64),
        scalar(p + "embedding_length", U32, width), scalar(p + "block_count", U32, 1),
        scalar(p + "feed_forward_length", U32, width), scalar(p + "attention.head_count", U32, heads),
        scalar(p + "attention.head_count_kv", U32, 1), scalar(p + "attention.key_length", U32, head),
        scalar(p + "attention.value_length", U32, head), scalar(p + "rope.dimension_count", U32, head),
        scalar(p + "attention.layer_norm_rms_epsilon", F32, 1e-5), *keys,
    ]
    if n_expert:
        keys += [scalar(p + "expert_count", U32, n_expert), scalar(p + "expert_used_count", U32, n_used),
                 scalar(p + "expert_feed_forward_length", U32, width), scalar(p + "expert_gating_func", U32, 2)]

    def tensor(name, *dims, kind=TYPE_F16):
        n = 1
        for dim in dims:
            n *= dim
        body = b"".join(struct.pack("<e" if kind == TYPE_F16 else "<f", rng.gauss(0, 1)) for _ in range(n))
        return name, dims, kind, body

    def vector(name, n):
        return tensor(name, n, kind=TYPE_F32)

    tensors = [
        tensor("token_embd.weight", width, n_vocab), vector("output_norm.weight", width),
        tensor("output.weight", width, n_vocab), vector(b + "attn_norm.weight", width),
        tensor(b + "attn_q.weight", width, width), tensor(b + "attn_k.weight", width, kv),
        tensor(b + "attn_v.weight", width, kv), tensor(b + "attn_output.weight", width, width),
        vector(b + "ffn_norm.weight", width),
    ]
    if arch == "qwen2":
        tensors += [vector(b + "attn_q.bias", width), vector(b + "attn_k.bias", kv), vector(b + "attn_v.bias", kv)]
    if arch == "minimax-m2":
        tensors += [vector(b + "attn_q_norm.weight", width), vector(b + "attn_k_norm.weight", kv),
                    vector(b + "exp_probs_b.bias", n_expert)]
    if n_expert:
        tensors += [tensor(b + "ffn_gate_inp.weight", width, n_expert, kind=TYPE_F32)]
        tensors += [tensor(f"{b}ffn_{which}_exps.weight", width, width, n_expert) for which in ("gate", "up", "down")]
    else:
        tensors += [tensor(f"{b}ffn_{which}.weight", width, width) for which in ("gate", "up", "down")]
    return gguf(keys, tensors)


def gguf_seeds(rng):
    yarn = [scalar("llama.rope.scaling.type", STRING, "yarn"), scalar("llama.rope.scaling.factor", F32, 4),
            scalar("llama.rope.scaling.original_context_length", U32, 16)]
    extremes = {U8: 255, I8: -128, U16: 65535, I16: -32768, U32: 2**32 - 1, I32: -2**31, F32: float("inf"), BOOL: 1,
                STRING: b"\xff\0x", U64: 2**64 - 1, I64: -2**63, F64: float("nan")}
    metadata = [scalar(f"k{kind}", kind, v) for kind, v in extremes.items()]
    metadata += [array(f"a{kind}", kind, [] if kind == U64 else [v, v]) for kind, v in extremes.items()]
    yield "metadata.gguf", gguf(metadata + [scalar("general.alignment", U32, 64)], [], version=2)
    yield "spm.gguf", model(rng, spm_vocabulary())
    yield "bpe.gguf", model(rng, bpe_vocabulary())
    yield "q8_0-yarn.gguf", model(rng, spm_vocabulary(), TYPE_Q8_0, 32, yarn)
    split = [scalar("split.count", U16, 2), scalar("split.tensors.count", I32, 2)]
    parts = [gguf([scalar("split.no", U16, i)] + split, [(f"t{i}", (8,), TYPE_F32, bytes(32))]) for i in range(2)]
    yield "two-parts.gguf", parts[0] + parts[1]  # of one length: the target cuts it in the middle
    yield "qwen2.gguf", arch_model(rng, "qwen2")
    yield "minimax-m2.gguf", arch_model(rng, "minimax-m2", n_expert=4, n_used=2)
    yield "kv-means", kv_means()


def kv_means():
    """The means of K and V of one layer of one head of eight values."""
    values = struct.pack("<16f", *(i / 8 for i in range(16)))
    fnv = 0xCBF29CE484222325
    for byte in values:
        fnv = (fnv ^ byte) * 0x100000001B3 % 2**64
    return b"TBQMEANS" + struct.pack("<6I2Q", 1, 1, 1, 8, 100, 0, 7, fnv) + values


def tokenizer_seeds():
    texts = ["Hello, world!  It's 12345 o'clock.\n\n\tx", "<|im_start|>user\nab<|im_end|><tool>xy", "caf\u00e9 \u4e2d\u6587 \U0001f600\u200d",
             "a" * 70 + " " * 70]
    for which in range(9):
        yield f"words-{which}", bytes([which]) + texts[which % 4].encode()
    for which in (0, 3, 6):
        yield f"special-{which}", bytes([0x80 | which]) + texts[1].encode()
    yield "no-utf8", b"\x00\xff\xfe\xc3(\xf0\x9f\x98\0\x80z\xe2\x96"
    yield "no-utf8-bpe", b"\x02\xff\xfe\xc3(\xf0\x9f\x98\0\x80z\xed\xa0\x80"


def request_seeds():
    yield "completion", {"prompt": "ab", "n_predict": 8, "temperature": 0.5, "top_k": 4, "top_p": 0.9, "min_p": 0.1,
                         "seed": 7, "stop": ["x", "\n"], "stream": True, "cache_prompt": False, "id_slot": 0,
                         "n_probs": 3, "logit_bias": [[5, 1.5], ["ab", False]], "ignore_eos": True,
                         "response_fields": ["content", "timings/predicted_n"], "samplers": ["top_k", "temperature"]}
    yield "mixed", {"prompt": ["a<|im_end|>", 5, 6, "b"], "max_tokens": -1, "logit_bias": {"5": -100}}
    yield "several", {"prompt": [[1, 2], "x", [3]], "echo": False, "logprobs": 2}
    yield "chat", {"model": "m", "messages": [{"role": "system", "content": "be brief"},
                                              {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                                              {"role": "assistant", "content": None}],
                   "max_completion_tokens": 5, "stream_options": {"include_usage": True}, "logprobs": True,
                   "top_logprobs": 2, "chat_template_kwargs": {"enable_thinking": False}, "reasoning_format": "none"}
    yield "tokens", {"tokens": [1, 2, 33], "content": "a\ud83d\ude00", "with_pieces": True, "add_special": True}
    yield "reconfigure", {"ctx_size": 512, "cache_type_k": "q8_0", "flash_attn": "off", "n_batch": "64",
                          "n_threads": 2, "n_draft": 4, "parallel": 2}
    yield "deep", "[" * 200
    yield "broken", b'{"prompt": "\xff\\ud800", "seed": 1e999}'


def plugin_seeds():
    point = {"n_threads": 2, "cache_type_k": "q8_0", "mmap": False}
    several = {"proposals": [{"params": point, "rationale": "a\nb"}, {"params": {**point, "n_threads": 4}},
                             {"params": point}, {"params": {**point, "n_threads": "2"}}, {"params": [1]}, 7, {}],
               "usage": {"input_tokens": 12, "output_tokens": -1, "cost_usd": 0.5}, "error": "no more"}
    yield "several", several
    yield "none", {"proposals": [], "error": "out of budget"}
    yield "long", {"proposals": [{"params": {**point, "mmap": "x" * 300}}] * 66}
    yield "anthropic", {"stop_reason": "tool_use", "usage": {"input_tokens": 5, "output_tokens": 6},
                        "content": [{"type": "text", "text": "so"},
                                    {"type": "tool_use", "name": "propose", "input": several}]}
    yield "anthropic-cut", {"stop_reason": "max_tokens", "content": None, "usage": 3}
    yield "openai", {"choices": [{"finish_reason": "stop", "message": {
        "content": "```json\n" + json.dumps(several) + "\n```"}}], "usage": {"prompt_tokens": 1e300}}
    yield "openai-refusal", {"choices": [{"message": {"refusal": "no"}}], "error": {"message": ["x"]}}
    yield "no-utf8", b'{"proposals": [{"params": {"n_threads": 1, "cache_type_k": "\xff\xfe"}}], "error": "\xc3("}'
    yield "deep", "[" * 200


def main():
    rng = random.Random(4)
    for target, seeds in (("gguf", gguf_seeds(rng)), ("tokenizer", tokenizer_seeds()), ("request", request_seeds()),
                          ("plugin", plugin_seeds())):
        os.makedirs(f"corpus/{target}", exist_ok=True)
        for name, seed in seeds:
            if isinstance(seed, dict):
                seed = json.dumps(seed)
            with open(f"corpus/{target}/{name}", "wb") as file:
                file.write(seed.encode() if isinstance(seed, str) else seed)


if __name__ == "__main__":
    main()
