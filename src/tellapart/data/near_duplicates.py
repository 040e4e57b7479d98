"""Near duplicates: resized, recompressed, slightly cropped, brightened, mirrored or turned copies of the same image.

Images are compared by the residuals of their thumbnails. Which residual means "a copy" depends on the data: two
photographs are never similar by chance, two handwritten ones are. So a pair is a near duplicate only if its residual is
far smaller than those of the next similar images. The next similar images are searched beyond the copies, however
many there are: where the sorted residuals rise steeply.
"""

import hashlib
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.data.copy_candidates import Candidates, CandidateSearch
from tellapart.data.copy_residuals import copy_residuals
from tellapart.data.thumbnails import Thumbnails, equalize, is_uniform
from tellapart.io.json_cache import cache_path, load_cached_json, save_cached_json
from tellapart.progress import Progress

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
_CODE = ("near_duplicates", "copy_candidates", "copy_residuals", "image_alignment", "thumbnails")  # of cached results
_ALWAYS = 0.001  # a smaller residual is a copy in any data
MAX_RESIDUAL = 0.025  # a larger residual is not a near duplicate,
_POSSIBLE = 0.3  # but below this it is a possible one
_RATIO = 0.068  # in between, the residual must be below this share of that of the next similar images
_NEXT = 5  # rank of the similar image that is the reference, not counting those below _ALWAYS,
_STEP = 3.0  # unless the residuals of many close images rise by this factor: then it is the _NEXT-th after the step
_CROWD, _MEMBERS = 0.06, 4  # images with this many residuals below _CROWD are searched for such a step
_MAX_REFERENCE = 0.4  # of the reference after a step
_MIN_SCENE, _SCENE_SHARE, _SCENE_PAIRS = 10, 0.8, 200  # images of one scene, their share of all, pairs compared
_MIN_CACHED = 500  # images: fewer are compared in seconds


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
    """Near duplicates, and possible ones, which differ no less than other images of the dataset do.

    scene: the rows of nearly all images, if these are near duplicates of each other, as those of a fixed camera are.
    """

    near: tuple[Pair, ...] = ()
    possible: tuple[Pair, ...] = ()
    scene: tuple[int, ...] = ()


def find_near_duplicates(thumbnails: Thumbnails, progress: Progress | None = None) -> DuplicatePairs:
    """Return the near and possible duplicates among thumbnails (N, 64, 64), sorted.

    All images are compared with all others at 8 x 8 in 32 views and by their centers, with 33 N^2 x 64
    multiplications. For many images, the result is cached.
    """
    if len(thumbnails) < _MIN_CACHED:
        return _find_pairs(thumbnails, Progress())
    code = b"".join(Path(__file__).with_name(f"{module}.py").read_bytes() for module in _CODE)
    path = cache_path("near", code + hashlib.sha256(np.ascontiguousarray(thumbnails).data).digest())
    cached = _parse(load_cached_json(path), len(thumbnails))
    if cached is not None:
        return cached
    duplicates = _find_pairs(thumbnails, progress or Progress())
    pairs = [[list(astuple(pair)) for pair in pairs] for pairs in (duplicates.near, duplicates.possible)]
    save_cached_json(path, [*pairs, list(duplicates.scene)])
    return duplicates


def find_copies(
    thumbnails: Thumbnails, rows: Rows, labels: NDArray[np.integer], progress: Progress | None
) -> DuplicatePairs:
    """Return the near and possible duplicates among some rows of thumbnails and labels (N,), by their row numbers.

    There are none if nearly all images show one scene and have several labels: similarity does not indicate copies.
    """
    found = find_near_duplicates(thumbnails[rows], progress)
    scene = rows[list(found.scene)]
    if len(np.unique(labels[scene])) > 1:
        return DuplicatePairs(scene=tuple(scene.tolist()))
    near, possible = (
        tuple(replace(pair, first=int(rows[pair.first]), second=int(rows[pair.second])) for pair in pairs)
        for pairs in (found.near, found.possible)
    )
    return DuplicatePairs(near, possible)


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
        near, possible = (
            tuple(Pair(int(a), int(b), float(r), bool(t)) for a, b, r, t in pairs)
            for pairs in value[:2]  # type: ignore[index]
        )
        rows = tuple(int(row) for row in value[2])  # type: ignore[index]
    except (TypeError, ValueError, LookupError):
        return None
    is_valid = all(0 <= pair.first < pair.second < count for pair in near + possible)
    return DuplicatePairs(near, possible, rows) if is_valid and all(0 <= row < count for row in rows) else None


