"""litellm: three providers' rerankers and OpenAI's embeddings."""

from __future__ import annotations

import litellm
from asked import Seen, in_order, read_cases

cases, seen = read_cases(), Seen("litellm")
litellm.telemetry = False
for model, path in (("cohere/rm", "/v1/rerank"), ("jina_ai/rm", "/v1/rerank"), ("hosted_vllm/rm", "/rerank")):
    address = {"jina_ai/rm": f"{cases.url}/v1/rerank", "cohere/rm": cases.url, "hosted_vllm/rm": f"{cases.url}/rerank"}[model]
    reply = litellm.rerank(model=model, query=cases.question, documents=cases.answers, api_base=address, api_key="none")
    ranked = [(row["index"], row["relevance_score"]) for row in reply.results]
    seen.add(f"rerank, {model.partition('/')[0]}", path, "answers", in_order(ranked))
reply = litellm.embedding(model="openai/rm", input=cases.texts, api_base=f"{cases.url}/v1", api_key="none")
values = [row["embedding"][0] for row in reply.data]
seen.add("embedding, openai", "/v1/embeddings", "texts", values, reply.usage.prompt_tokens)
seen.tell()
