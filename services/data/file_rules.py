"""What a client's file may be for, what it may be called and how long it may be kept."""

from services.data.errors import UploadRefused

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
LEAST_EXPIRY_SECONDS, MOST_EXPIRY_SECONDS = 3600, 30 * 24 * 3600
LONGEST_NAME = 512


def check_purpose(purpose: str) -> None:
    """Raise UploadRefused for a purpose that clients cannot choose."""
    if purpose not in PURPOSES:
        raise UploadRefused(f"purpose is {purpose!r}; it must be one of {', '.join(PURPOSES)}.", param="purpose")


def check_name(filename: str, *, param: str) -> None:
    """Raise UploadRefused for a name that could not be shown. A name is a label: it never becomes a path."""
    if not filename or len(filename) > LONGEST_NAME or not filename.isprintable():
        raise UploadRefused(f"The file's name must be 1 to {LONGEST_NAME} printable characters.", param=param)


def check_expiry(seconds: int) -> None:
    """Raise UploadRefused for a lifetime outside OpenAI's limits."""
    if not LEAST_EXPIRY_SECONDS <= seconds <= MOST_EXPIRY_SECONDS:
        limits = f"between {LEAST_EXPIRY_SECONDS} and {MOST_EXPIRY_SECONDS}"
        raise UploadRefused(f"expires_after.seconds must lie {limits}.", param="expires_after.seconds")