def _find_pairs(thumbnails: Thumbnails, progress: Progress) -> DuplicatePairs:
    count = len(thumbnails)
    if count < 2:
        return DuplicatePairs()
    compared = _compare(thumbnails, progress)
    residual, pairs = compared.residual, compared.pairs
    copies = connected_components(count, pairs[residual < _ALWAYS].tolist())
    by_rank = _reference_by_rank(pairs, residual, copies)[pairs].prod(axis=1) ** 0.5  # the geometric mean
    by_step = _reference_by_step(pairs, residual, count)[pairs].min(axis=1)  # a step must show in both images
    limit = np.minimum(_RATIO * np.maximum(by_rank, by_step), MAX_RESIDUAL)
    is_near = compared.plausible & (residual < np.maximum(limit, _ALWAYS))
    is_possible = ~is_near & (residual < _POSSIBLE)
    scene = _find_scene(thumbnails, connected_components(count, pairs[is_near].tolist()))
    return DuplicatePairs(compared.select(is_near), compared.select(is_possible), scene)


@dataclass(frozen=True)
class _Compared:
    """Pairs (n, 2) of rows, first < second, with their residuals."""

    pairs: Rows
    residual: Floats
    plausible: NDArray[np.bool_]
    turned: NDArray[np.bool_]

    def select(self, chosen: NDArray[np.bool_]) -> tuple[Pair, ...]:
        columns = (self.pairs[chosen], self.residual[chosen], self.turned[chosen])
        return tuple(Pair(int(a), int(b), float(r), bool(t)) for (a, b), r, t in zip(*columns, strict=True))


def _compare(thumbnails: Thumbnails, progress: Progress) -> _Compared:
    """Return the residuals of the pairs that are similar at 8 x 8, and of further ones of images with many copies."""
    equalized = equalize(thumbnails)
    equalized[is_uniform(thumbnails)] = 0  # else their noise is compared
    search = CandidateSearch(equalized)
    with progress.bar("Searching for similar images", len(thumbnails)) as advance:
        nearest = search.nearest(advance)
    with progress.bar("Comparing similar images", len(nearest.pairs)) as advance:
        compared = copy_residuals(thumbnails, equalized, nearest, advance)
    # An image with many close candidates may have more copies than candidates: compare it with more distant images too.
    close = np.bincount(nearest.pairs[compared.residual < _CROWD].ravel(), minlength=len(thumbnails))
    distant, dissimilar = search.distant(np.flatnonzero(close >= _MEMBERS))
    with progress.bar("Comparing further images", len(distant.pairs)) as advance:
        further = copy_residuals(thumbnails, equalized, distant, advance)
    pairs = np.sort(np.concatenate([nearest.pairs, distant.pairs, dissimilar]), axis=1)
    missing = len(dissimilar)
    residual = np.concatenate([compared.residual, further.residual, np.ones(missing, np.float32)])
    plausible = np.concatenate([compared.plausible, further.plausible, np.zeros(missing, bool)])
    turned = np.concatenate([compared.turned, further.turned, np.zeros(missing, bool)])
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    return _Compared(pairs, residual[first], plausible[first], turned[first])


def _find_scene(thumbnails: Thumbnails, clusters: Rows) -> tuple[int, ...]:
    """Return the rows of the largest cluster, if it has nearly all images and any two of them are near duplicates.

    In a video, too, a cluster may have all images, but distant frames differ.
    """
    rows = np.flatnonzero(clusters == np.bincount(clusters).argmax())
    if len(rows) < max(_MIN_SCENE, _SCENE_SHARE * len(thumbnails)):
        return ()
    order = np.random.default_rng(0).permutation(rows)
    pairs = np.stack([order, np.roll(order, 1)], axis=1)[:_SCENE_PAIRS]
    identity = Candidates(
        pairs, np.tile(np.eye(2, dtype=np.float32), (len(pairs), 1, 1)), np.zeros((len(pairs), 2), np.float32)
    )
    residual = copy_residuals(thumbnails, equalize(thumbnails), identity, lambda step, note: None).residual
    return tuple(rows.tolist()) if np.mean(residual < MAX_RESIDUAL) >= _SCENE_SHARE else ()


def _reference_by_rank(pairs: Rows, residual: Floats, copies: Rows) -> Floats:
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


def _reference_by_step(pairs: Rows, residual: Floats, count: int) -> Floats:
    """Return for each row (count,) the `_NEXT`-th residual after the last step in the sorted residuals of its pairs.

    A step is a rise by a factor of `_STEP`. It is 0 for rows without many close images, and without a step.
    """
    crowded = np.flatnonzero(np.bincount(pairs[residual < _CROWD].ravel(), minlength=count) >= _MEMBERS)
    row, value = pairs.T.ravel(), np.tile(residual, 2).clip(_ALWAYS)
    order = np.lexsort((value, row))
    row, value = row[order], value[order]
    reference = np.zeros(count, np.float32)
    for crowded_row in crowded.tolist():
        values = value[slice(*np.searchsorted(row, [crowded_row, crowded_row + 1]))]
        # Images of one class may also be far more similar to each other than to those of another class. So a step
        # counts only after a residual that a copy may have, and the reference is limited.
        step = np.flatnonzero((values[:-1] < MAX_RESIDUAL) & (values[1:] >= _STEP * values[:-1]))
        if len(step):
            reference[crowded_row] = min([*values[step[-1] + _NEXT :][:1], _MAX_REFERENCE])
    return reference
