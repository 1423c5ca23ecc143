"""What people do with LiteLLM as a library: litellm_sdk.py <root> <key> <model>. Prints one JSON object."""

import json
import sys

import litellm

ROOT, KEY, MODEL = sys.argv[1:]
# It would print advice between the lines.
litellm.suppress_debug_info = True
TURNS = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


def chat(model=MODEL, **more):
    base = {"api_base": f"{ROOT}/v1", "api_key": KEY, "num_retries": 0}
    return litellm.completion(model=f"openai/{model}", messages=TURNS, **base, **more)


def messages():
    made = litellm.completion(model=f"anthropic/{MODEL}", messages=TURNS, api_base=ROOT, api_key=KEY, max_tokens=50)
    return made.choices[0].message.content


def responses():
    made = litellm.responses(model=f"openai/{MODEL}", input="hi", api_base=f"{ROOT}/v1", api_key=KEY)
    return made.output[0].content[0].text


calls = chat(f"{MODEL}?tools=once", tools=TOOLS).choices[0].message.tool_calls
print(
    json.dumps(
        {
            "plain": chat().choices[0].message.content,
            "stream": "".join(chunk.choices[0].delta.content or "" for chunk in chat(stream=True)),
            "tool": [[call.function.name, json.loads(call.function.arguments)] for call in calls],
            "messages": messages(),
            "responses": responses(),
        }
    )
)
