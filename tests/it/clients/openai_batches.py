"""What people do with batches through the official OpenAI SDK: openai_batches.py <base_url> <key> <model>. Prints JSON."""

import json
import sys
import time

import openai

BASE_URL, KEY, MODEL = sys.argv[1:4]
client = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=30)


def line(name):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})


lines = "\n".join(line(name) for name in ("a", "b", "c")).encode()
file = client.files.create(file=("calls.jsonl", lines), purpose="batch")
batch = client.batches.create(
    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"job": "nightly"}
)
made = [batch.object, batch.endpoint, batch.metadata, batch.request_counts.total]
until = time.monotonic() + 20
while batch.status != "completed" and time.monotonic() < until:
    time.sleep(0.05)
    batch = client.batches.retrieve(batch.id)
results = client.get(f"/batches/{batch.id}/results", cast_to=object)["results"]
output = client.files.content(batch.output_file_id).text
answers = [json.loads(line) for line in output.splitlines()]
kept = client.files.retrieve(batch.output_file_id)
second = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
cancelled = client.batches.cancel(second.id)
try:
    client.batches.retrieve("batch_none")
    missing = None
except openai.APIStatusError as error:
    missing = error.status_code
try:
    client.batches.create(input_file_id="file-" + "0" * 32, endpoint="/v1/chat/completions", completion_window="24h")
    no_file = None
except openai.APIStatusError as error:
    no_file = error.status_code
print(json.dumps({
    "made": made,
    "status": batch.status,
    "counts": [batch.request_counts.completed, batch.request_counts.failed],
    "texts": sorted([one["custom_id"], one["result"]["choices"][0]["message"]["content"]] for one in results),
    "output": sorted(
        [one["custom_id"], one["response"]["status_code"], one["response"]["body"]["choices"][0]["message"]["content"]]
        for one in answers
    ),
    "kept": [kept.filename == f"{batch.id}_output.jsonl", kept.purpose, kept.bytes == len(output.encode())],
    "no_errors": batch.error_file_id,
    "listed": [one.id for one in client.batches.list()] == [second.id, batch.id],
    "cancelled": cancelled.status in ("cancelling", "cancelled", "completed"),
    "missing": missing,
    "no_file": no_file,
}))
