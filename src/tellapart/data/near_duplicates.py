"""Near duplicates: resized, recompressed, slightly cropped or brightened copies of the same picture.

Each picture is kept as a 32 x 32 grey thumbnail. Two thumbnails are compared after the one is laid over the other as
well as a small crop can explain, so the residual (1 - correlation, blind to brightness and contrast) of a copy is close
to 0. What residual means "a copy" depends on the data: two photographs are never alike by chance, two handwritten
ones are. So a pair counts as a copy only if it is far closer than either picture is to its other look-alikes. These
are found behind its copies, however many it has: where the residuals, sorted, take a wide step.
"""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tellapart.data.image import Picture
from tellapart.io.json_cache import place, recall, remember

Thumbnails = NDArray[np.uint8]  # (N, 32, 32)
Pairs = NDArray[np.int64]  # (n, 2) rows
Likeness = NDArray[np.float32]  # correlations
_SIDE = 32
_INNER = np.linspace(0.09, 0.91, 24, dtype=np.float32)  # where the first thumbnail is sampled; the rest may be cropped
_CANDIDATES = 8  # look-alikes examined for each picture
_COARSE = 0.55  # least correlation of 8 x 8 thumbnails of a candidate
_PROMISING = 0.12  # residual before fine alignment
_ALWAYS = 0.0012  # a residual below this is a copy whatever the data
_NEVER = 0.03  # a residual above this is not,
_POSSIBLE = 0.1  # though below this one it may be
_RATIO = 0.08  # and in between it must be this much smaller than that of the next look-alikes
_NEXT = 5  # which look-alike is the yardstick, those below _ALWAYS not counted,
_STEP = 8.0  # unless residuals grow at once by this factor further on: what comes before are copies then
_CROWD, _MEMBERS = 0.06, 4  # whether they do is found out for pictures with so many look-alikes below this residual
_BEHIND = 0.2  # residual of the yardstick that a step gives, at most
_UNIFORM = 8.0  # grey levels: a thumbnail with less deviation is mostly rounding and noise
_BLOCK = 2000
_MANY = 500  # pictures: fewer are compared in less than a second


@dataclass(frozen=True)
class Pair:
    """Two rows, first < second, that show the same picture, and how much they differ (0 is not at all)."""

    first: int
    second: int
    residual: float


@dataclass(frozen=True)
class LookAlikes:
    """Near duplicates, and pairs that may be, but differ no less than other pictures here do."""

    copies: tuple[Pair, ...] = ()
    possible: tuple[Pair, ...] = ()


def thumbnail(picture: Picture) -> NDArray[np.uint8]:
    """Return the 32 x 32 grey thumbnail of a picture (H, W, 3)."""
    grey = Image.fromarray(picture).convert("L")
    return np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))


def uniform(thumbnails: Thumbnails) -> NDArray[np.bool_]:
    """Return for each thumbnail (N,) whether it shows so little that copies cannot be told from other such pictures."""
    return np.asarray(thumbnails.reshape(len(thumbnails), _SIDE**2).std(axis=1) < _UNIFORM)


def near_duplicates(thumbnails: Thumbnails) -> LookAlikes:
    """Return the pairs of rows that show the same picture, or may, sorted.

    The look-alikes of each picture are found by comparing all with all at 8 x 8, N^2 x 64 multiplications. Of many
    pictures it is remembered what was found.
    """
    if len(thumbnails) < _MANY:
        return _look_alikes(thumbnails)
    path = place("near", Path(__file__).read_bytes() + thumbnails.tobytes())
    try:
        copies, possible = (tuple(Pair(int(a), int(b), float(r)) for a, b, r in pairs) for pairs in recall(path))
        if all(0 <= pair.first < pair.second < len(thumbnails) for pair in copies + possible):
            return LookAlikes(copies, possible)
    except (TypeError, ValueError):  # nothing is kept, or it is damaged
        pass
    found = _look_alikes(thumbnails)
    remember(path, [[list(astuple(pair)) for pair in pairs] for pairs in (found.copies, found.possible)])
    return found


