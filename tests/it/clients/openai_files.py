"""What people do with files through the official OpenAI SDK: openai_files.py <base_url> <key>. Prints JSON."""

import json
import sys
import tempfile

import openai

BASE_URL, KEY = sys.argv[1:3]
client = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=30)

first = client.files.create(file=("notes ü.txt", b"hello file"), purpose="user_data")
with tempfile.NamedTemporaryFile(suffix=".jsonl") as lines:
    lines.write(b'{"a": 1}\n' * 1000)
    lines.flush()
    second = client.files.create(
        file=open(lines.name, "rb"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
third = client.files.create(file=("c.pdf", b"%PDF-1.4", "application/pdf"), purpose="assistants")

seen = {
    "first": [first.id, first.object, first.bytes, first.filename, first.purpose, first.expires_at],
    "second": [second.bytes, second.purpose, second.expires_at - second.created_at],
    "listed": [file.id for file in client.files.list()],
    "paged": [file.id for file in client.files.list(limit=1)],
    "oldest": [file.id for file in client.files.list(order="asc", limit=2).data],
    "batch": [file.id for file in client.files.list(purpose="batch")],
    "ids": [first.id, second.id, third.id],
    "retrieved": client.files.retrieve(third.id).filename,
    "content": client.files.content(first.id).text,
    "length": len(client.files.content(second.id).read()),
}
with client.files.with_streaming_response.content(second.id) as answer:
    seen["streamed"] = sum(len(piece) for piece in answer.iter_bytes())
    seen["type"] = client.files.content(third.id).response.headers["content-type"]
deleted = client.files.delete(first.id)
seen["deleted"] = [deleted.id == first.id, deleted.deleted, deleted.object]
try:
    client.files.retrieve(first.id)
except openai.NotFoundError as error:
    seen["gone"] = [error.status_code, error.message]
print(json.dumps(seen))
