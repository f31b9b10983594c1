"""A model's provider, as far as a chat needs one, and the name server that knows where it is.

    provider.py PORT [CERTIFICATE]     HTTP, or HTTPS with a PEM file of certificate and key
    provider.py --names PORT           answers `provider.test` with 127.0.0.1

A question with "slowly" takes three seconds, one with "very slowly" six, one with "How many" gets the number of
messages; prints a line when it listens.
"""

import json
import socketserver
import ssl
import struct
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "provider.test"
MODEL = "tested"
SLOW_TEXTS, SLOW_PAUSE = 30, 0.1


class Provider(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"data": [{"id": MODEL}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        question = messages[-1]["content"]
        slow = "slowly" in question
        pause = SLOW_PAUSE * (1 + ("very slowly" in question)) * slow
        numbers = [len(messages)] if "How many" in question else range(SLOW_TEXTS if slow else 3)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in numbers:
            self.event({"choices": [{"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}]})
            time.sleep(pause)
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def event(self, event):
        self.chunk(f"data: {json.dumps(event)}\n\n")

    def chunk(self, text):
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())

    def log_message(self, *_):
        pass


class Names(socketserver.BaseRequestHandler):
    """One question for each datagram (RFC 1035, 4.1): an address for our name, none for any other."""

    def handle(self):
        query, reply = self.request
        end, labels = 12, []
        while length := query[end]:
            labels.append(query[end + 1:end + 1 + length].decode())
            end += 1 + length
        question = query[12:end + 5]
        is_ours = ".".join(labels).lower() == NAME
        is_address = question[-4:] == struct.pack(">HH", 1, 1)
        answer = b""
        if is_ours and is_address:
            answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([127, 0, 0, 1])
        flags = 0x8180 if is_ours else 0x8183
        head = query[:2] + struct.pack(">HHHHH", flags, 1, 1 if answer else 0, 0, 0)
        reply.sendto(head + question + answer, self.client_address)


def main(arguments):
    if arguments[0] == "--names":
        server = socketserver.ThreadingUDPServer(("127.0.0.1", int(arguments[1])), Names)
    else:
        server = ThreadingHTTPServer(("127.0.0.1", int(arguments[0])), Provider)
        if arguments[1:]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(arguments[1])
            server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
