// Vercel's AI SDK through its provider for servers that speak as OpenAI does.

import assert from "node:assert/strict";
import test from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  APICallError,
  embed,
  embedMany,
  generateText,
  jsonSchema,
  Output,
  stepCountIs,
  streamText,
  tool,
} from "ai";
import { z } from "zod";

import { all, said, url, weatherSchema } from "./server.mjs";

const dmr = createOpenAICompatible({
  name: "dmr",
  baseURL: `${url}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = dmr("test/tiny-script");
const prompt = "Count, please.";
const maxRetries = 0;

const weatherTool = (cities) =>
  tool({
    description: "The weather in a city",
    inputSchema: jsonSchema(weatherSchema),
    execute: async ({ city }) => {
      cities.push(city);
      return { sky: "sunny" };
    },
  });

test("a whole answer", async () => {
  const answer = await generateText({ model, prompt, maxRetries });
  assert.equal(answer.text, said.answer);
  assert.equal(answer.finishReason, "stop");
  assert.equal(answer.usage.outputTokens, said.answerTokens);
});

test("a streamed answer, with its usage", async () => {
  const stream = streamText({ model, prompt, maxRetries, onError: ({ error }) => assert.fail(String(error)) });
  const parts = await all(stream.textStream);
  assert.equal(parts.join(""), said.answer);
  assert.ok(parts.length > 5, "the tokens came one by one");
  assert.equal((await stream.usage).outputTokens, said.answerTokens);
  assert.equal(await stream.finishReason, "stop");
});

test("a tool loop, whole", async () => {
  const cities = [];
  const tools = { [said.tool]: weatherTool(cities) };
  const asked = { model, prompt: "How is the weather?", tools, stopWhen: stepCountIs(3), maxRetries };
  const answer = await generateText(asked);
  assert.deepEqual(cities, [said.toolArguments.city]);
  assert.deepEqual(answer.steps.map((step) => step.finishReason), ["tool-calls", "stop"]);
  assert.equal(answer.text, said.toolAnswer);
});

test("a tool loop, streamed", async () => {
  const cities = [];
  const tools = { [said.tool]: weatherTool(cities) };
  const stream = streamText({ model, prompt: "How is the weather?", tools, stopWhen: stepCountIs(3), maxRetries });
  assert.equal((await all(stream.textStream)).join(""), said.toolAnswer);
  assert.deepEqual(cities, [said.toolArguments.city]);
  assert.equal((await stream.steps).length, 2);
});

test("a tool that must be called is called", async () => {
  const tools = { other: tool({ description: "Another", inputSchema: z.object({ on: z.boolean() }) }) };
  const asked = { model, prompt, tools, toolChoice: "required", temperature: 0, maxOutputTokens: 200, maxRetries };
  const answer = await generateText(asked);
  assert.ok(answer.toolCalls.length > 0);
  for (const call of answer.toolCalls) {
    assert.equal(call.toolName, "other");
    assert.equal(typeof call.input.on, "boolean");
  }
});

test("reasoning comes apart from the answer", async () => {
  const answer = await generateText({ model: dmr("test/tiny-think"), prompt, maxRetries });
  assert.equal(answer.reasoningText.trim(), said.reasoning);
  assert.equal(answer.text.trim(), said.answer);
  const stream = streamText({ model: dmr("test/tiny-think"), prompt, maxRetries });
  assert.equal((await stream.text).trim(), said.answer);
  assert.equal((await stream.reasoningText).trim(), said.reasoning);
});

test("an answer is held to a schema", async () => {
  const schema = z.object({ name: z.string().max(20), age: z.number().int().min(0).max(150) });
  const answer = await generateText({
    model,
    prompt,
    maxRetries,
    temperature: 0,
    maxOutputTokens: 200,
    output: Output.object({ schema }),
  });
  assert.deepEqual(Object.keys(answer.output).sort(), ["age", "name"]);
});

test("embeddings", async () => {
  const embedder = dmr.embeddingModel("test/tiny-embed");
  const one = await embed({ model: embedder, value: "the system", maxRetries });
  assert.equal(one.embedding.length, said.embedSize);
  const { embeddings } = await embedMany({ model: embedder, values: ["the system", "the user"], maxRetries });
  assert.equal(embeddings.length, 2);
  assert.notDeepEqual(embeddings[0], embeddings[1]);
});

test("errors carry status and text", async () => {
  await assert.rejects(generateText({ model: dmr("nobody/nothing"), prompt, maxRetries }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 404);
    assert.equal(error.isRetryable, false);
    assert.match(error.message, /nobody\/nothing/);
    return true;
  });
  const errors = [];
  const onError = ({ error }) => errors.push(error);
  await all(streamText({ model, prompt: "word ".repeat(5000), maxRetries, onError }).textStream);
  assert.equal(errors[0].statusCode, 400);
});
