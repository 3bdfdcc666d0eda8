#!/usr/bin/env python3
"""Records the greedy continuations of a running llama-server as a fixture for tests/engine/greedy_test.cc.

usage: make_greedy_fixture.py URL > tests/data/greedy_demo_f16.json

Start the peer first, for example: llama-server -m demo-f16.gguf -c 2048 -np 1 --cache-ram 0 --port 8080
For each prompt: the token ids of prompt and continuation, and for each step the distance of the two best logits, since
a continuation may only differ where the two best were almost equal.
"""
import json
import sys
import urllib.request

PROMPTS = [
    "The cache keeps the key and value vectors of past tokens.",
    "A function returns", "The database server", "In Python, a list", "To create a new table, use",
    "The red vault's code is 48213. What is the red vault's code?",
    "<|im_start|>user\nWhat splits an atom?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a Fibonacci function.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhat started World War I?<|im_end|>\n<|im_start|>assistant\n",
    "An index can be", "If the file does not exist,", "Note that the", "Each transaction", "The following example shows",
    "1 2 3 4 5 6", "Strings are", "When a query is executed, the planner", "import sys", "The value of this parameter",
    "héllo wörld, ünïcode: 日本語",
]
N_PREDICT = 64
END_TOKENS = ["<|im_end|>", "</s>"]


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def main():
    url = sys.argv[1].rstrip("/")
    with urllib.request.urlopen(url + "/props", timeout=30) as answer:
        build = json.load(answer)["build_info"]
    # The end tokens are banned, so that every continuation has N_PREDICT tokens.
    banned = sum((post(url + "/tokenize", {"content": text, "parse_special": True})["tokens"] for text in END_TOKENS), [])
    assert len(banned) == len(END_TOKENS)
    cases = []
    for prompt in PROMPTS:
        ids = post(url + "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
        answer = post(url + "/completion", {
            "prompt": ids, "n_predict": N_PREDICT, "temperature": 0, "n_probs": 2 + len(banned), "return_tokens": True,
            "logit_bias": [[token, False] for token in banned], "cache_prompt": False})
        gaps = []
        for step in answer["completion_probabilities"]:
            best = [token for token in step["top_logprobs"] if token["id"] not in banned]
            assert best[0]["id"] == step["id"]
            gaps.append(round(best[0]["logprob"] - best[1]["logprob"], 5))
        assert len(answer["tokens"]) == N_PREDICT == len(gaps)
        cases.append({"prompt": prompt, "prompt_tokens": ids, "tokens": answer["tokens"], "gaps": gaps})
    lines = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in cases)
    print('{"made_by": "llama.cpp %s, F16 weights, f16 KV", "model": "demo-f16.gguf", "banned": %s, "cases": [\n%s\n]}' % (build, banned, lines))


main()
