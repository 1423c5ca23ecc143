// What people do with the official Anthropic SDK: anthropic_messages.mjs <what> <base_url> <key> <model>. Prints JSON.

import { createRequire } from "node:module";

const { default: Anthropic } = createRequire(`${process.env.OTARI_SDK}/`)("@anthropic-ai/sdk");
const [what, baseURL, apiKey, model] = process.argv.slice(2);
const made = (credential = { apiKey }) => new Anthropic({ baseURL, maxRetries: 2, timeout: 30_000, ...credential });
const client = made();
const ask = { model, max_tokens: 100, messages: [{ role: "user", content: "hi" }] };
const tools = [
  {
    name: "weather",
    description: "The weather in a city.",
    input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
];

const usage = (seen) => [seen.input_tokens, seen.output_tokens];
const called = ({ content: [call], stop_reason: finish }) => ({ id: call.id, name: call.name, input: call.input, finish });
const failed = (failure, more = {}) => ({
  class: failure.constructor.name,
  status: failure.status ?? null,
  message: failure.message,
  request_id: failure.requestID ?? null,
  type: failure.error?.error?.type ?? null,
  ...more,
});

const doings = {
  async plain(by = client) {
    const { data, response } = await by.messages.create(ask).withResponse();
    return {
      text: data.content[0].text,
      usage: usage(data.usage),
      finish: data.stop_reason,
      request_id: response.headers.get("request-id"),
    };
  },

  with_token: () => doings.plain(made({ authToken: apiKey, apiKey: null })),

  with_header: () =>
    doings.plain(made({ apiKey: "not-the-key", defaultHeaders: { authorization: null, "x-api-key": apiKey } })),

  async stream() {
    let text = "";
    const events = client.messages.stream(ask).on("text", (piece) => (text += piece));
    const done = await events.finalMessage();
    return { text, usage: usage(done.usage), finish: done.stop_reason };
  },

  async raw_stream() {
    const kinds = [];
    for await (const event of await client.messages.create({ ...ask, stream: true })) kinds.push(event.type);
    return { first: kinds[0], last: kinds.at(-1) };
  },

  tool: async () => called(await client.messages.create({ ...ask, tools })),

  tool_stream: async () => called(await client.messages.stream({ ...ask, tools }).finalMessage()),

  async tool_result() {
    const call = { type: "tool_use", id: "toolu_1", name: "weather", input: { city: "Bern" } };
    const result = { type: "tool_result", tool_use_id: "toolu_1", content: "sunny" };
    const turns = [
      { role: "assistant", content: [call] },
      { role: "user", content: [result] },
    ];
    const done = await client.messages.create({ ...ask, messages: [...ask.messages, ...turns] });
    return { text: done.content[0].text };
  },

  async count() {
    const messages = [{ role: "user", content: "Hello, world!" }];
    return (await client.messages.countTokens({ model, messages })).input_tokens;
  },

  async error() {
    try {
      await client.messages.create(ask);
    } catch (failure) {
      return failed(failure);
    }
    return { class: null };
  },

  async error_stream() {
    let text = "";
    try {
      for await (const event of await client.messages.create({ ...ask, stream: true })) text += event.delta?.text ?? "";
    } catch (failure) {
      return failed(failure, { text });
    }
    return { class: null, text };
  },
};

console.log(JSON.stringify(await doings[what]()));