def _look_alikes(thumbnails: Thumbnails) -> LookAlikes:
    count = len(thumbnails)
    if count < 2:
        return LookAlikes()
    coarse = _coarse(thumbnails)
    pairs = _nearest(coarse)
    residual = _residuals_of(thumbnails, pairs)
    # Who has so many close look-alikes may have a crowd of copies: what stands behind it is looked at, too.
    close = np.bincount(pairs[residual < _CROWD].ravel(), minlength=count)
    crowded = np.flatnonzero(close >= _MEMBERS)
    probes = _behind(coarse, crowded)
    pairs, residual = np.concatenate([pairs, probes]), np.concatenate([residual, _probed(thumbnails, coarse, probes)])
    pairs, unique = np.unique(pairs, axis=0, return_index=True)
    residual = residual[unique]
    own = clusters(count, pairs[residual < _ALWAYS].tolist())
    yardstick = np.maximum(_yardsticks(pairs, residual, own), _steps(pairs, residual, crowded, count))
    limit = np.minimum(_RATIO * yardstick[pairs].min(axis=1), _NEVER)
    copies = residual < np.maximum(limit, _ALWAYS)
    possible = ~copies & (residual < _POSSIBLE)
    return LookAlikes(_listed(pairs[copies], residual[copies]), _listed(pairs[possible], residual[possible]))


def _listed(pairs: Pairs, residual: NDArray[np.float32]) -> tuple[Pair, ...]:
    return tuple(Pair(int(a), int(b), float(r)) for (a, b), r in zip(pairs, residual, strict=True))


def clusters(count: int, pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Return for each of `count` rows the smallest row that it is connected to by `pairs`."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(row) for row in range(count)], np.int64)


def _coarse(thumbnails: Thumbnails) -> NDArray[np.float32]:
    """Return the thumbnails at 8 x 8, standardised, (N, 64)."""
    blocks = thumbnails.reshape(len(thumbnails), 8, 4, 8, 4).astype(np.float32)
    return _standardised(blocks.mean(axis=(2, 4)).reshape(len(thumbnails), 64))


def _likenesses(coarse: NDArray[np.float32], rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Likeness]]:
    """Yield some of the rows (n,) at a time, and how alike each is to all (n, N); none is its own look-alike."""
    for block in np.split(rows, range(_BLOCK, len(rows), _BLOCK)):
        likeness = coarse[block] @ coarse.T
        likeness[np.arange(len(block)), block] = -2.0
        yield block, likeness


