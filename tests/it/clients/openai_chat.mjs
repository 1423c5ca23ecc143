// What people do with the official OpenAI SDK: openai_chat.mjs <what> <base_url> <key> <model>. Prints one JSON object.

import { createRequire } from "node:module";

const { default: OpenAI } = createRequire(`${process.env.OTARI_SDK}/`)("openai");
const [what, baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 2, timeout: 30_000 });
const ask = { model, messages: [{ role: "user", content: "hi" }] };
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      description: "The weather in a city.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];

const usage = (seen) => (seen ? [seen.prompt_tokens, seen.completion_tokens, seen.total_tokens] : null);

const doings = {
  async plain() {
    const { data, response } = await client.chat.completions.create(ask).withResponse();
    return {
      text: data.choices[0].message.content,
      usage: usage(data.usage),
      finish: data.choices[0].finish_reason,
      request_id: response.headers.get("x-request-id"),
    };
  },

  async stream(more = {}) {
    let [text, chunks, finish, seen] = ["", 0, null, null];
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true, ...more })) {
      chunks += 1;
      seen = chunk.usage ?? seen;
      for (const choice of chunk.choices) {
        text += choice.delta.content ?? "";
        finish = choice.finish_reason ?? finish;
      }
    }
    return { text, chunks, finish, usage: usage(seen) };
  },

  stream_usage: () => doings.stream({ stream_options: { include_usage: true } }),

  async tool() {
    const done = await client.chat.completions.create({ ...ask, tools });
    const call = done.choices[0].message.tool_calls[0];
    return { id: call.id, name: call.function.name, arguments: call.function.arguments };
  },

  async tool_stream() {
    const done = await client.chat.completions.stream({ ...ask, tools }).finalChatCompletion();
    const { message, finish_reason: finish } = done.choices[0];
    const call = message.tool_calls[0];
    return { id: call.id, name: call.function.name, arguments: call.function.arguments, finish };
  },

  async error() {
    try {
      await client.chat.completions.create(ask);
    } catch (failure) {
      return {
        class: failure.constructor.name,
        status: failure.status ?? null,
        message: failure.message,
        request_id: failure.requestID ?? null,
        error: failure.error ?? null,
      };
    }
    return { class: null };
  },

  async error_stream() {
    let text = "";
    try {
      for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
        text += chunk.choices.map((choice) => choice.delta.content ?? "").join("");
      }
    } catch (failure) {
      return { class: failure.constructor.name, message: failure.message, text };
    }
    return { class: null, text };
  },
};

console.log(JSON.stringify(await doings[what]()));
