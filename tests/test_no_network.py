"""Nothing asks the network unless somebody asks for it: training, embedding and the report with every way out shut."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from running import Runner

# An audit hook hears every connection and every look-up of a name that Python makes, whichever library asks for it.
SHUT = """
import sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and address and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
            print("ASKED THE NETWORK", event, address, file=sys.stderr)
            raise OSError(f"network: {address}")
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        if str(arguments[0]) not in ("127.0.0.1", "::1", "localhost", "None", ""):
            print("ASKED THE NETWORK", event, arguments, file=sys.stderr)
            raise OSError(f"network: {arguments}")
sys.addaudithook(hook)
"""
EVERY = [
    *("trainer.max_steps=2", "trainer.batch_size=2", "trainer.log_every=1", "trainer.device=cpu", "trainer.threads=1"),
    *("data.workers=0", "monitor.every=1", "name=quick"),
]
SMALL = {
    "audio": ["probe.enabled=false", "audio.encoder.size=nano", "data.seconds=1.6"],
    "causal": ["data.episodes=6", "data.test_episodes=2", "probe.enabled=false"],
    "lidar": ["data.root=simulated", "data.scenes=4", "data.azimuths=64", "data.beams=32", "probe.enabled=false"],
    "video": ["probe.enabled=false", "data.clips=40", "data.frames=4", "data.height=32", "data.width=32"],
    "vision": ["probe.enabled=false", "vision.encoder.size=nano"],
}


@pytest.mark.slow
@pytest.mark.parametrize("modality", SMALL)
def test_training_embedding_and_report_ask_no_network(modality: str, run: Runner, tmp_path: Path) -> None:
    train = ["train", f"modality={modality}", *EVERY, *SMALL[modality]]
    # Of the recordings that the package brings, nothing is held back unless a fold is named.
    split = "all" if modality == "audio" else "test"
    embed = ["embed", "run=runs/quick", f"split={split}", "out=table.parquet"]
    steps = [f"assert main({verb!r}) == 0" for verb in (train, embed, ["report", "runs/quick"])]
    code = "\n".join([SHUT, "from jepa_core.cli import main", *steps])
    done = run([sys.executable, "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ASKED THE NETWORK" not in done.stderr
    assert (tmp_path / "runs" / "quick" / "report.html").is_file()


def test_the_hook_would_hear_it(run: Runner, tmp_path: Path) -> None:
    code = f"{SHUT}\nimport urllib.request\nurllib.request.urlopen('http://example.org/')"
    done = run([sys.executable, "-c", code], tmp_path)
    assert done.returncode != 0 and "ASKED THE NETWORK" in done.stderr
