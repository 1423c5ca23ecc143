"""Lists of models with the official SDKs: models.py <root> <key> <model>. Prints one JSON object."""

import json
import sys

import anthropic
import openai

ROOT, KEY, MODEL = sys.argv[1:4]
OPENAI = openai.OpenAI(base_url=f"{ROOT}/v1", api_key=KEY, max_retries=0, timeout=30)
ANTHROPIC = anthropic.Anthropic(base_url=ROOT, api_key=KEY, max_retries=0, timeout=30)


def missing():
    try:
        OPENAI.models.retrieve("p:none")
    except openai.APIStatusError as error:
        return type(error).__name__


print(
    json.dumps(
        {
            "openai": [model.id for model in OPENAI.models.list()],
            "openai_one": OPENAI.models.retrieve(MODEL).id,
            # Two at a time: the SDK asks for the rest by itself.
            "anthropic": [model.id for model in ANTHROPIC.models.list(limit=2)],
            "anthropic_one": ANTHROPIC.models.retrieve(MODEL).id,
            "missing": missing(),
        }
    )
)
