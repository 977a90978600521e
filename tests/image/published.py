"""Writers of the published formats, independent of the readers: what the tests feed to them."""

import gzip
import json
import pickle
import struct
from io import BytesIO
from pathlib import Path

import numpy as np

IDX_STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def pixels(n, *shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, *shape)).astype(np.uint8)


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, arrays, gz=False):
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in zip(IDX_STEMS, arrays, strict=True):
        data = idx_bytes(array)
        (folder / (stem + ".gz" * gz)).write_bytes(gzip.compress(data) if gz else data)


def write_mnist_like(folder, n=40, test=20, gz=False):
    y, y_test = np.arange(n, dtype=np.uint8) % 10, np.arange(test, dtype=np.uint8) % 10
    arrays = pixels(n, 28, 28), y, pixels(test, 28, 28, seed=1), y_test
    write_idx(folder, arrays, gz)
    return arrays


def _python2(value):
    """Protocol 2 as Python 2 wrote it: strings as raw byte strings, numpy under its old module name."""
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(k) + _python2(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    rebuild = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(map(_python2, value.shape)) + b"t"
    return rebuild + b"(K\x01" + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"


def python2_pickle(value):
    return b"\x80\x02" + _python2(value) + b"."


def write_cifar10(folder, rows=6, dump=python2_pickle):
    """Five batches and a test batch; returns x [N, 3072], y of the train and of the test part."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    batches = [(pixels(rows, 3072, seed=i), [(i + j) % 10 for j in range(rows)]) for i in range(6)]
    for name, (x, y) in zip(names, batches, strict=True):
        (folder / name).write_bytes(dump({b"data": x, b"labels": y, b"batch_label": name.encode()}))
    (folder / "batches.meta").write_bytes(dump({b"label_names": [f"class{k}".encode() for k in range(10)]}))
    train = np.concatenate([x for x, _ in batches[:5]]), [label for _, y in batches[:5] for label in y]
    return train, batches[5]


def python3_pickle(value):
    return pickle.dumps(value, protocol=2)


def write_cifar100(folder, rows=100):
    folder.mkdir(parents=True, exist_ok=True)
    x, y = pixels(rows, 3072), list(range(rows))
    for name in ("train", "test"):
        batch = {b"data": x, b"fine_labels": y, b"coarse_labels": [0] * rows}
        (folder / name).write_bytes(python2_pickle(batch))
    (folder / "meta").write_bytes(python2_pickle({b"fine_label_names": [f"f{k}".encode() for k in range(100)]}))
    return x


def encoded(image, kind="PNG"):
    from PIL import Image

    out = BytesIO()
    Image.fromarray(image).save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def write_parquet(path, images, labels, names=None, image="img", label="label", kind="PNG"):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": encoded(x, kind), "path": None} for x in images]
    table = pa.table(
        {
            image: pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            label: pa.array(list(map(int, labels)), pa.int64()),
        }
    )
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=7)


def write_images(folder, per_class, size=(8, 6), classes=("cat", "dog"), kind="PNG", seed=0):
    """`folder/<class>/<i>.png`; returns the pixels `[class][i]`, `[H, W, 3]`."""
    written = {}
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        written[name] = pixels(per_class, *size, 3, seed=seed + k)
        for i, x in enumerate(written[name]):
            Path(folder / name / f"{i:03d}.{kind.lower()}").write_bytes(encoded(x, kind))
    return written
