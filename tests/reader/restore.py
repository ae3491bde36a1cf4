#!/usr/bin/env python3
"""Restores a backup and its WAL by docs/format.md alone, with nothing but Python's standard library and zstd.

    restore.py REPOSITORY CLUSTER INTO [BACKUP]

REPOSITORY is a directory. INTO gets data/ (the data directory, tablespaces beside it in tablespaces/<oid>), wal/ (plain
WAL files that restore_command copies) and external/ (configuration from outside the data directory). BACKUP is the newest
one unless it is named. Start a server of the printed version on INTO/data: it recovers to the end of the WAL.
"""
import base64
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes


def unzstd(data):
    return subprocess.run(["zstd", "-d", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


def sealed(data):
    """The first line of a sealed document; the second one states its length."""
    line, seal = data.split(b"\n")[:2]
    assert json.loads(seal)["bytes"] == len(line), "the seal does not fit"
    return json.loads(line)


def enveloped(path):
    """Header and content of an object that ends in .zst."""
    data = path.read_bytes()
    magic, length = struct.unpack_from("<II", data)
    assert magic == 0x184D2A50, f"{path} has no header"
    header, content = sealed(data[8:8 + length]), unzstd(data)
    assert header["bytes"] == len(content), f"{path} is not as long as its header says"
    return header, content


def lines(path):
    return [json.loads(line) for line in enveloped(path)[1].splitlines()]


class Pack:
    """The plain content of all frames of a pack, and where each frame's begins."""

    def __init__(self, path):
        data = path.read_bytes()
        table_bytes, frames, _, mark = struct.unpack("<QI16s8s", data[-36:])
        assert mark == b"PITRPACK", f"{path} is no pack"
        table, at, plain = data[-36 - table_bytes:-36], 0, 0
        self.starts, self.content = {}, unzstd(data)
        for _ in range(frames):
            offset, _, plain_bytes, blocks = struct.unpack_from("<QIII", table, at)
            self.starts[offset] = plain
            at, plain = at + 20 + blocks * 18, plain + plain_bytes

    def read(self, offset, start, size):
        begin = self.starts[offset] + start
        return self.content[begin:begin + size]


def path_of(text):
    """`%` and two digits stand for bytes that are no UTF-8, and for `%` itself."""
    return os.fsdecode(unquote_to_bytes(text))


def place(into, path):
    """Where a file goes: tablespaces stand beside the data directory, unless they are in place."""
    parts = path.split("/")
    if parts[0] == "pg_tblspc" and len(parts) > 1 and parts[1] in into.tablespaces:
        return into.root.joinpath("tablespaces", *parts[1:])
    return into.root.joinpath("data", *parts)


class Into:
    def __init__(self, root, manifest):
        self.root = root
        self.tablespaces = {str(space["oid"]) for space in manifest["tablespaces"] if not space["in_place"]}


def newest_contents(backup):
    """contents.zst is the first generation, contents.<n>.zst the n-th."""
    def generation(path):
        parts = path.name.split(".")
        return int(parts[1]) if len(parts) == 3 else 1
    return max(backup.glob("contents*.zst"), key=generation)


def restore_files(lineage, manifest, into):
    contents = lines(newest_contents(lineage / "backups" / manifest["id"]))
    (into.root / "data").mkdir(parents=True, mode=0o700)
    for oid in into.tablespaces:
        (into.root / "tablespaces" / oid).mkdir(parents=True, mode=0o700)
    for entry in contents:
        if entry["type"] == "directory":
            target = place(into, path_of(entry["path"]))
            target.mkdir(parents=True, exist_ok=True)
            target.chmod(entry["mode"])
        elif entry["type"] == "external":
            target = into.root / "external" / os.path.basename(entry["path"])
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(base64.b64decode(entry["base64"]))
    packs = {}
    for entry in contents:
        if entry["type"] != "map":
            continue
        first, *files = lines(lineage / "maps" / f"{entry['hash']}.zst")
        for file in files:
            data = bytearray()
            for extent in file["x"]:
                size, *where = extent
                if where:
                    name = first["packs"][where[0]]
                    if name not in packs:
                        packs.clear()  # One at a time is enough.
                        packs[name] = Pack(lineage / "packs" / name)
                    data += packs[name].read(where[1], where[3], size)
                else:
                    data += bytes(size)
            assert len(data) == file["size"], f"{file['path']} has the wrong size"
            target = place(into, path_of(file["path"]))
            target.write_bytes(data)
            target.chmod(file["mode"])


def restore_wal(lineage, manifest, into):
    """Every segment from the backup's start on; of one that is still open the longest run of its tails."""
    wal, size = into.root / "wal", manifest["wal_segment_size"]
    wal.mkdir()
    high, low = (int(part, 16) for part in manifest["start_lsn"].split("/"))
    first = ((high << 32) + low) // size
    for timeline in sorted((lineage / "wal").iterdir()):
        for history in timeline.glob("*.history.zst"):
            (wal / history.name.removesuffix(".zst")).write_bytes(enveloped(history)[1])
        for path in sorted(timeline.glob("*/*")):
            name = path.name.split(".")[0]
            number = int(name[8:16], 16) * (0x100000000 // size) + int(name[16:24], 16)
            if number < first:
                continue
            if path.suffix == ".zst":
                content = enveloped(path)[1]
            elif path.with_suffix(".zst").exists():
                continue
            else:
                content, start = bytearray(), number * size
                for tail in sorted(path.iterdir(), key=lambda tail: int(tail.name.split("-")[0], 16)):
                    begin = int(tail.name.split("-")[0], 16) - start
                    if begin <= len(content):
                        content[begin:] = max(bytes(content[begin:]), enveloped(tail)[1], key=len)
                content = bytes(content).ljust(size, b"\0")
            (wal / name).write_bytes(content)


def configure(manifest, into):
    data = into.root / "data"
    mapped = data / "tablespace_map"
    if into.tablespaces:
        mapped.write_text("".join(f"{oid} {into.root / 'tablespaces' / oid}\n" for oid in sorted(into.tablespaces)))
    (data / "recovery.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"restore_command = 'cp \"{into.root}/wal/%f\" \"%p\"'\n")
        settings.write("recovery_target_timeline = 'latest'\narchive_mode = off\nsynchronous_standby_names = ''\n")
    data.chmod(manifest["directory_mode"])


def main(repository, cluster, root, backup=None):
    lineages = [path for path in (Path(repository) / cluster).iterdir() if (path / "lineage.json").exists()]
    lineage = max(lineages, key=lambda path: sealed((path / "lineage.json").read_bytes())["created"])
    complete = sorted(path.parent.name for path in lineage.glob("backups/*/manifest.json"))
    manifest = sealed((lineage / "backups" / (backup or complete[-1]) / "manifest.json").read_bytes())
    assert manifest["format"] == 1 and not manifest.get("required_features"), "a format that is not known here"
    into = Into(Path(root).resolve(), manifest)
    restore_files(lineage, manifest, into)
    restore_wal(lineage, manifest, into)
    configure(manifest, into)
    print(json.dumps({"backup": manifest["id"], "postgres_version": manifest["postgres_version"]}))


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])
