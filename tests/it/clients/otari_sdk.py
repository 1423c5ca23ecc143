"""What people do with Otari's own SDK, 0.3 or 0.4: otari_sdk.py <root> <key>. Prints one JSON object.

`c:m` speaks chat and responses, `a:m` messages.
"""

import json
import sys

from otari import OtariClient

ROOT, KEY = sys.argv[1:]
CLIENT = OtariClient(api_base=ROOT, api_key=KEY)
TURNS = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


def dumped(made):
    return made if isinstance(made, dict) else made.to_dict()


def plain():
    answer = CLIENT.with_response_metadata.completion(model="c:m", messages=TURNS)
    return [answer.data.choices[0].message.content, answer.request_id is not None]


def stream(model="c:m"):
    text = ""
    for chunk in CLIENT.completion(model=model, messages=TURNS, stream=True):
        for choice in chunk.choices:
            text += choice.delta.content or ""
    return text


def tool():
    done = CLIENT.completion(model="c:m?tools=once", messages=TURNS, tools=TOOLS)
    [call] = done.choices[0].message.tool_calls
    call = call.actual_instance
    answer = {"role": "assistant", "content": None, "tool_calls": [
        {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}},
    ]}
    turns = [*TURNS, answer, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    last = CLIENT.completion(model="c:m?tools=once", messages=turns, tools=TOOLS)
    return [call.function.name, json.loads(call.function.arguments), last.choices[0].message.content]


def message():
    return dumped(CLIENT.message(model="a:m", max_tokens=50, messages=TURNS))["content"][0]["text"]


def message_stream():
    events = list(CLIENT.message(model="a:m", max_tokens=50, messages=TURNS, stream=True))
    text = "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")
    return [text, events[-1]["type"]]


def response():
    return dumped(CLIENT.response(model="c:m", input="hi"))["output"][0]["content"][0]["text"]


def count():
    return CLIENT.count_tokens(model="a:m", messages=TURNS).input_tokens > 0


def models():
    return [model.id for model in CLIENT.list_models()]


def failure(do):
    try:
        return {"class": None, "got": repr(do())}
    except Exception as failed:
        return {"class": type(failed).__name__, "says": str(failed)}


def busy():
    return failure(lambda: CLIENT.completion(model="c:m?status=429", messages=TURNS))


def cut():
    return failure(lambda: stream("c:m?fault=cut:2"))


def unknown():
    return failure(lambda: CLIENT.completion(model="nobody:m", messages=TURNS))


DOINGS = [plain, stream, tool, message, message_stream, response, count, models, busy, cut, unknown]
print(json.dumps({do.__name__: do() for do in DOINGS}))
