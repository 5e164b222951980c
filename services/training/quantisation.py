"""Whether bases can be held in four bits here: bitsandbytes is an optional dependency."""

from importlib.util import find_spec

from services.training.errors import QuantisationUnavailable


def check_quantisation() -> None:
    """QuantisationUnavailable, which says how to install it, where the library is missing."""
    if find_spec("bitsandbytes") is None:
        raise QuantisationUnavailable(
            "`tune: qlora` needs bitsandbytes, which is not installed here: pip install 'uplift[qlora]', or use "
            "`tune: lora`.",
            param="recipe.tune",
        )
