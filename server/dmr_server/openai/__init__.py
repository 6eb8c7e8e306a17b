"""OpenAI's chat completions, completions and models, as its OpenAPI document 2.3.0 describes them."""
