"""What people do with the official Anthropic SDK: anthropic_messages.py <what> <base_url> <key> <model>. Prints JSON."""

import json
import sys

import anthropic

WHAT, BASE_URL, KEY, MODEL = sys.argv[1:5]
ASK = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
TOOLS = [
    {
        "name": "weather",
        "description": "The weather in a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]


def client(**credential):
    return anthropic.Anthropic(base_url=BASE_URL, max_retries=2, timeout=30, **(credential or {"api_key": KEY}))


def usage(seen):
    return [seen.input_tokens, seen.output_tokens]


def plain(**credential):
    reply = client(**credential).messages.with_raw_response.create(**ASK)
    done = reply.parse()
    return {
        "text": done.content[0].text,
        "usage": usage(done.usage),
        "finish": done.stop_reason,
        "request_id": reply.headers.get("request-id"),
    }


def with_token():
    return plain(auth_token=KEY, api_key=None)


def with_header():
    return plain(api_key="not-the-key", default_headers={"Authorization": "", "x-api-key": KEY})


def stream():
    with client().messages.stream(**ASK) as events:
        text = "".join(events.text_stream)
        done = events.get_final_message()
    return {"text": text, "usage": usage(done.usage), "finish": done.stop_reason}


def raw_stream():
    kinds = [event.type for event in client().messages.create(**ASK, stream=True)]
    return {"first": kinds[0], "last": kinds[-1]}


def called(done):
    call = done.content[0]
    return {"id": call.id, "name": call.name, "input": call.input, "finish": done.stop_reason}


def tool():
    return called(client().messages.create(**ASK, tools=TOOLS))


def tool_stream():
    with client().messages.stream(**ASK, tools=TOOLS) as events:
        return called(events.get_final_message())


def tool_result():
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}
    turns = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    done = client().messages.create(**{**ASK, "messages": ASK["messages"] + turns})
    return {"text": done.content[0].text}


def count():
    return client().messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "Hello, world!"}]).input_tokens


def failed(failure, **more):
    body = getattr(failure, "body", None)
    return {
        "class": type(failure).__name__,
        "status": getattr(failure, "status_code", None),
        "message": str(failure),
        "request_id": getattr(failure, "request_id", None),
        "type": body["error"]["type"] if isinstance(body, dict) else None,
        **more,
    }


def error():
    try:
        client().messages.create(**ASK)
    except anthropic.AnthropicError as failure:
        return failed(failure)
    return {"class": None}


def error_stream():
    text = ""
    try:
        with client().messages.stream(**ASK) as events:
            for piece in events.text_stream:
                text += piece
    except anthropic.AnthropicError as failure:
        return failed(failure, text=text)
    return {"class": None, "text": text}


print(json.dumps(globals()[WHAT]()))
