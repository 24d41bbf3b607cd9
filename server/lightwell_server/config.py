"""The server's settings: flags, else environment `LIGHTWELL_*`, else defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Count = Annotated[int, Gt(0)]
Seconds = Annotated[float, Gt(0)]


class Settings(BaseSettings):
    """Settings of a server."""

    model_config = SettingsConfigDict(
        env_prefix="LIGHTWELL_", extra="forbid", cli_prog_name="lightwell serve", cli_kebab_case=True
    )

    repository: Path = Field(description="Directory of models: <name>/<version>/model.pt or model.pt2, and card.toml.")
    address: str = Field("0.0.0.0:50051", description="Where gRPC is served; port 0 takes a free one.")
    metrics_port: Annotated[int, Ge(0)] = Field(
        9464, description="Port of the Prometheus metrics; 0 switches them off."
    )
    device: str = Field("cpu", description="The device that computes: cpu, or an accelerator such as cuda:0.")
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = Field(
        "float32", description="The type of numbers computed with by models whose card does not choose."
    )
    threads: Annotated[int, Ge(0)] = Field(
        0, description="Threads of one operation on the CPU; 0 leaves the choice to the library."
    )
    max_jobs: Count = Field(
        256, description="Requests in progress before further ones are refused with RESOURCE_EXHAUSTED."
    )
    max_rows: Count = Field(32, description="Rows of a device step at most.")
    step_seconds: Seconds = Field(
        0.1, description="Seconds that a device step should take at most; single rows may take longer."
    )
    max_seconds: Seconds = Field(600.0, description="Seconds that a request may take, whatever its deadline.")
    max_message_bytes: Count = Field(64 * 2**20, description="Bytes of a message, in both directions.")
    max_pixels: Count = Field(50_000_000, description="Pixels of an image, read from its header before it is decoded.")
    grace_seconds: Seconds = Field(30.0, description="Seconds that accepted requests may still take after SIGTERM.")
    settle_seconds: Annotated[float, Ge(0)] = Field(
        0.0, description="Seconds between NOT_SERVING and refusing calls, for load balancers to notice."
    )
    reflection: bool = Field(True, description="Whether gRPC reflection is on.")
