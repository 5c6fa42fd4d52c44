"""The shop's front: one page with everything the API has."""

import json
import os
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API = os.environ["API_URL"]
GREETING = os.environ["GREETING"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def items(self, data=None):
        request = urllib.request.Request(API + "/items", data=data)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def page(self, items):
        copy = os.environ["PLIMSOLL_SLOT"]
        return f"{GREETING}! We have {', '.join(items)}. (web copy {copy})\n"

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, "ok")
        self.answer(200, self.page(self.items()))

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(201, self.page(self.items(data)))

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
