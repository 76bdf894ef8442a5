"""reward-hub's client of a served reward model."""

from __future__ import annotations

from urllib.parse import urlsplit

from asked import Seen, read_cases
from reward_hub.openai.vllm_client import HTTPClient

cases, seen = read_cases(), Seen("reward-hub")
port = urlsplit(cases.url).port
assert port is not None
client = HTTPClient(host="0.0.0.0", port=port, model_name=cases.model)
replies = client.post_reward_requests(cases.conversations)
values = [reply["data"][0]["data"][0] for reply in replies]
seen.add(
    "HTTPClient.post_reward_requests", "/pooling", "answers", values, sum(reply["usage"]["prompt_tokens"] for reply in replies)
)
seen.tell()
