"""What people do with the official OpenAI SDK's responses: openai_responses.py <what> <base_url> <key> <model>."""

import json
import sys

import openai

WHAT, BASE_URL, KEY, MODEL = sys.argv[1:5]
CLIENT = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=2, timeout=30)
ASK = {"model": MODEL, "input": "hi"}
TOOLS = [
    {
        "type": "function",
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": False,
    }
]


def usage(seen):
    return [seen.input_tokens, seen.output_tokens, seen.total_tokens]


def plain():
    reply = CLIENT.responses.with_raw_response.create(**ASK)
    done = reply.parse()
    return {
        "text": done.output_text,
        "usage": usage(done.usage),
        "finish": done.status,
        "request_id": reply.headers.get("x-request-id"),
    }


def stream():
    text, last = "", None
    for event in CLIENT.responses.create(**ASK, stream=True):
        last = event
        if event.type == "response.output_text.delta":
            text += event.delta
    return {"text": text, "usage": usage(last.response.usage), "finish": last.response.status}


def helped_stream():
    with CLIENT.responses.stream(**ASK) as events:
        done = events.get_final_response()
    return {"text": done.output_text, "usage": usage(done.usage), "finish": done.status}


def tool():
    call = CLIENT.responses.create(**ASK, tools=TOOLS).output[0]
    return {"id": call.call_id, "name": call.name, "input": json.loads(call.arguments)}


def failed(failure, **more):
    return {
        "class": type(failure).__name__,
        "status": getattr(failure, "status_code", None),
        "message": failure.message,
        "request_id": getattr(failure, "request_id", None),
        **more,
    }


def error():
    try:
        CLIENT.responses.create(**ASK)
    except openai.APIError as failure:
        return failed(failure)
    return {"class": None}


def error_stream():
    text = ""
    try:
        for event in CLIENT.responses.create(**ASK, stream=True):
            text += event.delta if event.type == "response.output_text.delta" else ""
    except openai.APIError as failure:
        return failed(failure, text=text)
    return {"class": None, "text": text}


print(json.dumps(globals()[WHAT]()))
