"""What the official SDKs get of each model: families.py <root> <key> <model>... Prints one JSON object.

A model may carry options of the built-in provider; with `tools=once` among them it calls a tool.
"""

import json
import sys

import anthropic
import openai

ROOT, KEY, *MODELS = sys.argv[1:]
OPENAI = openai.OpenAI(base_url=f"{ROOT}/v1", api_key=KEY, max_retries=0, timeout=30)
ANTHROPIC = anthropic.Anthropic(base_url=ROOT, api_key=KEY, max_retries=0, timeout=30)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ABOUT = {"name": "weather", "description": "The weather in a city."}
HI = {"role": "user", "content": "hi"}


class Chat:
    tools = [{"type": "function", "function": {**ABOUT, "parameters": SCHEMA}}]

    def whole(self, model, turns, **more):
        done = OPENAI.chat.completions.create(model=model, messages=turns, **more)
        [choice] = done.choices
        said = choice.message
        usage = [done.usage.prompt_tokens, done.usage.completion_tokens]
        return said, said.content, [call.function for call in said.tool_calls or []], choice.finish_reason, usage

    def stream(self, model, **more):
        options = {"stream_options": {"include_usage": True}}
        with OPENAI.chat.completions.stream(model=model, messages=[HI], **options, **more) as events:
            done = events.get_final_completion()
        [choice] = done.choices
        usage = [done.usage.prompt_tokens, done.usage.completion_tokens]
        said = choice.message
        return said, said.content, [call.function for call in said.tool_calls or []], choice.finish_reason, usage

    def result(self, said):
        [call] = said.tool_calls
        asked = {"role": "assistant", "content": said.content, "tool_calls": [call.model_dump(include={"id", "type", "function"})]}
        asked["tool_calls"][0]["function"] = {"name": call.function.name, "arguments": call.function.arguments}
        return [HI, asked, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]


class Responses:
    tools = [{"type": "function", **ABOUT, "parameters": SCHEMA, "strict": False}]

    def seen(self, done):
        calls = [item for item in done.output if item.type == "function_call"]
        return done, done.output_text, calls, done.status, [done.usage.input_tokens, done.usage.output_tokens]

    def whole(self, model, turns, **more):
        return self.seen(OPENAI.responses.create(model=model, input=turns, **more))

    def stream(self, model, **more):
        with OPENAI.responses.stream(model=model, input=[HI], **more) as events:
            return self.seen(events.get_final_response())

    def result(self, done):
        [call] = [item for item in done.output if item.type == "function_call"]
        made = {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        return [HI, made, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]


class Messages:
    tools = [{**ABOUT, "input_schema": SCHEMA}]

    def seen(self, done):
        calls = [block for block in done.content if block.type == "tool_use"]
        text = "".join(block.text for block in done.content if block.type == "text")
        return done, text, calls, done.stop_reason, [done.usage.input_tokens, done.usage.output_tokens]

    def whole(self, model, turns, **more):
        return self.seen(ANTHROPIC.messages.create(model=model, max_tokens=100, messages=turns, **more))

    def stream(self, model, **more):
        with ANTHROPIC.messages.stream(model=model, max_tokens=100, messages=[HI], **more) as events:
            return self.seen(events.get_final_message())

    def result(self, done):
        [call] = [block for block in done.content if block.type == "tool_use"]
        said = {"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}
        shown = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        return [HI, {"role": "assistant", "content": [said]}, {"role": "user", "content": [shown]}]


def arguments(call):
    return call.input if hasattr(call, "input") else json.loads(call.arguments)


def shown(said, text, calls, finish, usage):
    called = [[call.name, arguments(call)] for call in calls]
    return {"text": text or "", "calls": called, "finish": finish, "counted": all(count > 0 for count in usage)}


def attempt(do):
    try:
        return do()
    except Exception as failure:
        return {"failed": f"{type(failure).__name__}: {failure}"}


def everything(way, talks):
    calls = talks + ("&" if "?" in talks else "?") + "tools=once"
    tools = {"tools": way.tools}

    def back():
        said, *_ = way.whole(calls, [HI], **tools)
        return shown(*way.whole(calls, way.result(said), **tools))

    return {
        "plain": attempt(lambda: shown(*way.whole(talks, [HI]))),
        "stream": attempt(lambda: shown(*way.stream(talks))),
        "tool": attempt(lambda: shown(*way.whole(calls, [HI], **tools))),
        "tool_stream": attempt(lambda: shown(*way.stream(calls, **tools))),
        "result": attempt(back),
    }


WAYS = {"chat": Chat(), "responses": Responses(), "messages": Messages()}
print(json.dumps({name: {way: everything(made, name) for way, made in WAYS.items()} for name in MODELS}))
