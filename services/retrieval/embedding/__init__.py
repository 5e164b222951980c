"""The embedding model on this machine, and the batching that shares it between threads."""
