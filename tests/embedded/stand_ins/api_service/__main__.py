"""An HTTP server on the inherited socket that answers each GET with its settings, as lines NAME=VALUE."""

import os
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = "\n".join(f"{name}={value}" for name, value in os.environ.items()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = HTTPServer(("", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=int(os.environ["ASKMESH_API_LISTEN_FD"]))
server.serve_forever()
