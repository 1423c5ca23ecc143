// The operations beside generation, as people call them with the OpenAI SDK for Node.
import { createRequire } from 'node:module';

const require = createRequire(process.env.OTARI_SDK + '/');
const OpenAI = require('openai');
const { toFile } = OpenAI;

const [base, key, provider] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0 });
const model = provider + ':m';

// The SDK asks for base64 by itself, and shows floats.
const vectors = await client.embeddings.create({ model, input: ['one', 'two'] });
const few = await client.embeddings.create({ model, input: 'one', dimensions: 2, encoding_format: 'float' });
const verdict = await client.moderations.create({ model, input: 'harmless' });
const images = await client.images.generate({ model, prompt: 'a cat', n: 2 });
const recording = () => toFile(Buffer.alloc(200_000, 'OggS'), 'speech.ogg');
const heard = await client.audio.transcriptions.create({ file: await recording(), model });
const subtitles = await client.audio.transcriptions.create({ file: await recording(), model, response_format: 'srt' });
const speech = await client.audio.speech.create({ model, voice: 'alloy', input: 'hello' });
const sound = await speech.arrayBuffer();
const errors = [];
for (const call of [
  () => client.embeddings.create({ model: provider + ':busy', input: 'x' }),
  () => client.images.generate({ model: provider + ':broken', prompt: 'x' }),
  () => client.embeddings.create({ model: provider + ':unpriced', input: 'x' }),
]) {
  try {
    await call();
  } catch (error) {
    errors.push([error.constructor.name, error.status]);
  }
}
console.log(JSON.stringify({
  vector: vectors.data[0].embedding,
  tokens: vectors.usage.prompt_tokens,
  few: few.data[0].embedding,
  flagged: verdict.results[0].flagged,
  images: images.data.map((image) => image.url),
  heard: heard.text,
  subtitles,
  sound: sound.byteLength,
  errors,
}));
