"""Text and verdicts out of language models, in this process or behind an endpoint, with a ledger of every call."""
