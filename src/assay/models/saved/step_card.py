"""What the card of a process reward model says in place of what it says of a scalar reward."""

from __future__ import annotations

from collections.abc import Mapping

_LOAD_ASSAY = """\
```python
import assay

scorer = assay.load("path/to/this/directory")
prompt = [{"role": "user", "content": "A shelf holds 4 jars of 12 buttons. Nine are lost. How many are left?"}]
rewards = scorer.score([
    assay.Completion(messages=prompt, steps=("4 jars of 12 are 48.\\n\\n", "48 - 9 = 39.")),
    assay.Completion(messages=prompt, response="4 jars of 12 are 46.\\n\\n46 - 9 = 37."),  # cut by the rule of this model
])
print(rewards.steps)  # log-odds that each step is right; NaN for steps beyond the length limit
print(rewards.value)  # one float32 for each solution: log of the reduced probability
```"""

_LOAD_TRANSFORMERS = """\
```python
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

path = "path/to/this/directory"
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32).eval()
steps = ["4 jars of 12 are 48.\\n\\n", "48 - 9 = 39."]
messages = [
    {"role": "user", "content": "A shelf holds 4 jars of 12 buttons. Nine are lost. How many are left?"},
    {"role": "assistant", "content": "".join(steps)},
]
text = tokenizer.apply_chat_template(messages, tokenize=False)
encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt")
begins, start, places = encoded.pop("offset_mapping")[0, :, 0], text.rindex("".join(steps)), []
for step in steps:  # a step is read at its last token, white space apart
    places.append(int((begins < start + len(step.rstrip())).sum()) - 1)
    start += len(step)
with torch.no_grad():
    logits = model(**encoded).logits[0, places]
log_odds = logits[:, 1] - logits[:, 0]  # labels: 0 wrong, 1 right
```"""

STEP_CARD: Mapping[str, str] = {
    "lead": "It gives a number to every step of a solution: the log-odds that the step is right, given the question and the steps "
    "before it.",
    "load_assay": _LOAD_ASSAY,
    "load_transformers": _LOAD_TRANSFORMERS,
    "reading": "The reward of a step is the logit of the label right less that of the label wrong, at the step's last token; what "
    "stands behind a step does not change it. Pass the text through this directory's own tokenizer and chat template; another "
    "template, or another rule for steps, gives other numbers. An engine that gives the logits of every token (vLLM: "
    '`POST /pooling` with `"task": "token_classify"`) gives the same: take the rows at the ends of steps.',
    "pipeline_tag": "token-classification",
    "comparing": "The probability of a step means the same in every solution only as far as the calibration holds: on questions "
    "like those of its calibration split.",
}
