"""It lists, shows and deletes models as the client asks for them."""

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.contract.client.conftest import CHAT, EMBEDDER

covers = pytest.mark.covers


@covers("models.list")
def test_lists_base_models_and_embedders(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {CHAT, EMBEDDER} <= set(listed)
    assert listed[CHAT].object == "model"
    assert listed[CHAT].created > 1_600_000_000
    assert listed[CHAT].owned_by


@covers("models.retrieve")
def test_shows_one_model(client: openai.OpenAI) -> None:
    model = client.models.retrieve(CHAT)
    assert (model.id, model.object) == (CHAT, "model")


@covers("models.retrieve")
def test_takes_a_slash_in_a_model_id(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("somebody/some-model")
    assert "somebody/some-model" in refused.value.message


@covers("models.retrieve")
def test_shows_a_fine_tuned_model(client: openai.OpenAI, trained: FineTuningJob) -> None:
    assert trained.fine_tuned_model
    assert client.models.retrieve(trained.fine_tuned_model).id == trained.fine_tuned_model
    assert trained.fine_tuned_model in [model.id for model in client.models.list()]


@covers("models.delete")
def test_deletes_a_variant_and_then_knows_it_no_more(client: openai.OpenAI) -> None:
    made = client.post(
        "/variants",
        body={"name": "to be deleted", "base_model": CHAT, "sampling": {"temperature": 0.0, "max_tokens": 5}},
        cast_to=object,
    )
    deleted = client.models.delete(made["model"])  # type: ignore[index]
    assert (deleted.id, deleted.object, deleted.deleted) == (made["model"], "model", True)  # type: ignore[index]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(made["model"])  # type: ignore[index]


@covers("models.delete")
def test_refuses_to_delete_a_base_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.models.delete(CHAT)
    assert 400 <= refused.value.status_code < 500
    assert client.models.retrieve(CHAT).id == CHAT
