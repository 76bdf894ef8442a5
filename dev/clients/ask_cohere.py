"""Cohere's package: the rerankers of its two versions."""

from __future__ import annotations

import cohere
from asked import Seen, in_order, read_cases

cases, seen = read_cases(), Seen("cohere")
for client, path in ((cohere.Client, "/v1/rerank"), (cohere.ClientV2, "/v2/rerank")):
    asking = client(api_key="none", base_url=cases.url)
    reply = asking.rerank(model="rerank-v3.5", query=cases.question, documents=cases.answers)
    ranked = [(row.index, row.relevance_score) for row in reply.results]
    seen.add(f"{client.__name__}.rerank", path, "answers", in_order(ranked))
seen.tell()
