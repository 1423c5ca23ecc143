"""Rerank, as people call it with Cohere's SDK for Python: cohere_rerank.py <root> <key> <provider>. Prints JSON."""

import json
import sys

import cohere

root, key, provider = sys.argv[1:]
# The client of their first API asks for `v1/rerank`, which is the gateway's route; that of the second for `v2/rerank`.
client = cohere.Client(api_key=key, base_url=root)
ranked = client.rerank(model=provider + ":m", query="q", documents=["a", "b"], top_n=2)
errors = []
for model, documents in (("busy", ["a"]), ("broken", ["a"]), ("unpriced", ["a"]), ("m", [])):
    try:
        client.rerank(
            model=f"{provider}:{model}",
            query="q",
            documents=documents,
            request_options={"max_retries": 0},
        )
    except cohere.core.ApiError as error:
        errors.append([type(error).__name__, error.status_code])
print(json.dumps({
    "id": ranked.id,
    "ranked": [[result.index, result.relevance_score] for result in ranked.results],
    "units": ranked.meta.billed_units.search_units,
    "tokens": ranked.meta.tokens.input_tokens,
    "errors": errors,
}))
