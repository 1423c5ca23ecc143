"""What people do with LangChain's OpenAI client: langchain_sdk.py <root> <key> <model>. Prints one JSON object."""

import json
import sys

from langchain_openai import ChatOpenAI

ROOT, KEY, MODEL = sys.argv[1:]


def weather(city: str) -> str:
    """The weather in a city."""
    return "sunny in " + city


def client(model=MODEL, **more):
    return ChatOpenAI(base_url=f"{ROOT}/v1", api_key=KEY, model=model, max_retries=0, **more)


def called(answer):
    return [[call["name"], call["args"]] for call in answer.tool_calls]


tools = client(f"{MODEL}?tools=once").bind_tools([weather])
asked = tools.invoke("hi")
result = {"role": "tool", "tool_call_id": asked.tool_calls[0]["id"], "content": "sunny"}
streamed = None
for chunk in tools.stream("hi"):
    streamed = chunk if streamed is None else streamed + chunk
print(
    json.dumps(
        {
            "plain": client().invoke("hi").text,
            "stream": "".join(chunk.text for chunk in client().stream("hi")),
            "tool": called(asked),
            "tool_stream": called(streamed),
            "result": tools.invoke([{"role": "user", "content": "hi"}, asked, result]).text,
            "responses": client(use_responses_api=True).invoke("hi").text,
        }
    )
)
