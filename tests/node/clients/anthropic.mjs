// The official Anthropic client.

import assert from "node:assert/strict";
import test from "node:test";

import Anthropic from "@anthropic-ai/sdk";

import { all, ask, askWeather, personSchema, said, url, weatherSchema } from "./server.mjs";

const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const model = "test/tiny-script";
const weather = { name: said.tool, description: "The weather in a city", input_schema: weatherSchema };
const textOf = ({ content }) => content.map((block) => (block.type === "text" ? block.text : "")).join("");

test("a whole message", async () => {
  const message = await client.messages.create({ model, messages: ask, max_tokens: 64 });
  assert.equal(textOf(message), said.answer);
  assert.equal(message.stop_reason, "end_turn");
  assert.equal(message.usage.output_tokens, said.answerTokens);
  assert.ok(message._request_id);
});

test("a streamed message, through the helper that puts it together", async () => {
  const stream = client.messages.stream({ model, messages: ask, max_tokens: 64 });
  const deltas = [];
  stream.on("text", (delta) => deltas.push(delta));
  const message = await stream.finalMessage();
  assert.equal(deltas.join(""), said.answer);
  assert.ok(deltas.length > 5, "the tokens came one by one");
  assert.equal(textOf(message), said.answer);
  assert.equal(message.usage.output_tokens, said.answerTokens);
});

test("the events of a stream come in order", async () => {
  const events = await all(await client.messages.create({ model, messages: ask, max_tokens: 64, stream: true }));
  const types = events.map((event) => event.type).filter((type) => type !== "ping");
  const rest = types.filter((type) => type !== "content_block_delta");
  assert.deepEqual(rest, [
    "message_start",
    "content_block_start",
    "content_block_stop",
    "message_delta",
    "message_stop",
  ]);
});

test("a limit and a stop sequence are told apart", async () => {
  const short = await client.messages.create({ model, messages: ask, max_tokens: 3 });
  assert.equal(short.stop_reason, "max_tokens");
  assert.equal(textOf(short), "One, two, three");
  const stopped = await client.messages.create({ model, messages: ask, max_tokens: 64, stop_sequences: [", four"] });
  assert.equal(stopped.stop_reason, "stop_sequence");
  assert.equal(stopped.stop_sequence, ", four");
  assert.equal(textOf(stopped), "One, two, three");
});

for (const stream of [false, true]) {
  test(`the tool runner makes the whole loop, stream: ${stream}`, async () => {
    const cities = [];
    const run = ({ city }) => {
      cities.push(city);
      return "sunny";
    };
    const tools = [{ ...weather, run, parse: (input) => input }];
    const runner = client.beta.messages.toolRunner({ model, messages: askWeather, tools, max_tokens: 64, stream });
    assert.equal(textOf(await runner.runUntilDone()), said.toolAnswer);
    assert.deepEqual(cities, [said.toolArguments.city]);
  });
}

test("a result can be an error, with blocks inside", async () => {
  const first = await client.messages.create({ model, messages: askWeather, tools: [weather], max_tokens: 64 });
  assert.equal(first.stop_reason, "tool_use");
  const call = first.content.find((block) => block.type === "tool_use");
  assert.deepEqual(call.input, said.toolArguments);
  const content = [{ type: "text", text: "no such city" }];
  const result = { type: "tool_result", tool_use_id: call.id, is_error: true, content };
  const messages = [...askWeather, { role: "assistant", content: first.content }, { role: "user", content: [result] }];
  const second = await client.messages.create({ model, messages, tools: [weather], max_tokens: 64 });
  assert.equal(textOf(second), said.toolAnswer);
});

test("thinking is a block of its own and can be sent back", async () => {
  const thinking = { type: "enabled", budget_tokens: 1024 };
  const asked = { model: "test/tiny-think", messages: ask, max_tokens: 2048, thinking };
  const first = await client.messages.create(asked);
  assert.deepEqual(first.content.map((block) => block.type), ["thinking", "text"]);
  assert.equal(first.content[0].thinking.trim(), said.reasoning);
  assert.ok(first.content[0].signature);
  const messages = [...ask, { role: "assistant", content: first.content }, { role: "user", content: "Again." }];
  const second = await client.messages.create({ ...asked, messages });
  assert.equal(textOf(second).trim(), said.answer);
  const streamed = await client.messages.stream(asked).finalMessage();
  assert.deepEqual(streamed.content.map((block) => block.type), ["thinking", "text"]);
  assert.equal(streamed.content[0].thinking, first.content[0].thinking);
});

test("an answer is held to a schema", async () => {
  const format = { type: "json_schema", schema: personSchema };
  const asked = { model, messages: ask, max_tokens: 200, temperature: 0, output_config: { format } };
  const message = await client.messages.create(asked);
  assert.deepEqual(Object.keys(JSON.parse(textOf(message))).sort(), ["age", "name"]);
});

test("tokens are counted as they are billed", async () => {
  const asked = { model, messages: askWeather, tools: [weather], system: "Be brief." };
  const { input_tokens } = await client.messages.countTokens(asked);
  const { usage } = await client.messages.create({ ...asked, max_tokens: 64 });
  const billed = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens;
  assert.equal(input_tokens, billed);
});

test("many counts at once, as Claude Code asks for them", async () => {
  const texts = Array.from({ length: 24 }, (_, i) => "word ".repeat(i + 1));
  const count = (content) => client.beta.messages.countTokens({ model, messages: [{ role: "user", content }] });
  const counts = (await Promise.all(texts.map(count))).map((counted) => counted.input_tokens);
  counts.slice(1).forEach((tokens, i) => assert.ok(tokens > counts[i]));
});

test("models are listed and found by their names", async () => {
  // At /v1/models they are told in OpenAI's form; below /anthropic everything is Anthropic's.
  const { models } = new Anthropic({ baseURL: `${url}/anthropic`, apiKey: "none", maxRetries: 0 });
  const names = (await all(models.list({ limit: 2 }))).map((found) => found.id);
  assert.ok(names.length > 2, "it turned the page");
  assert.ok(names.includes(`${model}:latest`));
  assert.equal((await models.retrieve(model)).type, "model");
});

test("errors are of the right class and say what is wrong", async () => {
  const request = (fields) => client.messages.create({ model, messages: ask, max_tokens: 64, ...fields });
  await assert.rejects(request({ model: "nobody/nothing" }), (error) => {
    assert.ok(error instanceof Anthropic.NotFoundError);
    assert.equal(error.error.error.type, "not_found_error");
    assert.match(error.message, /nobody\/nothing/);
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(request({ max_tokens: 0.5 }), Anthropic.BadRequestError);
  await assert.rejects(request({ messages: [{ role: "king", content: "Hi" }] }), Anthropic.BadRequestError);
  await assert.rejects(request({ messages: [{ role: "user", content: "word ".repeat(5000) }] }), (error) => {
    assert.ok(error instanceof Anthropic.BadRequestError);
    assert.match(error.error.error.message, /^prompt is too long: \d+ tokens > \d+/);
    return true;
  });
  await assert.rejects(all(await client.messages.stream({ model: "nobody/nothing", messages: ask, max_tokens: 1 })));
});
