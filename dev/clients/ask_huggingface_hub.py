"""huggingface_hub's InferenceClient, at the address of an endpoint of one's own."""

from __future__ import annotations

from asked import Seen, read_cases
from huggingface_hub import InferenceClient

cases, seen = read_cases(), Seen("huggingface_hub")
client = InferenceClient(model=cases.url, token="none", timeout=60)
values = [client.text_classification(text)[0].score for text in cases.texts]
seen.add("text_classification", "/", "texts", values)
values = client.sentence_similarity(cases.question, other_sentences=cases.answers)
seen.add("sentence_similarity", "/", "answers", values)
seen.tell()
