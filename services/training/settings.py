"""What training adds to the settings, and the environment that its child process gets."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from shared.settings import Settings

_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


class TrainingSettings(Settings):
    """UPLIFT_TRAINING_GRACE_SECONDS is how long a child may take to write its checkpoint when asked to stop."""

    training_grace_seconds: float = 60.0
    adapter_most_bytes: int = 1 << 30
    """The largest weights file of an uploaded adapter."""
    adapter_most_rank: int = 256
    """The highest rank of an uploaded adapter: the engine keeps every rank of every loaded adapter side by side."""
    adapter_check_seconds: float = 600.0
    """How long loading an uploaded adapter for its first pass may take."""
    max_line_bytes: int = 4 * 2**20
    """The longest line of an uploaded training file; the data service's limit of the same name."""

    training_processes: Annotated[int, Field(ge=1)] = 1
    """UPLIFT_TRAINING_PROCESSES: how many processes train one job together, each with a GPU or a part of the cores."""

    training_shard: Literal["none", "full"] = "none"
    """UPLIFT_TRAINING_SHARD: `full` spreads the weights over these processes, for a model that fits no single GPU."""

    training_memory_gib: Annotated[float, Field(gt=0)] | None = None
    """UPLIFT_TRAINING_MEMORY_GIB: a job that would take more is refused; without it, what is free decides."""

    tensorboard_dir: Path | None = None
    """UPLIFT_TENSORBOARD_DIR: where every run's figures are written as event files too, a folder a job."""
    mlflow_tracking_uri: Annotated[str | None, Field(validation_alias="MLFLOW_TRACKING_URI")] = None
    """The MLflow server (or database) that gets every run's figures too."""

    @property
    def training_dir(self) -> Path:
        """Working folders of running jobs."""
        return self.home / "work" / "training"

    @property
    def exports_dir(self) -> Path:
        """Working folders of models being exported."""
        return self.home / "work" / "exports"

    @property
    def imports_dir(self) -> Path:
        """Working folders of adapters being checked."""
        return self.home / "work" / "adapters"


class Launch(BaseSettings):
    """Which of several training processes this is: RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR, as set by
    `accelerate launch`, `torchrun` or the worker."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    master_addr: str | None = None
    """Where the processes meet; None where they are of one machine and meet at a file."""


def rank_environment(rank: int, processes: int) -> dict[str, str]:
    """What tells a training process of this machine which one it is; they talk over the loopback device alone."""
    if processes == 1:
        return {}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
    return {name: str(number) for name, number in numbers.items()} | {"GLOO_SOCKET_IFNAME": "lo"}


def child_environment(shard: Literal["none", "full"] = "none") -> dict[str, str]:
    """A short list: the child reads data that strangers uploaded, and needs no key and no database."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # keep freed tensors in the heap, on huge pages: returning them to the kernel after every operation and
        # faulting them in again costs about 7 % of a step
        # but whole layers that are fetched and freed again and again leave holes that nothing else fits into
        "MALLOC_MMAP_THRESHOLD_": "33554432" if shard == "none" else "1048576",
        "MALLOC_TRIM_THRESHOLD_": "4000000000",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        # OpenMP's threads spin at every barrier before they sleep. Woken from sleep at each of a step's thousands of
        # barriers, two threads are no faster than one (docs/lab-notebook.md); but who spins while another process holds
        # the core that all wait for loses minutes, so the compute share leaves busy cores alone
        "GOMP_SPINCOUNT": "30000",
    }
