"""Near duplicates: resized, recompressed, slightly cropped, brightened, mirrored or turned copies of the same image.

Images are compared by the residuals of their thumbnails. Which residual means "a copy" depends on the data: two
photographs are never similar by chance, two handwritten ones are. So a pair is a near duplicate only if its residual is
far smaller than those of the next similar images. The next similar images are searched beyond the copies, however
many there are: where the sorted residuals rise steeply.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.data import thumbnail_similarity, turned_copies
from tellapart.data.thumbnail_similarity import Floats, Pairs, Thumbnails, coarse_vectors, residuals
from tellapart.io.json_cache import cache_path, load_cached_json, save_cached_json

Rows = NDArray[np.int64]
_CANDIDATES = 8  # similar images compared with each image
_MIN_CORRELATION = 0.55  # of a candidate, at 8 x 8
_ALWAYS = 0.0012  # a smaller residual is a copy in any data
_NEVER = 0.03  # a larger residual is not a near duplicate,
_POSSIBLE = 0.1  # but below this it is a possible one
_RATIO = 0.08  # in between, the residual must be below this share of that of the next similar images
_NEXT = 5  # rank of the similar image that is the reference, not counting those below _ALWAYS,
_STEP = 8.0  # unless the residuals rise by this factor further on: then all before the step are copies
_NEVER_TURNED, _TURNED_RATIO = 0.01, 0.04  # as _NEVER and _RATIO, for mirrored and turned copies: 7 times the pairs
_CROWD, _MEMBERS = 0.06, 4  # images with this many residuals below _CROWD are searched for such a step
_MAX_REFERENCE = 0.2  # residual after the step, at most
_BLOCK = 2000  # images compared with all others at once
_MIN_CACHED = 500  # images: fewer are compared in less than a second


@dataclass(frozen=True)
class Pair:
    """Two rows, first < second, that show the same image.

    residual: how much they differ, 0 if not at all. turned: whether one is a mirrored or turned copy of the other.
    """

    first: int
    second: int
    residual: float
    turned: bool = False


@dataclass(frozen=True)
class DuplicatePairs:
    """Near duplicates, and possible ones, which differ no less than other images of the dataset do."""

    near: tuple[Pair, ...] = ()
    possible: tuple[Pair, ...] = ()


def find_near_duplicates(thumbnails: Thumbnails) -> DuplicatePairs:
    """Return the near and possible duplicates among thumbnails (N, 32, 32), sorted.

    All images are compared with all others at 8 x 8, with N^2 x 64 multiplications. For many images, the result is
    cached.
    """
    if len(thumbnails) < _MIN_CACHED:
        return _find_pairs(thumbnails)
    modules = (__file__, thumbnail_similarity.__file__, turned_copies.__file__)
    code = b"".join(Path(module).read_bytes() for module in modules)
    path = cache_path("near", code + thumbnails.tobytes())
    cached = _parse(load_cached_json(path), len(thumbnails))
    if cached is not None:
        return cached
    duplicates = _find_pairs(thumbnails)
    save_cached_json(
        path, [[list(astuple(pair)) for pair in pairs] for pairs in (duplicates.near, duplicates.possible)]
    )
    return duplicates


def connected_components(count: int, pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Return for each of `count` rows the smallest row that `pairs` connect it to."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return np.array([root(row) for row in range(count)], np.int64)


def _parse(value: object, count: int) -> DuplicatePairs | None:
    """Return cached pairs; None if there are none, or if they are damaged."""
    try:
        near, possible = (tuple(Pair(int(a), int(b), float(r), bool(t)) for a, b, r, t in pairs) for pairs in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None
    is_valid = all(0 <= pair.first < pair.second < count for pair in near + possible)
    return DuplicatePairs(near, possible) if is_valid else None


def _find_pairs(thumbnails: Thumbnails) -> DuplicatePairs:
    count = len(thumbnails)
    if count < 2:
        return DuplicatePairs()
    coarse = coarse_vectors(thumbnails)
    pairs = _nearest(coarse)
    residual = residuals(thumbnails, pairs)
    # An image with many close candidates may have more copies than candidates: compare it with more distant images too.
    close = np.bincount(pairs[residual < _CROWD].ravel(), minlength=count)
    crowded = np.flatnonzero(close >= _MEMBERS)
    distant = _distant_pairs(coarse, crowded)
    pairs = np.concatenate([pairs, distant])
    residual = np.concatenate([residual, _distant_residuals(thumbnails, coarse, distant)])
    pairs, unique = np.unique(pairs, axis=0, return_index=True)
    residual = residual[unique]
    copies = connected_components(count, pairs[residual < _ALWAYS].tolist())
    reference = np.maximum(
        _reference_by_rank(pairs, residual, copies), _reference_by_step(pairs, residual, crowded, count)
    )
    limit = np.minimum(_RATIO * reference[pairs].min(axis=1), _NEVER)
    is_near = residual < np.maximum(limit, _ALWAYS)
    is_possible = ~is_near & (residual < _POSSIBLE)
    near = _to_pairs(pairs[is_near], residual[is_near])
    turned = _find_turned(thumbnails, reference, {(pair.first, pair.second) for pair in near})
    possible = _to_pairs(pairs[is_possible], residual[is_possible])
    found = {(pair.first, pair.second) for pair in turned}
    return DuplicatePairs(
        tuple(sorted((*near, *turned), key=lambda pair: (pair.first, pair.second))),
        tuple(pair for pair in possible if (pair.first, pair.second) not in found),
    )


def _find_turned(thumbnails: Thumbnails, reference: Floats, known: set[tuple[int, int]]) -> tuple[Pair, ...]:
    """Return the pairs of mirrored or turned copies that are not `known`; reference: (N,)."""
    pairs, residual = turned_copies.turned_pairs(thumbnails)
    limit = np.minimum(_TURNED_RATIO * reference[pairs].min(axis=1), _NEVER_TURNED)
    is_copy = residual < np.maximum(limit, _ALWAYS)
    return tuple(
        replace(pair, turned=True)
        for pair in _to_pairs(pairs[is_copy], residual[is_copy])
        if (pair.first, pair.second) not in known
    )


def _to_pairs(pairs: Pairs, residual: Floats) -> tuple[Pair, ...]:
    return tuple(Pair(int(a), int(b), float(r)) for (a, b), r in zip(pairs, residual, strict=True))


def _correlations(coarse: Floats, rows: Rows) -> Iterator[tuple[Rows, Floats]]:
    """Yield blocks of the rows (n,) with their correlations with all rows (n, N), -2 with themselves."""
    for block in np.split(rows, range(_BLOCK, len(rows), _BLOCK)):
        correlation = coarse[block] @ coarse.T
        correlation[np.arange(len(block)), block] = -2.0
        yield block, correlation


def _nearest(coarse: Floats) -> Pairs:
    """Return the pairs (first < second, unique) of each row and its most similar rows at 8 x 8."""
    count = min(_CANDIDATES, len(coarse) - 1)
    pairs = []
    for block, correlation in _correlations(coarse, np.arange(len(coarse))):
        nearest = np.argpartition(-correlation, count - 1, axis=1)[:, :count]
        row, rank = np.nonzero(np.take_along_axis(correlation, nearest, axis=1) > _MIN_CORRELATION)
        pairs.append(np.stack([block[row], nearest[row, rank]], axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _distant_pairs(coarse: Floats, rows: Rows) -> Pairs:
    """Return the pairs of some rows and less similar ones than the nearest, at ranks that double."""
    ranks = _CANDIDATES * 2 ** np.arange(1, 48) - 1
    ranks = ranks[ranks < len(coarse) - 1]
    pairs = [np.zeros((0, 2), np.int64)]
    for block, correlation in _correlations(coarse, rows):
        if len(ranks):
            ranked = np.argpartition(-correlation, ranks, axis=1)[:, ranks]
            pairs.append(np.stack([np.repeat(block, len(ranks)), ranked.ravel()], axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _distant_residuals(thumbnails: Thumbnails, coarse: Floats, pairs: Pairs) -> Floats:
    """Return the residual (n,) of each pair of rows: at 8 x 8 for pairs that are not similar, else at 32 x 32."""
    residual: Floats = 1 - np.einsum("nd,nd->n", coarse[pairs[:, 0]], coarse[pairs[:, 1]])
    similar = residual < 1 - _MIN_CORRELATION
    residual[similar] = residuals(thumbnails, pairs[similar])
    return residual


def _reference_by_rank(pairs: Pairs, residual: Floats, copies: Rows) -> Floats:
    """Return for each row (N,) the residual of its `_NEXT`-th similar image, 1 if there are fewer.

    copies: (N,) the cluster of certain copies that each row is in; a row's own cluster does not count, and each other
    cluster counts once.
    """
    row, cluster, value = pairs.T.ravel(), copies[pairs[:, ::-1].T.ravel()], np.tile(residual, 2)
    other = cluster != copies[row]
    row, cluster, value = row[other], cluster[other], value[other]
    order = np.lexsort((value, cluster, row))
    row, cluster, value = row[order], cluster[order], value[order]
    nearest = np.r_[True, (row[1:] != row[:-1]) | (cluster[1:] != cluster[:-1])][: len(row)]
    row, value = row[nearest], value[nearest]
    order = np.lexsort((value, row))
    row, value = row[order], value[order]
    begin, end = (np.searchsorted(row, np.arange(len(copies)), side=side) for side in ("left", "right"))
    position = begin + _NEXT - 1
    reference = np.full(len(copies), 1.0, np.float32)
    reference[position < end] = value[position[position < end]]
    return reference


def _reference_by_step(pairs: Pairs, residual: Floats, crowded: Rows, count: int) -> Floats:
    """Return for each row (count,) the residual after the largest step in the sorted residuals of its pairs.

    It is 0 for rows that are not `crowded`, and if the largest step is below a factor of `_STEP`.
    """
    row, value = pairs.T.ravel(), np.tile(residual, 2).clip(_ALWAYS)
    order = np.lexsort((value, row))
    row, value = row[order], value[order]
    reference = np.zeros(count, np.float32)
    for crowded_row in crowded.tolist():
        values = value[slice(*np.searchsorted(row, [crowded_row, crowded_row + 1]))]
        # Images of one class may also be far more similar to each other than to those of another class. So a step
        # counts only after a residual that a copy may have, and the reference is limited.
        step = np.where(values[:-1] < _CROWD, values[1:] / values[:-1], 0.0)
        if len(step) and step.max() >= _STEP:
            reference[crowded_row] = min(values[step.argmax() + 1], _MAX_REFERENCE)
    return reference
