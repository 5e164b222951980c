"""The optional tests with the real vLLM, in an environment of its own: `make test-vllm`."""
