"""The build hook: generates the protobuf and gRPC stubs, with their types, into client/lightwell/v1, and beside them
the list of all methods' messages."""

from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GenerateStubs(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))


def generate(root: Path) -> None:
    """Compiles every file under protos/ into the package `lightwell.v1`."""
    with TemporaryDirectory() as folder:
        described = Path(folder, "descriptors")
        _compile(root / "protos", root / "client", described)
        source = methods(described.read_bytes())
    (root / "client" / "lightwell" / "v1" / "methods_pb2.py").write_text(source, encoding="utf-8")


def _compile(protos: Path, package: Path, described: Path) -> None:
    from grpc_tools import protoc

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
            f"--descriptor_set_out={described}",
            *(str(path) for path in sorted(protos.rglob("*.proto"))),
        ]
    )
    if status:
        raise SystemExit(f"protoc failed with status {status}")


def methods(described: bytes) -> str:
    """The source of a module with the messages of all methods, which are the fields of a oneof of that name."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    found: list[tuple[str, str]] = []
    for file in FileDescriptorSet.FromString(described).file:
        module = file.name.removesuffix(".proto").replace("/", ".") + "_pb2"
        for message in file.message_type:
            for field in message.field:
                if field.HasField("oneof_index") and message.oneof_decl[field.oneof_index].name == "method":
                    found.append((module, field.type_name.rpartition(".")[2]))
    imports = "".join(f"from {module} import {name}\n" for module, name in sorted(found))
    every = "".join(f'    "{name}",\n' for name in sorted(name for _, name in found))
    return f'"""The messages of all methods."""\n\n{imports}\n__all__ = [\n{every}]\n'
