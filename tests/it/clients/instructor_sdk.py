"""What people do with Instructor: a typed answer: instructor_sdk.py <root> <key> <model>. Prints one JSON object."""

import json
import sys

import instructor
import openai
from pydantic import BaseModel

ROOT, KEY, MODEL = sys.argv[1:]


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


client = instructor.from_openai(openai.OpenAI(base_url=f"{ROOT}/v1", api_key=KEY, max_retries=0))
ask = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "response_model": Weather, "max_retries": 0}
print(json.dumps({"whole": client.chat.completions.create(**ask).model_dump()}))
