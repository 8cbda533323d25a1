"""Who samples, where that is not this process: servers that speak OpenAI's chat completions."""
