"""A recording whose second half is there only when the provider has the first: <base url> <key> <a file that says so>."""

import io
import json
import os
import sys
import time

import openai

base, key, told = sys.argv[1:]


class Recording(io.BytesIO):
    def read(self, size=-1):
        until = time.monotonic() + 20
        while self.tell() >= 200_000 and not os.path.exists(told):
            if time.monotonic() > until:
                raise TimeoutError("the provider has nothing of the first half")
            time.sleep(0.01)
        return super().read(size)


client = openai.OpenAI(base_url=base, api_key=key, max_retries=0)
recording = ("speech.ogg", Recording(b"OggS" * 100_000))
heard = client.audio.transcriptions.create(model="p:m", file=recording, language="en")
print(json.dumps(heard.text))