def _nearest(coarse: NDArray[np.float32]) -> Pairs:
    """Return pairs (first < second, each once) of rows that look alike at 8 x 8."""
    keep = min(_CANDIDATES, len(coarse) - 1)
    pairs = []
    for block, likeness in _likenesses(coarse, np.arange(len(coarse))):
        nearest = np.argpartition(-likeness, keep - 1, axis=1)[:, :keep]
        row, place = np.nonzero(np.take_along_axis(likeness, nearest, axis=1) > _COARSE)
        pairs.append(np.stack([block[row], nearest[row, place]], axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _behind(coarse: NDArray[np.float32], rows: NDArray[np.int64]) -> Pairs:
    """Return pairs of each of some rows and look-alikes behind the nearest, at ranks that double each time."""
    ranks = _CANDIDATES * 2 ** np.arange(1, 48) - 1
    ranks = ranks[ranks < len(coarse) - 1]
    pairs = [np.zeros((0, 2), np.int64)]
    for block, likeness in _likenesses(coarse, rows):
        if len(ranks):
            ranked = np.argpartition(-likeness, ranks, axis=1)[:, ranks]
            pairs.append(np.stack([np.repeat(block, len(ranks)), ranked.ravel()], axis=1))
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def _yardsticks(pairs: Pairs, residual: NDArray[np.float32], own: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return for each row (N,) the residual of its `_NEXT`-th look-alike, 1 where there are fewer.

    own: the cluster of copies that each row is known to be in; it does not count, and each other cluster counts once.
    """
    row, other, value = pairs.T.ravel(), own[pairs[:, ::-1].T.ravel()], np.tile(residual, 2)
    apart = other != own[row]
    row, other, value = row[apart], other[apart], value[apart]
    order = np.lexsort((value, other, row))
    row, other, value = row[order], other[order], value[order]
    nearest = np.r_[True, (row[1:] != row[:-1]) | (other[1:] != other[:-1])][: len(row)]
    row, value = row[nearest], value[nearest]
    order = np.lexsort((value, row))
    row, value = row[order], value[order]
    begin, end = (np.searchsorted(row, np.arange(len(own)), side=side) for side in ("left", "right"))
    place = begin + _NEXT - 1
    yardstick = np.full(len(own), 1.0, np.float32)
    yardstick[place < end] = value[place[place < end]]
    return yardstick


def _steps(pairs: Pairs, residual: NDArray[np.float32], crowded: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Return for each row (count,) the residual behind the widest step of those of its look-alikes, sorted.

    It is 0 for rows that are not `crowded`, and where the widest step is not by a factor of `_STEP`.
    """
    row, value = pairs.T.ravel(), np.tile(residual, 2).clip(_ALWAYS)
    order = np.lexsort((value, row))
    row, value = row[order], value[order]
    behind = np.zeros(count, np.float32)
    for each in crowded.tolist():
        values = value[slice(*np.searchsorted(row, [each, each + 1]))]
        # Images of one class, too, may be far closer to each other than to those of another: so not behind what is no
        # copy, and never so far behind that the loosest limit would apply.
        step = np.where(values[:-1] < _CROWD, values[1:] / values[:-1], 0.0)
        if len(step) and step.max() >= _STEP:
            behind[each] = min(values[step.argmax() + 1], _BEHIND)
    return behind


def _probed(thumbnails: Thumbnails, coarse: NDArray[np.float32], pairs: Pairs) -> NDArray[np.float32]:
    """Return the residual (n,) of each pair of rows; of those that are not alike at all, as at 8 x 8."""
    residual: NDArray[np.float32] = 1 - np.einsum("nd,nd->n", coarse[pairs[:, 0]], coarse[pairs[:, 1]])
    alike = residual < 1 - _COARSE
    residual[alike] = _residuals_of(thumbnails, pairs[alike])
    return residual


def _residuals_of(thumbnails: Thumbnails, pairs: Pairs) -> NDArray[np.float32]:
    """Return the residual (n,) of each pair of rows."""
    residual: NDArray[np.float32] = np.ones(len(pairs), np.float32)
    for start in range(0, len(pairs), _BLOCK):
        block = slice(start, start + _BLOCK)
        residual[block] = _residuals(thumbnails[pairs[block, 0]], thumbnails[pairs[block, 1]])
    return residual


def _residuals(first: Thumbnails, second: Thumbnails) -> NDArray[np.float32]:
    """Return 1 - correlation (n,) of each pair after the best alignment by a small crop of either."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    warp, residual = _best_crop(a, b)
    promising = np.flatnonzero(residual < _PROMISING)
    if len(promising):
        refined = _refine(a[promising], b[promising], warp[promising])
        residual[promising] = np.minimum(residual[promising], refined)
    return residual


def _sample(images: NDArray[np.float32], warp: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sample images (n, 32, 32) at scale * _INNER + shift on each axis; warp is (n, 4): sy, ty, sx, tx. -> (n, 576)."""
    rows = _weights(warp[:, 0], warp[:, 1])  # n 24 32
    columns = _weights(warp[:, 2], warp[:, 3])
    sampled = np.asarray(rows @ images @ columns.transpose(0, 2, 1), np.float32)
    return sampled.reshape(len(images), -1)


def _weights(scale: NDArray[np.float32], shift: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the linear interpolation matrices (n, 24, 32) of positions in 0..1."""
    position = (scale[:, None] * _INNER + shift[:, None]).clip(0, 1) * _SIDE - 0.5
    distance = np.abs(position.clip(0, _SIDE - 1)[:, :, None] - np.arange(_SIDE, dtype=np.float32))
    return np.asarray(np.maximum(0, 1 - distance), np.float32)


def _axis_crops() -> NDArray[np.float32]:
    """Return (scale, shift) of an axis when the second picture is a crop of the first, or the first of the second."""
    crops = [(1.0, 0.0)]
    for cut in (0.06,):
        for before in (0.0, 0.5, 1.0):
            crops.append((1 - cut, cut * before))
            crops.append((1 / (1 - cut), -cut * before / (1 - cut)))
    return np.array(crops, np.float32)


def _best_crop(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Try crops on each axis; return the best warp (n, 4) of b onto a and its residual (n,)."""
    crops = _axis_crops()
    identity = np.tile(np.array([1, 0, 1, 0], np.float32), (len(a), 1))
    target = _standardised(_sample(a, identity)).reshape(len(a), 24, 24)
    weights = _weights(crops[:, 0], crops[:, 1])  # c 24 32
    best = np.full(len(a), np.inf, np.float32)
    warp = identity.copy()
    for i, rows in enumerate(weights):
        half = rows @ b  # n 24 32
        for j, columns in enumerate(weights):
            moved = _standardised((half @ columns.T).reshape(len(b), -1)).reshape(target.shape)
            residual = 1 - np.einsum("nij,nij->n", target, moved)
            better = residual < best
            best[better] = residual[better]
            warp[better] = (*crops[i], *crops[j])
    return warp, best


def _refine(a: NDArray[np.float32], b: NDArray[np.float32], warp: NDArray[np.float32]) -> NDArray[np.float32]:
    """Align b to a by Gauss-Newton over scale and shift of each axis; return the least residual (n,).

    Lucas and Kanade 1981, "An iterative image registration technique", with gain and offset taken out by standardising.
    """
    identity = np.tile(np.array([1, 0, 1, 0], np.float32), (len(a), 1))
    target = _standardised(_sample(a, identity))
    step = np.float32(0.01)
    best = np.full(len(a), np.inf, np.float32)
    warp = warp.copy()
    for _ in range(6):
        moved = _standardised(_sample(b, warp))
        error = target - moved
        best = np.minimum(best, (error**2).sum(axis=1) / 2)  # = 1 - correlation of standardised vectors
        slopes = []
        for k in range(4):
            nudged = warp.copy()
            nudged[:, k] += step
            slopes.append((_standardised(_sample(b, nudged)) - moved) / step)
        jacobian = np.stack(slopes, axis=2)  # n 576 4
        normal = jacobian.transpose(0, 2, 1) @ jacobian + 1e-3 * np.eye(4, dtype=np.float32)
        update = np.linalg.solve(normal, jacobian.transpose(0, 2, 1) @ error[:, :, None])[:, :, 0]
        warp += update.clip(-0.04, 0.04)
        warp[:, 0::2] = warp[:, 0::2].clip(0.88, 1.13)
        warp[:, 1::2] = warp[:, 1::2].clip(-0.13, 0.13)
    moved = _standardised(_sample(b, warp))
    return np.asarray(np.minimum(best, ((target - moved) ** 2).sum(axis=1) / 2), np.float32)


def _standardised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows of zero mean and unit length; flat rows become 0, so that they are like nothing."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    result: NDArray[np.float32] = np.where(length > 1.0, centred / np.maximum(length, 1.0), 0.0).astype(np.float32)
    return result
