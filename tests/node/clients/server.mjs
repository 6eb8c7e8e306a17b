// Where the server is and what its scripted models say: tests/e2e/test_node_clients.py tells.

export const url = process.env.DMR_URL;
export const said = JSON.parse(process.env.DMR_SCRIPT);

export const ask = [{ role: "user", content: "Count, please." }];
export const askWeather = [{ role: "user", content: "How is the weather?" }];

export const weatherSchema = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};

export const personSchema = {
  type: "object",
  properties: { name: { type: "string", maxLength: 20 }, age: { type: "integer", minimum: 0, maximum: 150 } },
  required: ["name", "age"],
  additionalProperties: false,
};

/** All that an async iterable gives. */
export async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}
