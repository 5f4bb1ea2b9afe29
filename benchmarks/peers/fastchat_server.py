"""FastChat's three processes as one: controller, model worker, OpenAI server.

    python -m benchmarks.peers.fastchat_server FOLDER

Runs in FastChat's own environment. Prints its address when the model is there, then serves until
its standard input ends.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

HOST = "127.0.0.1"


def main(folder: str) -> None:
    ports = _free_ports(3)
    controller, worker, server = (f"http://{HOST}:{port}" for port in ports)
    parts = [
        ["controller"],
        ["model_worker", "--model-path", folder, "--model-names", "benchmark", "--device", "cpu",
         "--dtype", "bfloat16", "--controller-address", controller, "--worker-address", worker],
        ["openai_api_server", "--controller-address", controller],
    ]  # fmt: skip
    running = [_start(*part, port=port) for part, port in zip(parts, ports, strict=True)]
    try:
        while not _lists_a_model(server):
            ended = [process.args for process in running if process.poll() is not None]
            if ended:
                raise SystemExit(f"ended early: {ended}")
            time.sleep(0.2)
        print(server, flush=True)
        sys.stdin.read()
    finally:
        for process in running:
            process.terminate()


def _start(module: str, *arguments: str, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"fastchat.serve.{module}", *arguments]
    command += ["--host", HOST, "--port", str(port)]
    # FastChat writes a log file into LOGDIR, by default where it was started; none if empty.
    return subprocess.Popen(command, env={**os.environ, "LOGDIR": ""}, stdin=subprocess.DEVNULL)


def _lists_a_model(server: str) -> bool:
    try:
        with urllib.request.urlopen(f"{server}/v1/models", timeout=5) as reply:  # noqa: S310
            return bool(json.load(reply)["data"])
    except (OSError, ValueError):
        return False


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind((HOST, 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


if __name__ == "__main__":
    main(sys.argv[1])
