"""The operations beside generation, with Otari's own SDK: otari_operations.py <root> <key>. Prints one JSON object."""

import json
import sys
import time

from otari import OtariClient
from otari._client.api.search_api import SearchApi
from otari._client.models.search_request import SearchRequest
from otari.errors import OtariError

ROOT, KEY = sys.argv[1:]
CLIENT = OtariClient(api_base=ROOT, api_key=KEY)


def dumped(made):
    return made if isinstance(made, dict) else made.to_dict()


def embedding():
    made = dumped(CLIENT.embedding(model="p:m", input=["one", "two"]))
    return [made["data"][0]["embedding"], made["usage"]["prompt_tokens"]]


def moderation():
    return dumped(CLIENT.moderation(model="p:m", input="harmless"))["results"][0]["flagged"]


def rerank():
    made = dumped(CLIENT.rerank(model="c:m", query="q", documents=["a", "b"], top_n=2))
    return [[result["index"], result["relevance_score"]] for result in made["results"]]


def images():
    return [image["url"] for image in dumped(CLIENT.image_generation(model="p:m", prompt="a cat", n=2))["data"]]


def speech():
    return len(CLIENT.speech(model="p:m", input="hello", voice="alloy"))


def transcription():
    heard = CLIENT.transcription(model="p:m", file=b"OggS" * 50_000, filename="speech.ogg")
    subtitles = CLIENT.transcription(model="p:m", file=b"OggS", response_format="srt")
    return [heard.json["text"], subtitles.text]


def batch():
    item = {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "hi"}]}}
    made = dumped(CLIENT.create_batch({"model": "p:m", "requests": [item]}))
    until = time.monotonic() + 15
    status = ""
    while status != "completed" and time.monotonic() < until:
        status = dumped(CLIENT.retrieve_batch(made["id"], "p"))["status"]
        time.sleep(0.05)
    [result] = CLIENT.retrieve_batch_results(made["id"], "p").results
    text = dumped(result.result)["choices"][0]["message"]["content"]
    return [status, text, made["id"] in [dumped(it)["id"] for it in CLIENT.list_batches("p")]]


# Behind the methods of the SDK, in the part of it that is generated.
def search():
    found = SearchApi(CLIENT._api).search_create_search(SearchRequest(query="cats", max_results=2))
    return [[hit["url"], hit["title"]] for hit in dumped(found)["results"]]


def errors():
    seen = []
    for call in (
        lambda: CLIENT.embedding(model="p:busy", input="x"),
        lambda: CLIENT.image_generation(model="p:broken", prompt="x"),
        lambda: CLIENT.rerank(model="c:unpriced", query="q", documents=["a"]),
    ):
        try:
            call()
            seen.append(None)
        except OtariError as error:
            seen.append([type(error).__name__, error.status_code])
    return seen


DOINGS = [embedding, moderation, rerank, images, speech, transcription, batch, search, errors]
print(json.dumps({doing.__name__: doing() for doing in DOINGS}))
