"""OpenAI's Evals: graders over the rows of a file or over a model's answers to them, run as durable jobs."""
