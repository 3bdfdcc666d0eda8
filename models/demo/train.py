#!/usr/bin/env python3
"""Trains the demo model in two stages: language and recall at growing lengths, then recall at mixed lengths to 4K.

usage: train.py --stage 1 --minutes 75 --out stage1.pt
       train.py --stage 2 --minutes 36 --resume stage1.pt --lr 1e-3 --out demo.pt
Needs torch, numpy, sentencepiece, and train.txt, held.txt (corpus.py) and tok.model (vocabulary.sh) beside it.
"""
import argparse
import math
import random
import re
import time

import numpy as np
import sentencepiece as spm
import torch
import torch.nn.functional as F

import network
import tasks

# Share of plain text and of needle tasks in a sequence (the rest are facts); see Sampler.sequence.
TEXT_SHARE = {1: 0.35, 2: 0.27}
NEEDLE_SHARE = {1: 0.45, 2: 0.60}
ANSWER_WEIGHT, FACT_WEIGHT, QUESTION_WEIGHT = 4.0, 2.0, 0.3
TOKENS_PER_WORD = 1.75


class Sampler:
    """Packed training sequences with loss weights."""

    def __init__(self, stage):
        self.r = random.Random(11)
        self.stage = stage
        self.tokenizer = spm.SentencePieceProcessor(model_file="tok.model")
        text = open("train.txt", encoding="utf8").read()
        self.text = np.concatenate([np.array([1] + self.tokenizer.encode(d), dtype=np.int32) for d in text.split("\n\n")])
        self.held = np.array(self.tokenizer.encode(open("held.txt", encoding="utf8").read()), dtype=np.int64)
        self.sentences = [s.strip().rstrip(".") + "." for line in text.split("\n") for s in line.split(". ")
                          if 40 < len(s) < 220]

    def encode(self, text):
        ids = []
        for part in re.split(r"(<\|im_start\|>|<\|im_end\|>)", text):
            if part.startswith("<|im_"):
                ids.append(self.tokenizer.piece_to_id(part))
            elif part:
                ids += self.tokenizer.encode(part)
        return ids

    def task(self, question, answer, answer_weight):
        q, a = [1] + self.encode(question), self.encode(answer)
        return q + a, [QUESTION_WEIGHT] * len(q) + [answer_weight] * len(a)

    def slice_of_text(self, n):
        start = self.r.randrange(len(self.text) - n)
        return self.text[start:start + n].tolist(), [1.0] * n

    def sequence(self, length):
        ids, weights = [], []
        while len(ids) < length + 1:
            room, kind = length + 1 - len(ids), self.r.random()
            if kind < TEXT_SHARE[self.stage]:
                more = self.slice_of_text(min(room, self.r.randint(64, 400)))
            elif kind < TEXT_SHARE[self.stage] + NEEDLE_SHARE[self.stage]:
                most = max(12, int(min(room, length) / TOKENS_PER_WORD) - 60)
                words = (int(math.exp(self.r.uniform(math.log(6), math.log(most)))) if self.r.random() < 0.5
                         else self.r.randint(6, most))
                more = self.task(*tasks.needle_sample(self.r, self.sentences, words), ANSWER_WEIGHT)
                if len(more[0]) > room:
                    if room >= 200 and self.r.random() >= 0.3:
                        continue
                    more = self.slice_of_text(room)
            else:
                more = self.task(*tasks.fact_sample(self.r), FACT_WEIGHT)
            ids += more[0]
            weights += more[1]
        return ids[:length + 1], weights[:length + 1]

    def batch(self, size, length):
        ids, weights = zip(*(self.sequence(length) for _ in range(size)))
        ids, weights = torch.tensor(ids), torch.tensor(weights)
        return ids[:, :-1], ids[:, 1:], weights[:, 1:]


@torch.no_grad()
def evaluate(model, sampler, length, n=24):
    """(share of needles recalled exactly, share of facts answered exactly, perplexity of held-out text)"""
    def exact(question, answer):
        ids, target = [1] + sampler.encode(question), sampler.encode(answer)
        x = torch.tensor([ids + target])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            best = model.logits(x)[0, len(ids) - 1:-1].argmax(-1)
        return (best == x[0, len(ids):]).all().item()

    model.eval()
    r = random.Random(5)
    words = int(length / TOKENS_PER_WORD) - 60
    recall = sum(exact(*tasks.needle_sample(r, sampler.sentences, words)) for _ in range(n)) / n
    facts = tasks.FACTS[::3]
    known = sum(exact(*tasks.chat(*fact)) for fact in facts) / len(facts)
    x = torch.tensor(sampler.held[:8 * 513]).view(8, 513)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model.logits(x[:, :-1]).float().flatten(0, 1), x[:, 1:].flatten())
    model.train()
    return round(recall, 3), round(known, 3), round(math.exp(loss.item()), 2)


def shape_of(stage, done, r):
    """(length, batch size) of the next step: growing in stage 1, mixed in stage 2."""
    if stage == 2:
        return r.choices([(512, 12), (1024, 6), (2048, 3), (4096, 2)], [0.42, 0.28, 0.2, 0.10])[0]
    return (256, 24) if done < 0.45 else (512, 12) if done < 0.70 else (1024, 6) if done < 0.88 else (2048, 3)


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--stage", type=int, choices=(1, 2), required=True)
    flags.add_argument("--minutes", type=float, required=True)
    flags.add_argument("--out", required=True)
    flags.add_argument("--lr", type=float, default=2e-3)
    flags.add_argument("--resume")
    options = flags.parse_args()

    torch.manual_seed(1)
    sampler = Sampler(options.stage)
    model = network.Model(sampler.tokenizer.vocab_size())
    if options.resume:
        model.load_state_dict(torch.load(options.resume))
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0}],
                                  lr=options.lr, betas=(0.9, 0.95))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)

    start, step, seen, smooth, evaluated = time.time(), 0, 0, None, time.time()
    while (done := (time.time() - start) / (options.minutes * 60)) < 1:
        length, size = shape_of(options.stage, done, sampler.r)
        warm_up, cosine = min(1, (step + 1) / 150), 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = options.lr * warm_up * (0.03 + 0.97 * cosine)
        x, y, weights = sampler.batch(size, length)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model.logits(x)
        losses = F.cross_entropy(logits.float().flatten(0, 1), y.flatten(), reduction="none")
        weights = weights.flatten()
        loss = (losses * weights).sum() / weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, seen = step + 1, seen + x.numel()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step} length {length} loss {smooth:.3f} {seen / (time.time() - start):.0f} tok/s "
                  f"{seen / 1e6:.1f} M seen {done:.0%}", flush=True)
        if time.time() - evaluated > 240:
            evaluated = time.time()
            print("  recall, facts, perplexity:", evaluate(model, sampler, length), flush=True)
            torch.save(model.state_dict(), options.out)
    torch.save(model.state_dict(), options.out)
    for length in (256, 512, 1024, 2048, 4000):
        print(f"final at {length}: recall, facts, perplexity:", evaluate(model, sampler, length, 40), flush=True)


if __name__ == "__main__":
    main()
