"""The images run as a user without rights, and the services publish nothing beyond the machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

DOCKER = Path(__file__).parents[1] / "docker"


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cpu"])
def test_an_image_runs_as_a_user_and_contains_no_secret(name: str) -> None:
    text = (DOCKER / name).read_text(encoding="utf-8")
    last = text[text.rindex("\nFROM ") :]
    assert re.findall(r"^USER (\S+)", last, re.MULTILINE) == ["1000"]
    assert last.index("USER") > max(last.index(each) for each in ("RUN", "COPY"))
    assert re.findall(r"^ENTRYPOINT (.+)", last, re.MULTILINE) == ['["peftkit"]']
    assert "apt" not in text and not re.search(r"TOKEN|_KEY|SECRET|EXPOSE|\bADD\b", text)


def test_a_service_has_a_read_only_root_and_no_rights() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for service in services.values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "privileged" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "ports" not in service and "HF_TOKEN" not in str(service.get("build"))
        places = {volume.rsplit(":", 1)[1] for volume in service["volumes"]} | {*service["tmpfs"]}
        assert (
            {"/app/outputs", "/tmp"}
            <= places
            <= {"/app/outputs", "/tmp"} | {f"/home/peftkit/.cache/{name}" for name in ("huggingface", "peftkit")}
        )
    assert services["board"]["network_mode"] == "host"  # the server listens at 127.0.0.1 of the host
    assert services["board"]["environment"] == {}
