# SPDX-License-Identifier: Apache-2.0
"""A TCP relay between two sites on loopback that can record, corrupt or cut what passes. One thread a direction."""
import socket
import threading


class Relay:
    def __init__(self, target):
        self.target = target  # port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.recorded = []  # (connection number, "out" | "back", bytes), in order
        self.flip_next = False
        self.connections = 0
        self.open = set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            with self.lock:
                self.connections += 1
                number = self.connections
                self.open |= {near, far}
            for source, sink, way in ((near, far, "out"), (far, near, "back")):
                threading.Thread(target=self.pump, args=(source, sink, number, way), daemon=True).start()

    def pump(self, source, sink, number, way):
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    break
                with self.lock:
                    self.recorded.append((number, way, data))
                    # Only inside a long run of bytes, so that it is a sealed frame and not a length that is hit.
                    if self.flip_next and len(data) > 1000:
                        self.flip_next = False
                        data = data[:500] + bytes([data[500] ^ 1]) + data[501:]
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        with self.lock:
            self.open -= {source, sink}

    def bytes_seen(self):
        with self.lock:
            return b"".join(data for _, _, data in self.recorded)

    def first_from_dialler(self):
        """What the dialling end sent first on the first connection."""
        with self.lock:
            return b"".join(data for number, way, data in self.recorded[:8] if number == self.recorded[0][0] and way == "out")

    def cut(self):
        with self.lock:
            ends = list(self.open)
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
