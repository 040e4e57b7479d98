"""Images in the IDX and CIFAR formats."""

import struct

import numpy as np

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
GREY, DIGITS = IMAGES[..., 0], np.array([7, 2, 7, 2, 7, 2], np.uint8)


def idx(array):
    """Return an array of bytes as an IDX file."""
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def cifar_rows(images, *labels):
    """Return rows in the binary version of CIFAR: label bytes, then all red, all green and all blue values."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([np.stack(labels, 1).astype(np.uint8), planes], axis=1).tobytes()


def write_cifar(root, images, is_cifar100):
    """Write six images as CIFAR-10 or CIFAR-100, the last two as the test split; return the folder."""
    root.mkdir(parents=True, exist_ok=True)
    labels = np.array([1, 0, 1, 0, 1, 0])
    if is_cifar100:
        (root / "fine_label_names.txt").write_text("apple\nbaby\n")
        (root / "train.bin").write_bytes(cifar_rows(images[:4], labels[:4] * 9, labels[:4]))
        (root / "test.bin").write_bytes(cifar_rows(images[4:], labels[4:] * 9, labels[4:]))
    else:
        (root / "batches.meta.txt").write_text("airplane\nbird\n\n")
        for batch in (1, 2):
            rows = slice(2 * batch - 2, 2 * batch)
            (root / f"data_batch_{batch}.bin").write_bytes(cifar_rows(images[rows], labels[rows]))
        (root / "test_batch.bin").write_bytes(cifar_rows(images[4:], labels[4:]))
    return root
