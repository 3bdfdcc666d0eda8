#!/usr/bin/env bash
# Trains the 4,096-piece SentencePiece vocabulary (tok.model) on train.txt and samples of the synthetic tasks.
set -euo pipefail
cd "$(dirname "$0")"
python3 - <<'PY'
import random

import tasks

r = random.Random(1)
with open("tok.txt", "w", encoding="utf8") as out, open("train.txt", encoding="utf8") as text:
    for line in text:
        if line.strip():
            out.write(line.rstrip("\n")[:4000] + "\n")
    for _ in range(6000):
        question, answer = tasks.fact_sample(r)
        plain = (question + answer).replace("<|im_start|>", "").replace("<|im_end|>", "")
        out.write(plain.replace("\n", " ") + "\n")
    for _ in range(8000):
        out.write(tasks.needle_sentence(r, *tasks.needle(r)) + "\n")
PY
spm_train --input=tok.txt --model_prefix=tok --vocab_size=4096 --model_type=bpe --byte_fallback=true \
  --split_digits=true --normalization_rule_name=identity --remove_extra_whitespaces=false --add_dummy_prefix=true \
  --unk_id=0 --bos_id=1 --eos_id=2 --pad_id=-1 --control_symbols='<|im_start|>,<|im_end|>'
