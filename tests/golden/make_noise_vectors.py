#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Transcripts of Noise_IKpsk2_25519_ChaChaPoly_SHA512 for tests/check_noise.c.

make_noise_vectors.py python [COUNT]     runs COUNT sessions of the independent implementation `noiseprotocol` (PyPI) with
                                         keys from a fixed seed: > noise_python.txt
make_noise_vectors.py cacophony FILE     converts the published vector out of cacophony's vectors/cacophony.txt
                                         (haskell-cryptography/cacophony, public domain): > noise_cacophony.txt
One session is a block of `key hex` lines; `message` has payload and ciphertext ("-" for empty), the first two being the
handshake, then transport messages by turns, the initiator first."""
import hashlib
import json
import sys

SUITE = "Noise_IKpsk2_25519_ChaChaPoly_SHA512"


def block(session):
    for key in ("prologue", "psk", "init_static", "init_ephemeral", "resp_static", "resp_ephemeral", "handshake_hash"):
        print(key, session[key] or "-")
    for payload, ciphertext in session["messages"]:
        print("message", payload or "-", ciphertext)
    print("end")


def bytes_of(label, size):
    return hashlib.shake_256(label.encode()).digest(size)


def python_session(index):
    from noise.connection import Keypair, NoiseConnection

    keys = {name: bytes_of(f"{name} {index}", 32) for name in
            ("psk", "init_static", "init_ephemeral", "resp_static", "resp_ephemeral")}
    prologue = bytes_of(f"prologue {index}", index * 7 % 90)
    ends = []
    for mine in ("init", "resp"):
        end = NoiseConnection.from_name(SUITE.encode())
        end.set_psks(psks=[keys["psk"]])
        end.set_prologue(prologue)
        end.set_keypair_from_private_bytes(Keypair.STATIC, keys[mine + "_static"])
        end.set_keypair_from_private_bytes(Keypair.EPHEMERAL, keys[mine + "_ephemeral"])
        ends.append(end)
    initiator, responder = ends
    initiator.set_as_initiator()
    responder.set_as_responder()
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    public = X25519PrivateKey.from_private_bytes(keys["resp_static"]).public_key()
    initiator.set_keypair_from_public_bytes(
        Keypair.REMOTE_STATIC, public.public_bytes(Encoding.Raw, PublicFormat.Raw))
    for end in ends:
        end.start_handshake()
    messages = []
    for turn, (writer, reader) in enumerate([(initiator, responder), (responder, initiator)]):
        payload = bytes_of(f"handshake {index} {turn}", (0, 1, 16, 300)[(index + turn) % 4])
        sealed = bytes(writer.write_message(payload))
        assert bytes(reader.read_message(sealed)) == payload
        messages.append((payload.hex(), sealed.hex()))
    handshake_hash = initiator.get_handshake_hash()
    for turn in range(6):
        writer, reader = (initiator, responder) if turn % 2 == 0 else (responder, initiator)
        payload = bytes_of(f"transport {index} {turn}", (0, 1, 15, 64, 200, 17)[(index + turn) % 6])
        sealed = bytes(writer.encrypt(payload))
        assert bytes(reader.decrypt(sealed)) == payload
        messages.append((payload.hex(), sealed.hex()))
    session = {name: value.hex() for name, value in keys.items()}
    return session | {"prologue": prologue.hex(), "handshake_hash": handshake_hash.hex(), "messages": messages}


def cacophony_session(path):
    with open(path, encoding="utf-8") as file:
        vector = next(v for v in json.load(file)["vectors"] if v["protocol_name"] == SUITE)
    session = {key: vector[key] for key in
               ("init_static", "init_ephemeral", "resp_static", "resp_ephemeral", "handshake_hash")}
    return session | {"prologue": vector["init_prologue"], "psk": vector["init_psks"][0],
                      "messages": [(m["payload"], m["ciphertext"]) for m in vector["messages"]]}


def main():
    if sys.argv[1:2] == ["python"]:
        for index in range(int(sys.argv[2]) if len(sys.argv) > 2 else 24):
            block(python_session(index))
    elif sys.argv[1:2] == ["cacophony"] and len(sys.argv) == 3:
        block(cacophony_session(sys.argv[2]))
    else:
        sys.exit(__doc__)


main()
