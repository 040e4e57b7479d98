"""Candidates for near duplicates: pairs of images that are alike at 8 x 8 in one of many views.

A view is an image as a copy may show it: mirrored, turned by a multiple of 90 degrees, cropped. All views of each image
are compared with all other whole images. The centers of whole images are compared with each other, too: frames and
signs, which a copy may add, are at the edges. Letters: N images, V views, n pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tellapart.data.thumbnails import SIDE, Thumbnails, is_uniform
from tellapart.progress import Advance

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
_CELLS = 8  # a view has _CELLS x _CELLS values
_SAMPLES = 8  # positions averaged in a cell, per axis
_CROPS = (1.0, 0.85, 0.7)  # sides of the central crops
_OFF_CENTER = 0.85  # side of the crops at the edges and in the corners
_CENTER = 0.7  # side of the centers that are compared with each other
_NEAREST = 8  # candidates of each view's image, and as many of each whole image
_MIN_CORRELATION = 0.3
_BLOCK = 1000  # images compared with all others at once


class View(NamedTuple):
    """The part of an image that a view shows, in coordinates (y, x) from -1 to 1: u in the view is matrix u + shift."""

    matrix: NDArray[np.float32]  # (2, 2)
    shift: NDArray[np.float32]  # (2,)


@dataclass(frozen=True)
class Candidates:
    """Pairs (n, 2) of a whole image and one that may show the same in a view.

    matrix: (n, 2, 2) and shift: (n, 2) of the best view of the second image.
    """

    pairs: Rows
    matrix: Floats
    shift: Floats


class CandidateSearch:
    """Compares thumbnails (N, 64, 64), already equalized, at 8 x 8 in all views: 33 N^2 x 64 multiplications."""

    def __init__(self, thumbnails: Thumbnails) -> None:
        self._views = _all_views()
        center = View(_CENTER * np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
        vectors = np.empty((len(self._views) + 1, len(thumbnails), _CELLS**2), np.float32)
        for start in range(0, len(thumbnails), _BLOCK):
            block = slice(start, start + _BLOCK)
            for number, view in enumerate([*self._views, center]):
                vectors[number, block] = _vectors(thumbnails[block], view)
        vectors[:, is_uniform(thumbnails)] = 0.0
        self._vectors, self._centers = vectors[:-1], vectors[-1]  # V N 64; N 64

    def nearest(self, advance: Advance) -> Candidates:
        """Return the most similar pairs of each image, each pair once; advance: called with the images compared."""
        count = len(self._vectors[0])
        limit = min(_NEAREST, count - 1)
        pairs = [np.zeros((0, 2), np.int64)]
        of_whole = np.full((count, limit), -1, np.int64)  # the most similar views of each whole image so far,
        similarity = np.full((count, limit), -2.0, np.float32)  # and their correlations
        for rows, correlation in self._correlations(np.arange(count)):
            nearest = np.argpartition(-correlation, limit - 1, axis=1)[:, :limit]
            row, rank = np.nonzero(np.take_along_axis(correlation, nearest, axis=1) > _MIN_CORRELATION)
            pairs.append(np.stack([nearest[row, rank], rows[row]], axis=1))
            _keep_largest(of_whole, similarity, rows, correlation)
            advance(len(rows), "")
        whole, rank = np.nonzero(similarity > _MIN_CORRELATION)
        pairs.append(np.stack([whole, of_whole[whole, rank]], axis=1))
        return self._with_best_view(np.concatenate(pairs))

    def distant(self, rows: Rows) -> tuple[Candidates, Rows]:
        """Return pairs of some rows and less similar images than the nearest, at ranks that double.

        Those too dissimilar to be candidates are returned apart, as pairs (n, 2).
        """
        ranks = _NEAREST * 2 ** np.arange(1, 48) - 1
        ranks = ranks[ranks < len(self._vectors[0]) - 1]
        similar, others = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
        for block, correlation in self._correlations(rows):
            if not len(ranks):
                break
            ranked = np.argpartition(-correlation, ranks, axis=1)[:, ranks]
            is_similar = (np.take_along_axis(correlation, ranked, axis=1) > _MIN_CORRELATION).ravel()
            pairs = np.stack([ranked.ravel(), np.repeat(block, len(ranks))], axis=1)
            similar.append(pairs[is_similar])
            others.append(pairs[~is_similar])
        return self._with_best_view(np.concatenate(similar)), np.concatenate(others)

    def _correlations(self, rows: Rows) -> Iterator[tuple[Rows, Floats]]:
        """Yield blocks of the rows (n,) with the largest correlation of their views with each whole image (n, N)."""
        whole = self._vectors[0]
        for block in np.split(rows, range(_BLOCK, len(rows), _BLOCK)):
            largest = self._centers[block] @ self._centers.T
            for vectors in self._vectors:
                np.maximum(largest, vectors[block] @ whole.T, out=largest)
            largest[np.arange(len(block)), block] = -2.0
            yield block, largest

    def _with_best_view(self, pairs: Rows) -> Candidates:
        """Return each pair once, in the direction and the view in which it is most similar."""
        if not len(pairs):
            return Candidates(pairs, np.zeros((0, 2, 2), np.float32), np.zeros((0, 2), np.float32))
        pairs = np.unique(np.sort(pairs, axis=1), axis=0)
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        whole, viewed = pairs.T
        correlation = np.stack([np.einsum("nd,nd->n", v[viewed], self._vectors[0, whole]) for v in self._vectors])
        of_centers = np.einsum("nd,nd->n", self._centers[viewed], self._centers[whole])
        correlation[0] = np.maximum(correlation[0], of_centers)  # the first view is the whole image
        best = correlation.reshape(len(self._views), 2, -1)  # V, direction, pair
        view, direction = np.divmod(best.reshape(-1, best.shape[2]).argmax(axis=0), 2)
        chosen = direction * best.shape[2] + np.arange(best.shape[2])
        matrix = np.stack([view.matrix for view in self._views])
        shift = np.stack([view.shift for view in self._views])
        return Candidates(pairs[chosen], matrix[view], shift[view])


def _keep_largest(kept: Rows, similarity: Floats, rows: Rows, correlation: Floats) -> None:
    """Update the largest correlations (N, k) of each column, and the rows `kept` (N, k) that have them, by a block."""
    limit = kept.shape[1]
    of_block = np.argpartition(-correlation, min(limit, len(rows)) - 1, axis=0)[:limit].T
    values = np.concatenate([similarity, np.take_along_axis(correlation.T, of_block, axis=1)], axis=1)
    everything = np.concatenate([kept, rows[of_block]], axis=1)
    largest = np.argpartition(-values, limit - 1, axis=1)[:, :limit]
    similarity[:] = np.take_along_axis(values, largest, axis=1)
    kept[:] = np.take_along_axis(everything, largest, axis=1)


def _all_views() -> list[View]:
    """Return the views, the whole image first."""
    views = []
    for side, is_transposed, down, right in product(_CROPS, (False, True), (1, -1), (1, -1)):
        matrix = np.array([[0, down], [right, 0]] if is_transposed else [[down, 0], [0, right]], np.float32)
        views.append(View(side * matrix, np.zeros(2, np.float32)))
    margin = 1 - _OFF_CENTER
    for shift in product((-margin, 0, margin), repeat=2):
        if any(shift):
            views.append(View(_OFF_CENTER * np.eye(2, dtype=np.float32), np.array(shift, np.float32)))
    return views


def _vectors(thumbnails: Thumbnails, view: View) -> Floats:
    """Return the view of each thumbnail at 8 x 8, standardized, (N, 64): their products are correlations."""
    is_transposed = view.matrix[0, 0] == 0
    scale = view.matrix.sum(axis=1)
    rows, columns = (_averaging(float(scale[axis]), float(view.shift[axis])) for axis in (0, 1))
    cells = rows @ thumbnails.astype(np.float32) @ columns.T
    if is_transposed:
        cells = cells.transpose(0, 2, 1)
    return _standardize(cells.reshape(len(cells), -1))


def _averaging(scale: float, shift: float) -> Floats:
    """Return the matrix (8, 64) that averages the part scale * [-1, 1] + shift of an axis in cells."""
    edges = np.linspace(-1, 1, _CELLS * _SAMPLES + 1)
    position = scale * (edges[:-1] + edges[1:]) / 2 + shift
    pixel = ((position + 1) / 2 * SIDE - 0.5).clip(0, SIDE - 1)
    weights = np.maximum(0, 1 - np.abs(pixel[:, None] - np.arange(SIDE)))
    return np.asarray(weights.reshape(_CELLS, _SAMPLES, SIDE).mean(axis=1), np.float32)


def _standardize(rows: Floats) -> Floats:
    """Return rows with mean 0 and length 1; uniform rows become 0, so that they correlate with nothing."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    result: Floats = np.where(length > 1.0, centred / np.maximum(length, 1.0), 0.0).astype(np.float32)
    return result
