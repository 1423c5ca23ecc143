"""What people do with Pydantic AI: pydantic_agents.py <root> <key> <model>. Prints one JSON object."""

import json
import sys

from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

ROOT, KEY, MODEL = sys.argv[1:]
OPENAI = OpenAIProvider(base_url=f"{ROOT}/v1", api_key=KEY)
ANTHROPIC = AnthropicProvider(base_url=ROOT, api_key=KEY)
WAYS = {
    "chat": lambda model: OpenAIChatModel(model, provider=OPENAI),
    "responses": lambda model: OpenAIResponsesModel(model, provider=OPENAI),
    "messages": lambda model: AnthropicModel(model, provider=ANTHROPIC),
}


def everything(make):
    cities = []
    agent = Agent(make(f"{MODEL}?tools=once"))

    @agent.tool_plain
    def weather(city: str) -> str:
        cities.append(city)
        return "sunny"

    told = agent.run_sync("hi").output
    with_stream = Agent(make(MODEL)).run_stream_sync("hi")
    streamed = "".join(with_stream.stream_text(delta=True))
    return {"result": told, "cities": cities, "stream": streamed, "counted": with_stream.usage.output_tokens > 0}


print(json.dumps({name: everything(make) for name, make in WAYS.items()}))
