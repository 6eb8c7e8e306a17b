// The official OpenAI client.

import assert from "node:assert/strict";
import test from "node:test";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { all, ask, askWeather, said, url, weatherSchema } from "./server.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const model = "test/tiny-script";
const weather = { name: said.tool, description: "The weather in a city", parameters: weatherSchema };

test("a whole chat", async () => {
  const answer = await client.chat.completions.create({ model, messages: ask });
  assert.equal(answer.choices[0].message.content, said.answer);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.usage.completion_tokens, said.answerTokens);
});

test("a streamed chat, through the helper that puts it together", async () => {
  const stream = client.chat.completions.stream({ model, messages: ask, stream_options: { include_usage: true } });
  const deltas = [];
  stream.on("content", (delta) => deltas.push(delta));
  const whole = await stream.finalChatCompletion();
  assert.equal(deltas.join(""), said.answer);
  assert.ok(deltas.length > 5, "the tokens came one by one");
  assert.equal(whole.choices[0].message.content, said.answer);
  assert.equal((await stream.totalUsage()).completion_tokens, said.answerTokens);
});

for (const stream of [false, true]) {
  test(`a tool is called and its result reported, stream: ${stream}`, async () => {
    const cities = [];
    const call = ({ city }) => {
      cities.push(city);
      return "sunny";
    };
    const tools = [{ type: "function", function: { ...weather, function: call, parse: JSON.parse } }];
    const runner = client.chat.completions.runTools({ model, messages: askWeather, tools, stream });
    assert.equal(await runner.finalContent(), said.toolAnswer);
    assert.deepEqual(cities, [said.toolArguments.city]);
    assert.deepEqual(runner.messages.map((message) => message.role), ["user", "assistant", "tool", "assistant"]);
  });
}

test("a tool's arguments are streamed in pieces that join to JSON", async () => {
  const tools = [{ type: "function", function: weather }];
  const chunks = await all(await client.chat.completions.create({ model, messages: askWeather, tools, stream: true }));
  const calls = chunks.flatMap((chunk) => chunk.choices[0]?.delta.tool_calls ?? []);
  assert.equal(calls[0].function.name, said.tool);
  assert.ok(calls[0].id);
  assert.deepEqual(JSON.parse(calls.map((call) => call.function.arguments ?? "").join("")), said.toolArguments);
});

test("an answer is held to a schema", async () => {
  const person = z.object({ name: z.string().max(20), age: z.number().int().min(0).max(150) });
  const response_format = zodResponseFormat(person, "person");
  const asked = { model, messages: ask, response_format, max_tokens: 200, temperature: 0 };
  const answer = await client.chat.completions.parse(asked);
  assert.deepEqual(Object.keys(answer.choices[0].message.parsed).sort(), ["age", "name"]);
});

test("raw completions", async () => {
  const answer = await client.completions.create({ model, prompt: "Some text", max_tokens: 16 });
  assert.equal(answer.choices[0].text, said.completion);
});

test("embeddings are the same in base64, the client's default, and as floats", async () => {
  const asked = { model: "test/tiny-embed", input: ["the system", "the user"] };
  const packed = await client.embeddings.create(asked);
  const plain = await client.embeddings.create({ ...asked, encoding_format: "float" });
  assert.equal(packed.data.length, 2);
  for (const [i, { embedding }] of packed.data.entries()) {
    assert.equal(embedding.length, said.embedSize);
    embedding.forEach((value, j) => assert.ok(Math.abs(value - plain.data[i].embedding[j]) < 1e-6));
  }
  assert.notDeepEqual(packed.data[0].embedding, packed.data[1].embedding);
});

test("models are listed and found by their names", async () => {
  const names = (await all(client.models.list())).map((found) => found.id);
  assert.ok(names.includes(`${model}:latest`));
  assert.equal((await client.models.retrieve(model)).object, "model");
});

test("a response, whole and streamed", async () => {
  const whole = await client.responses.create({ model, input: "Count, please." });
  assert.equal(whole.status, "completed");
  assert.equal(whole.output_text, said.answer);
  assert.equal(whole.usage.output_tokens, said.answerTokens);
  const stream = client.responses.stream({ model, input: "Count, please." });
  const events = await all(stream);
  assert.equal(events[0].type, "response.created");
  assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
  assert.equal((await stream.finalResponse()).output_text, said.answer);
});

test("a response calls a tool, and the next one continues it by its id", async () => {
  const tools = [{ type: "function", strict: true, ...weather }];
  const first = await client.responses.create({ model, input: "How is the weather?", tools });
  const call = first.output.find((item) => item.type === "function_call");
  assert.equal(call.name, said.tool);
  assert.deepEqual(JSON.parse(call.arguments), said.toolArguments);
  const input = [{ type: "function_call_output", call_id: call.call_id, output: "sunny" }];
  const second = await client.responses.create({ model, input, tools, previous_response_id: first.id });
  assert.equal(second.output_text, said.toolAnswer);
});

test("errors are of the right class and say what is wrong", async () => {
  const request = (fields) => client.chat.completions.create({ model, messages: ask, ...fields });
  await assert.rejects(request({ model: "nobody/nothing" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    assert.match(error.message, /nobody\/nothing/);
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(request({ temperature: "hot" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  await assert.rejects(request({ stream: true, messages: [] }), OpenAI.BadRequestError);
  await assert.rejects(client.embeddings.create({ model: "test/tiny-embed", input: "" }), OpenAI.BadRequestError);
  await assert.rejects(client.responses.retrieve("resp_unknown"), OpenAI.NotFoundError);
});

test("a stream that is left does no harm", async () => {
  const messages = [{ role: "user", content: "abc" }];
  const endless = { model: "test/tiny-random", messages, max_tokens: 1500, stream: true };
  for await (const chunk of await client.chat.completions.create(endless)) {
    assert.ok(chunk.choices[0]);
    break;
  }
  const answer = await client.chat.completions.create({ model, messages: ask });
  assert.equal(answer.choices[0].message.content, said.answer);
});
