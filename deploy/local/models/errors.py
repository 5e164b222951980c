"""What can go wrong while a model is fetched."""


class ModelError(Exception):
    """The model cannot be had or may not be used; the message is fit to print."""


class UnsafeModel(ModelError):
    """The folder carries pickled weights or code, which we never load."""
