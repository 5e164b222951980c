"""What /openapi.json says of parameters: one name means one thing, but where a path says otherwise."""

MEANINGS = {
    "after": "The id of the last item that is known; the list goes on after it.",
    "before": "The id of an item; the list ends before it.",
    "limit": "The most items on a page.",
    "order": "By creation: `asc` is oldest first.",
    "file_id": "A file's id.",
    "upload_id": "An upload's id.",
    "dataset_id": "A dataset's id.",
    "prompt_id": "The id of one version of a prompt.",
    "variant_id": "A variant's id.",
    "release_id": "A release's id.",
    "completion_id": "A stored completion's id, which is the answer's.",
    "store_id": "A vector store's id.",
    "batch_id": "A batch's id.",
    "job_id": "A job's id.",
    "search_id": "A search's id.",
    "adapter_id": "An adapter's id.",
    "recipe_name": "A recipe's name, as the list has it.",
    "experiment_id": "An experiment's id.",
    "evaluation_id": "An evaluation's id.",
    "eval_id": "An eval's id.",
    "run_id": "The id of a run of this eval.",
    "output_item_id": "The id of an output item of this run.",
    "key_id": "A key's id, not its text.",
    "model": "A model id, as GET /v1/models lists it.",
    "stream": "Follow the job: answer with server-sent events until it ends, and not with a page.",
    "Last-Event-ID": "The id of the last event that is known; a stream goes on after it. It wins over `after`.",
}
"""By the parameter's name."""
BY_PATH = {
    ("/v1/files", "purpose"): "Only files of this purpose.",
    ("/v1/chat/completions", "model"): "Only answers to requests that named this model.",
    ("/v1/chat/completions/{completion_id}/messages", "after"): "The id of the last message that is known; the list "
    "goes on after it.",
    ("/v1/chat/completions/{completion_id}/messages", "order"): "`asc` is the order in which they were sent.",
    ("/v1/prompts", "name"): "Only versions of the prompt of this name.",
    ("/v1/datasets/{dataset_id}/examples", "split"): "Only examples of this split.",
    ("/v1/models/{model}/export", "model"): "An adapter, a checkpoint, or a variant or release that has one.",
    ("/v1/vector_stores/{store_id}/files", "filter"): "Only files of this status.",
    ("/v1/vector_stores/{store_id}/file_batches/{batch_id}/files", "filter"): "Only files of this status.",
    ("/v1/searches/{search_id}/trials", "order"): "By number: `asc` is the order in which they began.",
    ("/v1/evaluations", "experiment"): "Only evaluations that the experiment of this id ordered.",
    ("/v1/evaluations/{evaluation_id}/answers", "after"): "The id of the last answer that is known; the list goes on "
    "after it.",
    ("/v1/evals", "order"): "By the moment of `order_by`: `asc` is oldest first.",
    ("/v1/evals", "order_by"): "The moment by which the list is ordered.",
    ("/v1/evals/{eval_id}/runs", "status"): "Only runs of this status.",
    ("/v1/evals/{eval_id}/runs/{run_id}/output_items", "status"): "Only items that passed, failed or could not be "
    "graded.",
    ("/v1/jobs", "kind"): "Only jobs of this kind, such as training.train_adapter.",
    ("/v1/jobs", "status"): "Only jobs of this status.",
}
"""Where a name means something else, or stands on one path alone."""


def meaning(path: str, name: str) -> str | None:
    """What to say of a parameter whose route says nothing."""
    return BY_PATH.get((path, name)) or MEANINGS.get(name)
