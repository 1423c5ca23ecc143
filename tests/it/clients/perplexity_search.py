"""Search, as people call it with Perplexity's SDK for Python: perplexity_search.py <base> <key>. Prints JSON.

The gateway's route takes the fields of theirs, and answers with its results.
"""

import json
import sys

import perplexity

base, key = sys.argv[1:]
client = perplexity.Perplexity(api_key=key, base_url=base, max_retries=0)
found = client.search.create(
    query="cats",
    max_results=2,
    country="DE",
    search_domain_filter=["-b.org"],
    max_tokens_per_page=50,
)
errors = []
for query in ("broken", "slow", ""):
    try:
        client.search.create(query=query)
    except perplexity.APIStatusError as error:
        errors.append([type(error).__name__, error.status_code])
print(json.dumps({
    "results": [[hit.title, hit.url, hit.snippet, hit.date] for hit in found.results],
    "errors": errors,
}))
