// What the official SDKs get of each model: families.mjs <root> <key> <model>... Prints one JSON object.
// A model may carry options of the built-in provider; with `tools=once` among them it calls a tool.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.OTARI_SDK}/`);
const { default: OpenAI } = require("openai");
const { default: Anthropic } = require("@anthropic-ai/sdk");
const [root, apiKey, ...models] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${root}/v1`, apiKey, maxRetries: 0, timeout: 30_000 });
const anthropic = new Anthropic({ baseURL: root, apiKey, maxRetries: 0, timeout: 30_000 });
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const about = { name: "weather", description: "The weather in a city." };
const hi = { role: "user", content: "hi" };
const seen = (said, text, calls, finish, usage) => ({
  said,
  shown: { text: text ?? "", calls, finish, counted: usage.every((count) => count > 0) },
});

const chat = {
  tools: [{ type: "function", function: { ...about, parameters: schema } }],
  seen({ choices: [{ message, finish_reason: finish }], usage }) {
    const calls = (message.tool_calls ?? []).map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
    return seen(message, message.content, calls, finish, [usage.prompt_tokens, usage.completion_tokens]);
  },
  whole: async (model, turns, more) => chat.seen(await openai.chat.completions.create({ model, messages: turns, ...more })),
  stream: async (model, more) => {
    const ask = { model, messages: [hi], stream_options: { include_usage: true }, ...more };
    return chat.seen(await openai.chat.completions.stream(ask).finalChatCompletion());
  },
  result({ content, tool_calls: [{ id, type, function: { name, arguments: given } }] }) {
    const asked = { role: "assistant", content, tool_calls: [{ id, type, function: { name, arguments: given } }] };
    return [hi, asked, { role: "tool", tool_call_id: id, content: "sunny" }];
  },
};

const responses = {
  tools: [{ type: "function", ...about, parameters: schema, strict: false }],
  seen(done) {
    const calls = done.output.filter((item) => item.type === "function_call");
    const called = calls.map((call) => [call.name, JSON.parse(call.arguments)]);
    return seen(done, done.output_text, called, done.status, [done.usage.input_tokens, done.usage.output_tokens]);
  },
  whole: async (model, turns, more) => responses.seen(await openai.responses.create({ model, input: turns, ...more })),
  stream: async (model, more) => responses.seen(await openai.responses.stream({ model, input: [hi], ...more }).finalResponse()),
  result({ output }) {
    const { call_id, name, arguments: given } = output.find((item) => item.type === "function_call");
    return [hi, { type: "function_call", call_id, name, arguments: given }, { type: "function_call_output", call_id, output: "sunny" }];
  },
};

const messages = {
  tools: [{ ...about, input_schema: schema }],
  seen(done) {
    const calls = done.content.filter((block) => block.type === "tool_use").map((call) => [call.name, call.input]);
    const text = done.content.filter((block) => block.type === "text").map((block) => block.text).join("");
    return seen(done, text, calls, done.stop_reason, [done.usage.input_tokens, done.usage.output_tokens]);
  },
  whole: async (model, turns, more) => messages.seen(await anthropic.messages.create({ model, max_tokens: 100, messages: turns, ...more })),
  stream: async (model, more) =>
    messages.seen(await anthropic.messages.stream({ model, max_tokens: 100, messages: [hi], ...more }).finalMessage()),
  result({ content }) {
    const { id, name, input } = content.find((block) => block.type === "tool_use");
    const result = { type: "tool_result", tool_use_id: id, content: "sunny" };
    return [hi, { role: "assistant", content: [{ type: "tool_use", id, name, input }] }, { role: "user", content: [result] }];
  },
};

const attempt = async (call) => {
  try {
    return (await call()).shown;
  } catch (failure) {
    return { failed: `${failure.constructor.name}: ${failure.message}` };
  }
};

const everything = async (way, talks) => {
  const [calls, tools] = [`${talks}${talks.includes("?") ? "&" : "?"}tools=once`, { tools: way.tools }];
  return {
    plain: await attempt(() => way.whole(talks, [hi], {})),
    stream: await attempt(() => way.stream(talks, {})),
    tool: await attempt(() => way.whole(calls, [hi], tools)),
    tool_stream: await attempt(() => way.stream(calls, tools)),
    result: await attempt(async () => way.whole(calls, way.result((await way.whole(calls, [hi], tools)).said), tools)),
  };
};

const found = {};
for (const model of models) {
  found[model] = {};
  for (const [name, way] of Object.entries({ chat, responses, messages })) found[model][name] = await everything(way, model);
}
console.log(JSON.stringify(found));
