"""Where models can be looked for. Apart, so that who only names the sources loads nothing."""

DOCKER_HUB = "dockerhub"
HUGGING_FACE = "huggingface"
SOURCES = (DOCKER_HUB, HUGGING_FACE)
EVERYWHERE = "all"
