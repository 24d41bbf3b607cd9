"""The server's settings: flags, else environment `LIGHTWELL_*`, else a file, else defaults."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval
from pydantic import Field, model_validator
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

Count = Annotated[int, Interval(gt=0, lt=2**31)]
Pixels = Annotated[int, Interval(gt=0, le=178_956_970)]
"""Pillow decodes no more."""
Seconds = Annotated[float, Interval(gt=0, le=1e6)]
Amount = Annotated[int, Ge(0)]
Port = Annotated[int, Interval(ge=0, lt=2**16)]
Wait = Annotated[float, Interval(ge=0, le=1e6)]


class Settings(BaseSettings):
    """Settings of a server. Each may be a flag, else an environment variable (LIGHTWELL_MAX_JOBS for --max-jobs), else
    a line of the file that --config names (max_jobs = 256)."""

    model_config = SettingsConfigDict(
        env_prefix="LIGHTWELL_",
        extra="forbid",
        cli_prog_name="lightwell serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
    )

    repository: Path = Field(
        description="Directory of models: <name>/<version>/model.pt (.pt2, .torchscript, .ts, .jit, .ptl), card.toml."
    )
    aliases: Path | None = Field(
        None, description="TOML file of other names for versions; else aliases.toml in the repository, if there is one."
    )
    config: Path | None = Field(None, description="A TOML file with settings.")
    print_config: bool = Field(False, description="Print the settings as such a file, and end.")

    address: str = Field("0.0.0.0:50051", description="Where gRPC is served; port 0 takes a free one.")
    metrics_port: Port = Field(9464, description="Port of the Prometheus metrics; 0 switches them off.")
    health_address: str | None = Field(
        None, description="Where health alone is served in plaintext, for probes that know no TLS."
    )
    reflection: bool = Field(True, description="Whether gRPC reflection is on.")

    devices: str = Field("cpu", description="The devices that compute: cpu, or accelerators such as cuda:0,cuda:1.")
    workers: Annotated[int, Interval(ge=0, le=256)] | None = Field(
        None,
        description="Worker processes: one for each device, on cpu any number (unset: one); 0: all in one process.",
    )
    worker_health_seconds: Seconds = Field(
        10.0, description="Seconds after which a worker that does not answer is replaced."
    )
    versions: Literal["newest", "all"] = Field(
        "newest", description="Which versions of a model are loaded: the newest and those with an alias, or all."
    )
    require_models: str = Field(
        "", description="Models, by commas, each of which must answer before the server is ready: net,style."
    )
    max_load_seconds: Seconds = Field(
        600.0, description="Seconds that the loading of a model may take before it is refused."
    )
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = Field(
        "float32", description="The type of numbers computed with by models whose card does not choose."
    )
    threads: Amount = Field(0, description="Threads of one operation on the CPU; 0 leaves the choice to the library.")
    max_rows: Count = Field(32, description="Rows of a device step at most.")
    step_seconds: Seconds = Field(
        0.1, description="Seconds that a device step should take, to the nearest row; single rows may take longer."
    )

    max_jobs: Count = Field(
        256, description="Requests in progress before further ones are refused with RESOURCE_EXHAUSTED."
    )
    max_jobs_per_caller: Count | None = Field(
        None, description="Those of one caller among them (unset: half of --max-jobs)."
    )
    max_queue_seconds: Seconds = Field(
        300.0, description="Predicted seconds of work that may be before a request when it comes."
    )
    max_streams_per_caller: Count = Field(64, description="Streams that one caller may have open.")
    max_seconds: Seconds = Field(600.0, description="Seconds that a request may take, whatever its deadline.")
    max_message_bytes: Count = Field(64 * 2**20, description="Bytes of a message, in both directions.")
    max_pixels: Pixels = Field(
        50_000_000, description="Pixels of a request's images, read from their headers before they are decoded."
    )
    max_gateway_bytes: Amount = Field(
        0,
        description="Bytes that requests, pictures and answers may take together beside the devices; 0: a quarter of a"
        " container's limit, or a fifth of what is free at the start.",
    )
    max_connections: Amount = Field(
        0, description="Connections that may be open; 0: as many as the limit of open files allows."
    )
    max_receive_seconds: Seconds = Field(60.0, description="Seconds in which a request must have come as a whole.")
    max_send_seconds: Seconds = Field(30.0, description="Seconds in which a message of an answer must be read.")
    max_request_rows: Count = Field(100_000, description="Rows that a method may ask the model for at once.")
    max_request_steps: Count = Field(10_000, description="Steps that a method may plan.")
    max_memory_bytes: Amount = Field(
        0, description="Bytes of the device for one step; 0: four fifths of what is free when the first request comes."
    )

    tls_certificate: Path | None = Field(None, description="The server's certificate chain, PEM; switches TLS on.")
    tls_key: Path | None = Field(None, description="The certificate's key, PEM.")
    tls_client_ca: Path | None = Field(
        None, description="Authorities, PEM, one of which must have signed each caller's certificate (mTLS)."
    )
    tokens: Path | None = Field(
        None,
        description="TOML file of callers: a table [name] each, with token (or sha256) and rights = [explain, admin].",
    )

    keepalive_seconds: Seconds = Field(60.0, description="Seconds of silence after which a connection is probed.")
    max_connection_seconds: Wait = Field(
        1800.0, description="Seconds after which a connection is renewed, so that new servers get calls; 0: never."
    )
    max_idle_seconds: Seconds = Field(300.0, description="Seconds without a call after which a connection is closed.")
    settle_seconds: Wait = Field(
        0.0, description="Seconds between NOT_SERVING and refusing calls, for load balancers to notice."
    )
    grace_seconds: Seconds = Field(30.0, description="Seconds that accepted requests may still take after SIGTERM.")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="From which level on there are log lines; each call has one of level info."
    )
    slow_seconds: Seconds = Field(30.0, description="Seconds from which on a call's log line is a warning.")
    otlp_endpoint: str | None = Field(
        None, description="OpenTelemetry collector that gets traces by gRPC, such as http://localhost:4317."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What goes before what; flags go before all."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _file(sys.argv[1:]))

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        names = self.device_names
        if self.workers and names != ["cpu"] and self.workers != len(names):
            raise ValueError(f"workers is {self.workers} and there are {len(names)} devices; a worker owns one device")
        if self.workers == 0 and len(names) > 1:
            raise ValueError("workers is 0: one process uses one device; name only one in devices")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self

    @property
    def device_names(self) -> list[str]:
        """The devices, one by one."""
        return _listed(self.devices)

    @property
    def required(self) -> list[str]:
        """The names of the models without which the server is not ready."""
        return _listed(self.require_models)

    @property
    def each_jobs(self) -> int:
        """Requests that one caller may have in progress."""
        return self.max_jobs_per_caller or max(1, self.max_jobs // 2)

    @property
    def owned(self) -> list[str]:
        """The device of each worker process, by number; empty if all is in one process."""
        names = self.device_names
        if names == ["cpu"]:
            return names * (1 if self.workers is None else self.workers)
        return [] if self.workers == 0 else names

    def toml(self) -> str:
        """The settings as a file; what is unset is left out."""
        values = self.model_dump(mode="json", exclude={"config", "print_config"}, exclude_none=True)
        return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def settings() -> Settings:
    """The settings of this process. Raises ValueError with a sentence about each wrong one."""
    file = _file(sys.argv[1:])
    if file is not None and not file.is_file():
        raise ValueError(f"--config: there is no file {file}")
    try:
        return CliApp.run(Settings)
    except SettingsError as error:
        raise ValueError(str(error)) from None


def _file(words: Sequence[str]) -> Path | None:
    """The file that the flags or the environment name."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    named = parser.parse_known_args(words)[0].config or os.environ.get("LIGHTWELL_CONFIG")
    return Path(named) if named else None


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _toml(value: Any) -> str:  # noqa: ANN401 - a plain value of JSON
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
