"""The shop's store: items in one file, read and written over HTTP."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATH = "data/items.json"
LOCK = threading.Lock()


def load():
    try:
        with open(PATH, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return ["rope", "lamp"]


def save(items):
    # A crash leaves the older file or the newer one, never half of it.
    with open(PATH + ".new", "w", encoding="utf-8") as file:
        json.dump(items, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(PATH + ".new", PATH)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, "ok")
        with LOCK:
            self.answer(200, json.dumps(load()))

    def do_POST(self):
        item = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        with LOCK:
            items = load() + [item]
            save(items)
        self.answer(201, json.dumps(items))

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
