#!/usr/bin/env python3
"""How busy a job is that trains on small files: compute / (compute + waits), as MLPerf Storage reckons it.

    bench/images.py plan [--files 5000] [--json FILE]

MODE is `ext4` (the same files on a local disk, page cache dropped), `off` (nothing is read ahead), `detect` (the
defaults) or `plan` (the job posts its order before each epoch). 4 workers open, read and close files of ~102 KB in
another order each epoch, and hand over batches of 64; the consumer "computes" 100 ms a batch. Before the second epoch
the kernel's page cache is dropped. S3 is the lab: first byte 20 ms in the median, 200 ms at the 99th percentile, 90 MB/s
a connection. What S3 gave is what its ledger says. The wait for the first batch is told apart: the benchmark's
utilisation is without it.

Needs root, for dropping the page cache, and a built `tenderfs` (target/measure/tenderfs, or $TENDERFS).
"""

import argparse
import http.client
import json
import os
import queue
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

WORKERS, BATCH, COMPUTE, EPOCHS = 4, 64, 0.1, 2
SHAPE = {
    "first_byte": {"distribution": {"median": 0.02, "p99": 0.2}},
    "connection_bytes_per_second": 90_000_000,
}
S3, CONTROL = "127.0.0.1:9027", "127.0.0.1:9028"


def control(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{CONTROL}{path}", method=method, data=data)
    return json.loads(urllib.request.urlopen(request).read() or b"null")


class Admin(http.client.HTTPConnection):
    """The admin API, over its Unix socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None):
        self.request(method, path, body)
        answer = self.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text)


def name(number):
    return f"img/{number:05d}.jpg"


def read(path):
    descriptor = os.open(path, os.O_RDONLY)
    while os.read(descriptor, 1 << 17):
        pass
    os.close(descriptor)


def drop_page_cache():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def epoch(folder, order):
    """Runs one epoch; returns its batches, the wait for the first one and all later waits."""
    batches = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
    queues = [queue.Queue(2) for _ in range(WORKERS)]

    def work(worker):
        for batch in batches[worker::WORKERS]:
            for number in batch:
                read(f"{folder}/{name(number)}")
            queues[worker].put(None)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    waits = []
    for number in range(len(batches)):
        began = time.monotonic()
        queues[number % WORKERS].get()
        waits.append(time.monotonic() - began)
        time.sleep(COMPUTE)
    for thread in threads:
        thread.join()
    return len(batches), waits[0], sum(waits[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=["ext4", "off", "detect", "plan"])
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--option", action="append", default=[], help="of `tenderfs mount`, such as --s3-hedging=false")
    arguments = parser.parse_args()
    tenderfs = os.path.realpath(os.environ.get("TENDERFS", "target/measure/tenderfs"))
    chance = random.Random(5)
    orders = [chance.sample(range(arguments.files), arguments.files) for _ in range(EPOCHS)]
    with tempfile.TemporaryDirectory() as work:
        os.makedirs(f"{work}/s3/data/img")
        os.mkdir(f"{work}/mnt")
        for number in range(arguments.files):
            with open(f"{work}/s3/data/{name(number)}", "wb") as file:
                file.write(os.urandom(102_000 + number % 4_000))
        if arguments.mode == "ext4":
            results = run(arguments.mode, f"{work}/s3/data", orders, None)
        else:
            results = served(tenderfs, arguments, work, orders)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file)


def served(tenderfs, arguments, work, orders):
    lab = subprocess.Popen(
        [tenderfs, "lab", "--folder", f"{work}/s3", "--listen", S3, "--control", CONTROL],
        stdout=subprocess.PIPE,
    )
    environment = dict(os.environ, AWS_ENDPOINT_URL=f"http://{S3}", AWS_REGION="us-east-1")
    environment |= {"AWS_ACCESS_KEY_ID": "tenderfs", "AWS_SECRET_ACCESS_KEY": "tenderfs-secret"}
    mount = [tenderfs, "mount", "s3://data", f"{work}/mnt", "--cache-dir", f"{work}/cache"]
    mount += ["--daemon-admin-socket", f"{work}/admin.sock"]
    if arguments.mode == "off":
        mount += ["--read-ahead-enabled=false", "--read-ahead-lookahead=0"]
    try:
        # Its first line says that it serves.
        lab.stdout.readline()
        control("PUT", "/shape", SHAPE)
        subprocess.run(mount + arguments.option, env=environment, check=True)
        try:
            return run(arguments.mode, f"{work}/mnt", orders, Admin(f"{work}/admin.sock"))
        finally:
            subprocess.run([tenderfs, "umount", f"{work}/mnt"], check=True)
    finally:
        lab.terminate()
        lab.wait()
        shutil.rmtree(f"{work}/cache", ignore_errors=True)


def run(mode, folder, orders, admin):
    def post(number):
        if mode == "plan" and number < len(orders):
            text = "\n".join(map(name, orders[number]))
            admin.ask("POST", f"/v1/jobs/images/plans?epoch={number}", text)

    def asked():
        stats = control("GET", "/stats") if admin else {"gets": 0, "body_bytes": 0}
        return stats["gets"], stats["body_bytes"]

    results = {"load": "images", "mode": mode, "files": len(orders[0]), "epochs": []}
    results |= {"workers": WORKERS, "batch": BATCH, "compute_seconds": COMPUTE, "shape": SHAPE}
    gets, sent = asked()
    if not admin:
        drop_page_cache()
    post(0)
    began = time.monotonic()
    os.listdir(f"{folder}/img")
    results["listing_seconds"] = round(time.monotonic() - began, 3)
    for number, order in enumerate(orders):
        post(number + 1)
        if number > 0:
            drop_page_cache()
        batches, first, later = epoch(folder, order)
        gets_now, sent_now = asked()
        compute = batches * COMPUTE
        results["epochs"].append(
            {
                "utilisation_percent": round(100 * compute / (compute + later), 1),
                "first_batch_seconds": round(first, 3),
                "stall_seconds": round(later, 3),
                "s3_gets": gets_now - gets,
                "s3_bytes": sent_now - sent,
            }
        )
        gets, sent = gets_now, sent_now
        print(mode, "epoch", number + 1, results["epochs"][-1], flush=True)
    print(mode, "listing", results["listing_seconds"], "s")
    return results


if __name__ == "__main__":
    main()
