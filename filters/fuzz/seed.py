#!/usr/bin/env python3
"""Fills fuzz/corpus/<target>/ with the fixtures and with what tests/corpus keeps; see README.md."""
import hashlib
import pathlib
import shutil
import struct
import zlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
FORMATS = {"messages", "responses", "gemini", "cohere", "ollama", "converse", "sagemaker"}
# A choice, a step, two places: whole, byte by byte, in three parts, and with every flag.
HEADS = [b"\0\0\0\0\0\0", b"\1\1\0\0\0\0", b"\6\0\0\x40\0\xa0", b"\3\7\0\0\0\0"]


def targets(folder: str, name: str) -> list[str]:
    # A side that is no format is a provider with a dialect of chat.
    sides = [side if side in FORMATS else "chat" for side in folder.split("-", 1)]
    if name.endswith(".stream.in.txt"):
        is_binary = sides[0] in ("converse", "sagemaker")
        return [f"read_{sides[0]}"] + ([] if is_binary else ["sse", "tools"])
    if name.endswith(".stream.out.txt"):
        return ["sse", "tools"]
    if name.endswith(".in.json"):
        return [f"read_{sides[0]}"] + (["splice"] if name.startswith("request-") else []) + ["tools"]
    return []


def packets() -> list[bytes]:
    """Streams in AWS's framing, of the events in the fixtures."""
    seeds = []
    for file in sorted((ROOT / "fixtures").glob("converse-*/*.stream.in.txt")):
        stream = b""
        for line in filter(None, file.read_bytes().split(b"\n")):
            kind, _, payload = line.partition(b"\t")
            headers = b""
            for name, value in ((b":event-type", kind), (b":message-type", b"event")):
                headers += bytes([len(name)]) + name + b"\7" + struct.pack(">H", len(value)) + value
            head = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
            head += struct.pack(">I", zlib.crc32(head))
            packet = head + headers + payload
            stream += packet + struct.pack(">I", zlib.crc32(packet))
        seeds += [head + stream for head in HEADS]
    return seeds


def main() -> None:
    known = {path.stem for path in (HERE / "fuzz_targets").glob("*.rs")}
    for file in sorted((ROOT / "fixtures").glob("*-*/*")):
        for target in targets(file.parent.name, file.name):
            if target not in known:
                continue
            corpus = HERE / "corpus" / target
            corpus.mkdir(parents=True, exist_ok=True)
            for head in HEADS:
                seed = head + file.read_bytes()
                (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    for seed in packets():
        corpus = HERE / "corpus" / "packets"
        corpus.mkdir(parents=True, exist_ok=True)
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    for target in sorted(known):
        corpus = HERE / "corpus" / target
        corpus.mkdir(parents=True, exist_ok=True)
        for kept in (ROOT / "tests" / "corpus" / target).glob("*"):
            shutil.copy(kept, corpus / kept.name)
        print(f"{target}: {len(list(corpus.iterdir()))} inputs")


if __name__ == "__main__":
    main()
