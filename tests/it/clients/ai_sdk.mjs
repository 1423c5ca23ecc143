// What people do with the AI SDK: ai_sdk.mjs <root> <key> <model>. Prints one JSON object.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.OTARI_SDK}/`);
const { generateText, streamText, tool, isStepCount } = require("ai");
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { createOpenAI } = require("@ai-sdk/openai");
const { z } = require("zod");
const [root, apiKey, model] = process.argv.slice(2);
const compatible = createOpenAICompatible({ name: "otari", baseURL: `${root}/v1`, apiKey, includeUsage: true });
const official = createOpenAI({ baseURL: `${root}/v1`, apiKey });
const weather = (cities) =>
  tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => (cities.push(city), "sunny"),
  });

const everything = async (make) => {
  const cities = [];
  const common = { prompt: "hi", maxRetries: 0 };
  const tools = { model: make(`${model}?tools=once`), tools: { weather: weather(cities) }, stopWhen: isStepCount(3) };
  const { text: result } = await generateText({ ...common, ...tools });
  const stream = streamText({ ...common, model: make(model) });
  return { result, cities, stream: await stream.text, counted: (await stream.usage).outputTokens > 0 };
};

const found = { chat: await everything((name) => compatible(name)), responses: await everything((name) => official(name)) };
console.log(JSON.stringify(found));
