"""Read the artifacts of `write.py` with this environment's transformers and compare the rewards; status 1 when one differs.

    python .ci/older_readers/read.py DIRECTORY [--kin]

--kin: through RewardBench's pipeline and sentence-transformers' CrossEncoder too. Nothing of Assay is imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-4


def texts(tokenizer, pairs):
    turns = [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in pairs]
    return [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in turns]


def plain(path, pairs, form):
    """In one padded batch, and one by one: the larger difference would show."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, torch_dtype=torch.float32).eval()
    if form == "pair":
        columns = [[question for question, _ in pairs], [answer for _, answer in pairs]]
        encode = lambda rows: tokenizer(*rows, padding=True, return_tensors="pt")  # noqa: E731
    else:
        columns = [texts(tokenizer, pairs)]
        encode = lambda rows: tokenizer(*rows, padding=True, return_tensors="pt", add_special_tokens=False)  # noqa: E731
    with torch.no_grad():
        batch = model(**encode(columns)).logits[:, 0].tolist()
        alone = [model(**encode([[column[i]] for column in columns])).logits[0, 0].item() for i in range(len(pairs))]
    return {"batch": batch, "one by one": alone}


def rewardbench(path, pairs):
    """RewardBench's pipeline, whose inputs go to "cuda" whatever the model lies on: here to the CPU."""
    from rewardbench.models.pipeline import RewardBenchPipeline

    to = transformers.BatchEncoding.to
    transformers.BatchEncoding.to = lambda self, device, **rest: to(self, "cpu" if device == "cuda" else device, **rest)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, torch_dtype=torch.float32)
    pipeline = RewardBenchPipeline("text-classification", model=model, tokenizer=tokenizer)
    try:
        return {"rewardbench": pipeline(texts(tokenizer, pairs), padding=True, truncation=True, max_length=512)[:, 0].tolist()}
    finally:
        transformers.BatchEncoding.to = to


def cross_encoder(path, pairs, form):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(path), device="cpu")
    rows = [list(pair) for pair in pairs] if form == "pair" else [["", text] for text in texts(model.tokenizer, pairs)]
    return {"CrossEncoder": [float(value) for value in model.predict(rows, show_progress_bar=False)]}


def main(folder, with_kin):
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    content, failed = json.loads((folder / "expected.json").read_text()), 0
    for name, entry in content["artifacts"].items():
        path, form = folder / name, entry["form"]
        found = plain(path, content["pairs"], form)
        if with_kin:
            found |= cross_encoder(path, content["pairs"], form) | (rewardbench(path, content["pairs"]) if form == "chat" else {})
        apart = {way: max(abs(a - b) for a, b in zip(rewards, entry["rewards"], strict=True)) for way, rewards in found.items()}
        failed += not max(apart.values()) <= TOLERANCE
        shown = ", ".join(f"{way} {difference:.1e}" for way, difference in apart.items())
        print(f"{'ok  ' if max(apart.values()) <= TOLERANCE else 'FAIL'} {entry['name']:<24} {shown}")
    print(f"transformers {transformers.__version__}: {len(content['artifacts'])} artifacts, {failed} read wrongly")
    return 1 if failed or not content["artifacts"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--kin" in sys.argv))
