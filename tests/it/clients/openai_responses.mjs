// What people do with the official OpenAI SDK's responses: openai_responses.mjs <what> <base_url> <key> <model>.

import { createRequire } from "node:module";

const { default: OpenAI } = createRequire(`${process.env.OTARI_SDK}/`)("openai");
const [what, baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 2, timeout: 30_000 });
const ask = { model, input: "hi" };
const tools = [
  {
    type: "function",
    name: "weather",
    description: "The weather in a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    strict: false,
  },
];

const usage = (seen) => [seen.input_tokens, seen.output_tokens, seen.total_tokens];
const failed = (failure, more = {}) => ({
  class: failure.constructor.name,
  status: failure.status ?? null,
  message: failure.message,
  request_id: failure.requestID ?? null,
  ...more,
});

const doings = {
  async plain() {
    const { data, response } = await client.responses.create(ask).withResponse();
    return {
      text: data.output_text,
      usage: usage(data.usage),
      finish: data.status,
      request_id: response.headers.get("x-request-id"),
    };
  },

  async stream() {
    let [text, last] = ["", null];
    for await (const event of await client.responses.create({ ...ask, stream: true })) {
      last = event;
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    return { text, usage: usage(last.response.usage), finish: last.response.status };
  },

  async helped_stream() {
    const done = await client.responses.stream(ask).finalResponse();
    return { text: done.output_text, usage: usage(done.usage), finish: done.status };
  },

  async tool() {
    const call = (await client.responses.create({ ...ask, tools })).output[0];
    return { id: call.call_id, name: call.name, input: JSON.parse(call.arguments) };
  },

  async error() {
    try {
      await client.responses.create(ask);
    } catch (failure) {
      return failed(failure);
    }
    return { class: null };
  },

  async error_stream() {
    let text = "";
    try {
      for await (const event of await client.responses.create({ ...ask, stream: true })) {
        if (event.type === "response.output_text.delta") text += event.delta;
      }
    } catch (failure) {
      return failed(failure, { text });
    }
    return { class: null, text };
  },
};

console.log(JSON.stringify(await doings[what]()));
