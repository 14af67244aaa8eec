#!/usr/bin/env python3
"""Makes the bad files that no editor writes. Python's standard library alone; the same bytes every time."""
import gzip, io, json, pathlib, pickle, struct, zipfile

HERE = pathlib.Path(__file__).parent


def put(name, data):
    path = HERE / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def idx(kind, sides, data):
    return struct.pack(">BBBB", 0, 0, kind, len(sides)) + struct.pack(f">{len(sides)}I", *sides) + data


put("recipe/binary.yaml", bytes(range(256)))
put("recipe/zeros.yaml", b"seed: 1\n\0\0\0\0")
put("recipe/latin1.yaml", b"seed: 1\n# gr\xf6\xdfe\n")

one = safetensors({"w": tensor([2], 0, 8)}, b"\0" * 8)
weights = {
    "empty": b"",
    "short": one[:5],
    "truncated-header": one[:20],
    "truncated-data": one[:-3],
    "longer-than-told": one + b"\0\0\0",
    "huge-header": safetensors(b"{}", length=1 << 40),
    "huge-shape": safetensors({"w": tensor([1 << 40], 0, 8)}, b"\0" * 8),
    "overflowing-shape": safetensors({"w": tensor([1 << 33, 1 << 33], 0, 8)}, b"\0" * 8),
    "overlap": safetensors({"a": tensor([1], 0, 4), "b": tensor([1], 2, 6)}, b"\0" * 6),
    "backwards": safetensors({"w": tensor([1], 4, 0)}, b"\0" * 4),
    "unknown-type": safetensors({"w": tensor([4], 0, 4, "F8_E4M3")}, b"\0" * 4),
    "no-json": safetensors(b"{ this is no JSON"),
    "pickle": pickle.dumps({"w": [0.0]}, protocol=2),
    "pickle-zip": b"PK\x03\x04" + b"\0" * 40 + b"archive/data.pkl",
    "lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "web-page": b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
    "other-model": one,
}
for name, data in weights.items():
    put(f"weights/{name}.safetensors", data)
for name in ["truncated-data", "pickle", "other-model"]:
    put(f"inputs/{name}.safetensors", weights[name])
    put(f"checkpoint/{name}.safetensors", weights[name])
pixels = {"pixel_values": tensor([1, 3, 2, 2], 0, 48), "noise": tensor([1, 16], 48, 112)}
put("inputs/other-size.safetensors", safetensors(pixels, b"\0" * 112))
flat = {"pixel_values": tensor([12], 0, 48), "noise": tensor([1, 16], 48, 112)}
put("inputs/flat.safetensors", safetensors(flat, b"\0" * 112))

put("image/empty.png", b"")
put("image/text.jpg", b"This is a text.\n")
put("image/truncated.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0")
put("image/huge.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1 << 30, 1 << 30) + b"\x08\0\0\0\0" + b"\0" * 4)
put("image/truncated.webp", b"RIFF\x24\0\0\0WEBPVP8 ")

put("idx/empty", b"")
put("idx/text", b"This is a text.\n")
put("idx/no-images", idx(8, [0, 28, 28], b""))
put("idx/floats", idx(13, [1, 2, 2], b"\0" * 16))
put("idx/labels-as-images", idx(8, [3], b"\0\1\2"))
put("idx/truncated", idx(8, [3, 28, 28], b"\0" * 100))
put("idx/lying", idx(8, [0xFFFFFFFF] * 3, b"\0" * 100))
put("idx/lying.gz", gzip.compress(idx(8, [0xFFFFFFFF] * 3, b"\0" * 100), mtime=0))
put("idx/truncated.gz", gzip.compress(idx(8, [3, 28, 28], bytes(i % 251 for i in range(2352))), mtime=0)[:-40])


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def shape(sides):
    return b"(" + b"".join(b"J" + struct.pack("<i", side) for side in sides) + b"t"


def checkpoint(tensors, before=b"", method=zipfile.ZIP_STORED):
    """A checkpoint as torch.save writes it, of zeros, under the key 'model'."""
    body, records = b"", []
    for name, sides in tensors.items():
        count = 1
        strides = []
        for side in reversed(sides):
            strides.insert(0, count)
            count *= side
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(len(records))) + text("cpu")
        storage += b"J" + struct.pack("<i", count) + b"tQ"
        body += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + shape(sides) + shape(strides)
        body += b"\x89}tR"
        records.append(b"\0" * 4 * count)
    data = b"\x80\x02}" + before + text("model") + b"}(" + body + b"us."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in [("data.pkl", data)] + [(f"data/{key}", content) for key, content in enumerate(records)]:
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content, method)
    return file.getvalue()


mae = {"cls_token": [1, 1, 4], "pos_embed": [1, 5, 4], "patch_embed.proj.weight": [4, 3, 2, 2],
       "patch_embed.proj.bias": [4], "blocks.0.norm1.weight": [4], "blocks.0.norm1.bias": [4],
       "blocks.0.attn.qkv.weight": [12, 4], "blocks.0.attn.qkv.bias": [12], "blocks.0.attn.proj.weight": [4, 4],
       "blocks.0.attn.proj.bias": [4], "blocks.0.norm2.weight": [4], "blocks.0.norm2.bias": [4],
       "blocks.0.mlp.fc1.weight": [8, 4], "blocks.0.mlp.fc1.bias": [8], "blocks.0.mlp.fc2.weight": [4, 8],
       "blocks.0.mlp.fc2.bias": [4], "norm.weight": [4], "norm.bias": [4]}
evil = text("args") + b"cos\nsystem\n" + text("touch out") + b"\x85Rs"
whole = checkpoint(mae)
files = {
    "empty": b"",
    "web-page": weights["web-page"],
    "safetensors": one,
    "truncated": whole[:-40],
    "no-directory": whole[:600],
    "not-torch": b"PK\x05\x06" + b"\0" * 18,
    "compressed": checkpoint(mae, method=zipfile.ZIP_DEFLATED),
    "pickle": pickle.dumps({"model": {"w": [0.0]}}, protocol=2),
    "system": checkpoint(mae, evil),
    "missing-key": checkpoint({name: sides for name, sides in mae.items() if name != "norm.bias"}),
    "wrong-shape": checkpoint(mae | {"blocks.0.mlp.fc2.weight": [4, 9]}),
    "one-dimension": checkpoint(mae | {"pos_embed": [20]}),
    "no-square": checkpoint(mae | {"pos_embed": [1, 6, 4]}),
    "swin": checkpoint({"layers.0.blocks.0.attn.qkv.weight": [12, 4], "patch_embed.proj.weight": [4, 3, 2, 2]}),
    "no-tensor": checkpoint({}),
}
text_zip = io.BytesIO()
with zipfile.ZipFile(text_zip, "w") as archive:
    archive.writestr(zipfile.ZipInfo("notes.txt"), "These are notes.")
files["other-zip"] = text_zip.getvalue()
for name, data in files.items():
    put(f"pth/{name}.pth", data)
