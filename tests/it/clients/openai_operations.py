"""The operations beside generation, as people call them with the OpenAI SDK for Python."""

import io
import json
import sys

import openai

base, key, provider = sys.argv[1:]
client = openai.OpenAI(base_url=base, api_key=key, max_retries=0)
model = provider + ":m"

# The SDK asks for base64 by itself, and shows floats.
vectors = client.embeddings.create(model=model, input=["one", "two"])
few = client.embeddings.create(model=model, input="one", dimensions=2, encoding_format="float")
verdict = client.moderations.create(model=model, input="harmless")
images = client.images.generate(model=model, prompt="a cat", n=2)
recording = io.BytesIO(b"OggS" * 50_000)
recording.name = "speech.ogg"
heard = client.audio.transcriptions.create(model=model, file=recording)
recording.seek(0)
subtitles = client.audio.transcriptions.create(model=model, file=recording, response_format="srt")
with client.audio.speech.with_streaming_response.create(model=model, voice="alloy", input="hello") as speech:
    sound = b"".join(speech.iter_bytes())
errors = []
for call in (
    lambda: client.embeddings.create(model=provider + ":busy", input="x"),
    lambda: client.images.generate(model=provider + ":broken", prompt="x"),
    lambda: client.embeddings.create(model=provider + ":unpriced", input="x"),
):
    try:
        call()
    except openai.APIStatusError as error:
        errors.append([type(error).__name__, error.status_code])
print(json.dumps({
    "vector": vectors.data[0].embedding,
    "tokens": vectors.usage.prompt_tokens,
    "few": few.data[0].embedding,
    "flagged": verdict.results[0].flagged,
    "images": [image.url for image in images.data],
    "heard": heard.text,
    "subtitles": subtitles,
    "sound": len(sound),
    "errors": errors,
}))
