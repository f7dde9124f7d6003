"""From a prompt to streamed text: requests, deployments, tokenizer and chat template."""
