"""The shop's API: passes on what the store says."""

import os
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STORE = os.environ["STORE_URL"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def pass_on(self, data=None):
        request = urllib.request.Request(STORE + "/items", data=data)
        with urllib.request.urlopen(request, timeout=5) as answer:
            self.answer(answer.status, answer.read())

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, b"ok")
        self.pass_on()

    def do_POST(self):
        self.pass_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
