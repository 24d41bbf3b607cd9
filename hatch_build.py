"""The build hook: generates the protobuf and gRPC stubs, with their types, into client/lightwell/v1."""

from importlib import resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GenerateStubs(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))


def generate(root: Path) -> None:
    """Compiles every file under protos/ into the package `lightwell.v1`."""
    from grpc_tools import protoc

    protos, package = root / "protos", root / "client"
    well_known = resources.files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={protos}",
            f"--proto_path={well_known}",
            f"--python_out={package}",
            f"--grpc_python_out={package}",
            f"--mypy_out={package}",
            f"--mypy_grpc_out={package}",
            *(str(path) for path in sorted(protos.rglob("*.proto"))),
        ]
    )
    if status:
        raise SystemExit(f"protoc failed with status {status}")
