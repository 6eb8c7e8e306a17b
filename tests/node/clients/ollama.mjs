// The official Ollama client.

import assert from "node:assert/strict";
import test from "node:test";

import { Ollama } from "ollama";

import { all, ask, askWeather, personSchema, said, url, weatherSchema } from "./server.mjs";

const client = new Ollama({ host: url });
const model = "test/tiny-script";
const weather = { name: said.tool, description: "The weather in a city", parameters: weatherSchema };
const tools = [{ type: "function", function: weather }];

test("a whole chat", async () => {
  const answer = await client.chat({ model, messages: ask });
  assert.equal(answer.message.content, said.answer);
  assert.equal(answer.done_reason, "stop");
  assert.equal(answer.eval_count, said.answerTokens);
  assert.ok(answer.total_duration >= answer.prompt_eval_duration + answer.eval_duration);
});

test("a streamed chat", async () => {
  const parts = await all(await client.chat({ model, messages: ask, stream: true }));
  assert.equal(parts.map((part) => part.message.content).join(""), said.answer);
  assert.ok(parts.length > 5, "the tokens came one by one");
  assert.deepEqual(parts.map((part) => part.done), parts.map((_, i) => i === parts.length - 1));
  assert.equal(parts.at(-1).eval_count, said.answerTokens);
});

for (const stream of [false, true]) {
  test(`a tool is called and its result reported, stream: ${stream}`, async () => {
    const reply = await client.chat({ model, messages: askWeather, tools, stream });
    const parts = stream ? await all(reply) : [reply];
    const [call, ...others] = parts.flatMap((part) => part.message.tool_calls ?? []);
    assert.equal(others.length, 0);
    assert.equal(call.function.name, said.tool);
    assert.deepEqual(call.function.arguments, said.toolArguments);
    const result = { role: "tool", tool_name: said.tool, content: "sunny" };
    const messages = [...askWeather, { role: "assistant", content: "", tool_calls: [call] }, result];
    const final = await client.chat({ model, messages, tools });
    assert.equal(final.message.content, said.toolAnswer);
  });
}

test("thinking comes apart from the answer, and can be switched off", async () => {
  const thought = await client.chat({ model: "test/tiny-think", messages: ask, think: true });
  assert.equal(thought.message.thinking.trim(), said.reasoning);
  assert.equal(thought.message.content.trim(), said.answer);
  const quick = await client.chat({ model: "test/tiny-think", messages: ask, think: false });
  assert.equal(quick.message.thinking ?? "", "");
  assert.equal(quick.message.content.trim(), said.answer);
});

test("an answer is held to a schema", async () => {
  const options = { num_predict: 200, temperature: 0 };
  const answer = await client.chat({ model, messages: ask, format: personSchema, options });
  assert.deepEqual(Object.keys(JSON.parse(answer.message.content)).sort(), ["age", "name"]);
});

test("generate, with the template and without it, whole and streamed", async () => {
  assert.equal((await client.generate({ model, prompt: "Count, please." })).response, said.answer);
  assert.equal((await client.generate({ model, prompt: "Some text", raw: true })).response, said.completion);
  const parts = await all(await client.generate({ model, prompt: "Count, please.", stream: true }));
  assert.equal(parts.map((part) => part.response).join(""), said.answer);
});

test("options are honoured", async () => {
  const short = await client.chat({ model, messages: ask, options: { num_predict: 3 } });
  assert.equal(short.message.content, "One, two, three");
  assert.equal(short.done_reason, "length");
  const stopped = await client.chat({ model, messages: ask, options: { stop: [", four"] } });
  assert.equal(stopped.message.content, "One, two, three");
});

test("embeddings", async () => {
  const several = await client.embed({ model: "test/tiny-embed", input: ["the system", "the user"] });
  assert.equal(several.embeddings.length, 2);
  assert.equal(several.embeddings[0].length, said.embedSize);
  const one = await client.embeddings({ model: "test/tiny-embed", prompt: "the system" });
  assert.equal(one.embedding.length, said.embedSize);
});

test("models are listed, shown, and loaded", async () => {
  const names = (await client.list()).models.map((found) => found.name);
  assert.ok(names.includes(`${model}:latest`));
  const shown = await client.show({ model });
  assert.equal(shown.details.family, "llama");
  assert.ok(shown.capabilities.includes("tools"));
  await client.chat({ model, messages: [] });
  assert.ok((await client.ps()).models.some((running) => running.name === `${model}:latest`));
  assert.match((await client.version()).version, /^\d+\.\d+/);
});

test("errors are told with their status and text", async () => {
  const named = (status, text) => (error) => {
    assert.equal(error.name, "ResponseError");
    assert.equal(error.status_code, status);
    assert.match(error.message, text);
    return true;
  };
  const unknown = { model: "nobody/nothing", messages: ask };
  await assert.rejects(client.chat(unknown), named(404, /nobody\/nothing.*not found/));
  await assert.rejects(client.show({ model: "nobody/nothing" }), named(404, /not found/));
  await assert.rejects(client.generate({ model, prompt: 7 }), named(400, /prompt/));
  const wrong = { model, messages: ask, options: { top_p: "x" }, stream: true };
  await assert.rejects(client.chat(wrong), named(400, /top_p/));
});

test("a stream can be aborted", async () => {
  const options = { num_predict: 1500 };
  const stream = await client.generate({ model: "test/tiny-random", prompt: "abc", raw: true, stream: true, options });
  await assert.rejects(async () => {
    for await (const part of stream) {
      assert.equal(part.done, false);
      stream.abort();
    }
  }, { name: "AbortError" });
});
