# SPDX-License-Identifier: Apache-2.0
"""Reads TensorBoard's event files by their definition (TFRecord framing, protobuf's wire format), with nothing of TensorBoard or TensorFlow."""
import struct


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def records(data):
    at = 0
    while at < len(data):
        length, check = struct.unpack_from("<QI", data, at)
        assert check == masked(data[at:at + 8]), f"length at {at}"
        payload = data[at + 12:at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked(payload), f"record at {at}"
        yield payload
        at += 16 + length


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def fields(data):
    """[(number, value)]: bytes for strings and messages, numbers else."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 1:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        elif kind == 5:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        else:
            assert kind == 2, f"kind {kind}"
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        yield key >> 3, value


def events(path):
    """[(wall time, step, {tag: value})], the record that names the format left out."""
    with open(path, "rb") as file:
        found = [dict(fields(r)) for r in records(file.read())]
    assert found[0][3] == b"brain.Event:2" and found[0][1] > 0
    result = []
    for event in found[1:]:
        values = [dict(fields(v)) for number, v in fields(event[5]) if number == 1]
        result.append((event[1], event.get(2, 0), {v[1].decode(): v[2] for v in values}))
    return result
