// Lists of models with the official SDKs: models.mjs <root> <key> <model>. Prints one JSON object.

import { createRequire } from "node:module";

const require = createRequire(`${process.env.OTARI_SDK}/`);
const { default: OpenAI } = require("openai");
const { default: Anthropic } = require("@anthropic-ai/sdk");
const [root, apiKey, model] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${root}/v1`, apiKey, maxRetries: 0, timeout: 30_000 });
const anthropic = new Anthropic({ baseURL: root, apiKey, maxRetries: 0, timeout: 30_000 });

const all = async (list) => {
  const ids = [];
  for await (const { id } of list) ids.push(id);
  return ids;
};
const missing = await openai.models.retrieve("p:none").catch((failure) => failure.constructor.name);

console.log(
  JSON.stringify({
    openai: await all(openai.models.list()),
    openai_one: (await openai.models.retrieve(model)).id,
    // Two at a time: the SDK asks for the rest by itself.
    anthropic: await all(anthropic.models.list({ limit: 2 })),
    anthropic_one: (await anthropic.models.retrieve(model)).id,
    missing,
  }),
);
