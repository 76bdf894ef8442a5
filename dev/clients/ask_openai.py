"""The openai package: embeddings of one number, and the models."""

from __future__ import annotations

from asked import Seen, read_cases
from openai import OpenAI

cases, seen = read_cases(), Seen("openai")
client = OpenAI(base_url=f"{cases.url}/v1", api_key="none", max_retries=0)
reply = client.embeddings.create(model=cases.model, input=cases.texts)
values = [row.embedding[0] for row in reply.data]
seen.add("embeddings.create", "/v1/embeddings", "texts", values, reply.usage.prompt_tokens)
assert [model.id for model in client.models.list()] == [cases.model]
assert client.models.retrieve(cases.model).id == cases.model
seen.tell()
