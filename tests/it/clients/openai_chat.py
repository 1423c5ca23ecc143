"""What people do with the official OpenAI SDK: openai_chat.py <what> <base_url> <key> <model>. Prints one JSON object."""

import json
import sys

import openai

WHAT, BASE_URL, KEY, MODEL = sys.argv[1:5]
CLIENT = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=2, timeout=30)
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def usage(seen):
    return seen and [seen.prompt_tokens, seen.completion_tokens, seen.total_tokens]


def plain():
    reply = CLIENT.chat.completions.with_raw_response.create(**ASK)
    done = reply.parse()
    return {
        "text": done.choices[0].message.content,
        "usage": usage(done.usage),
        "finish": done.choices[0].finish_reason,
        "request_id": reply.headers.get("x-request-id"),
    }


def stream(**more):
    text, chunks, finish, seen = "", 0, None, None
    for chunk in CLIENT.chat.completions.create(**ASK, stream=True, **more):
        chunks += 1
        seen = chunk.usage or seen
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return {"text": text, "chunks": chunks, "finish": finish, "usage": usage(seen)}


def stream_usage():
    return stream(stream_options={"include_usage": True})


def tool():
    call = CLIENT.chat.completions.create(**ASK, tools=TOOLS).choices[0].message.tool_calls[0]
    return {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}


def tool_stream():
    with CLIENT.chat.completions.stream(**ASK, tools=TOOLS) as events:
        done = events.get_final_completion()
    call = done.choices[0].message.tool_calls[0]
    return {
        "id": call.id,
        "name": call.function.name,
        "arguments": call.function.arguments,
        "finish": done.choices[0].finish_reason,
    }


def error():
    try:
        CLIENT.chat.completions.create(**ASK)
    except openai.APIStatusError as failure:
        return {
            "class": type(failure).__name__,
            "status": failure.status_code,
            "message": failure.message,
            "request_id": failure.request_id,
            "error": failure.body,
        }
    except openai.OpenAIError as failure:
        return {"class": type(failure).__name__, "status": None, "message": str(failure), "request_id": None}
    return {"class": None}


def error_stream():
    text = ""
    try:
        for chunk in CLIENT.chat.completions.create(**ASK, stream=True):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
    except openai.OpenAIError as failure:
        return {"class": type(failure).__name__, "message": str(failure), "text": text}
    return {"class": None, "text": text}


print(json.dumps(globals()[WHAT]()))
