"""The resize of `Preprocess` as ONNX operators, bit for bit: one image of any size -> the network's square.

torch resamples uint8 in integers (see `tellapart.preprocess.numpy_resize`). ONNX's own `Resize` uses other weights, and
one gray level in some pixels can change a probability by 0.01. All runtimes compute these operators alike. Functions
marked `script` never run: onnxscript translates them to ONNX.

Letters: H and W pixels, S the network's input size, L pixels before and T after a pass.
"""

import numpy as np
import onnx
from onnx import inliner, numpy_helper
from onnxscript import UINT8, optimizer, script
from onnxscript import opset20 as op

from tellapart.preprocess.settings import PAD, PreprocessSettings

OPSET, IR_VERSION = 20, 10  # of ONNX 1.15, for older runtimes
_POWERS = numpy_helper.from_array(2.0 ** np.arange(23))  # up to 22 fractional bits
_ZERO_POINT = numpy_helper.from_array(np.array(128, np.uint8))  # zero point of a signed byte
_ZERO = numpy_helper.from_array(np.array(0, np.uint8))  # the default, which OpenVINO requires to be given
_GRAY = numpy_helper.from_array(np.array(PAD, np.uint8))


def resize_graph(settings: PreprocessSettings) -> onnx.ModelProto:
    """Return `image` uint8 (H, W, 3) and `images` uint8 (N, S, S, 3) -> `pixels` (N or N + 1, S, S, 3).

    The resized image comes first; if it has no pixels, the result has only the other images.
    """
    size, share = settings.size, settings.crop_share
    filter_weight, reach = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}[settings.interpolation]

    @script()
    def weights(source, target):
        """(1,) L and T -> the high and low bytes of the weights (T, L), and their unit."""
        scale = op.Cast(source, to=11) / op.Cast(target, to=11)
        width = op.Max(scale, 1.0)
        support = width * reach
        outputs = op.Unsqueeze(op.Range(0, op.Squeeze(target), 1), [1])
        inputs = op.Range(0, op.Squeeze(source), 1)
        centre = scale * (op.Cast(outputs, to=11) + 0.5)
        first = op.Cast(centre - support + 0.5, to=7)
        beyond = op.Cast(centre + support + 0.5, to=7)
        steps = op.Abs((op.Cast(inputs, to=11) - centre + 0.5) * (1.0 / width))
        in_reach = op.Where(op.And(inputs >= first, inputs < beyond), filter_weight(steps), 0.0)
        shares = in_reach / op.ReduceSum(in_reach, [1])
        powers = op.Constant(value=_POWERS)
        too_large = op.Floor(op.ReduceMax(shares, keepdims=0) * (powers * 2.0) + 0.5) >= 32768.0
        digits = op.ArgMax(op.Concat(op.Cast(too_large[0:22], to=7), [1], axis=0), axis=0, keepdims=0)
        unit = op.Gather(powers, digits)
        words = op.Sign(shares) * op.Floor(op.Abs(shares) * unit + 0.5) + 32768.0
        upper = op.Floor(words / 256.0)
        return op.Cast(upper, to=2), op.Cast(words - upper * 256.0, to=2), op.Cast(unit, to=6)

    @script()
    def levels(upper, lower, unit):
        """Exact sums of the two bytes -> rounded levels."""
        total = op.Max(upper * 256 + lower + unit / 2, 0)
        return op.Cast(op.Min(total / unit, 255), to=2)

    @script()
    def resampled(planes, target):
        """(3, H, W) -> (3, *target): along the rows, then along the columns."""
        zero_point = op.Constant(value=_ZERO_POINT)
        upper, lower, unit = weights(op.Shape(planes, start=2, end=3), target[1:2])
        upper_sums = op.MatMulInteger(planes, op.Transpose(upper, perm=[1, 0]), op.Constant(value=_ZERO), zero_point)
        across = levels(upper_sums, op.MatMulInteger(planes, op.Transpose(lower, perm=[1, 0])), unit)
        upper_down, lower_down, unit_down = weights(op.Shape(planes, start=1, end=2), target[0:1])
        upper_sums_down = op.MatMulInteger(upper_down, across, zero_point)
        return levels(upper_sums_down, op.MatMulInteger(lower_down, across), unit_down)

    @script()
    def squashed(planes):
        return resampled(planes, op.Constant(value_ints=[size, size]))

    @script()
    def cropped(planes):
        sides = op.Shape(planes, start=1, end=3)
        short = op.Cast(op.ReduceMin(sides), to=11)
        side = op.Max(op.Cast(op.Round(short * op.Cast(op.Constant(value_float=1.0), to=11) * share), to=7), 1)
        first = (sides - side) / 2
        return resampled(op.Slice(planes, first, first + side, [1, 2]), op.Constant(value_ints=[size, size]))

    @script()
    def padded(planes):
        sides = op.Shape(planes, start=1, end=3)
        numbers = op.Cast(sides, to=11)
        target = op.Max(op.Cast(op.Round(numbers * (size / op.ReduceMax(numbers))), to=7), 1)
        room = size - target
        before = room / 2
        margins = op.Concat([0], before, [0], room - before, axis=0)
        return op.Pad(resampled(planes, target), margins, op.Constant(value=_GRAY))

    fitted = {"squash": squashed, "crop": cropped, "pad": padded}[settings.resize]

    @script()
    def resize(image: UINT8["H", "W", 3], images: UINT8["N", "S", "S", 3]) -> UINT8["M", "S", "S", 3]:
        # No branch, as exported files must not have one: an empty image is padded to one pixel, and then dropped.
        count = op.Unsqueeze(op.Cast(op.Size(image) > 0, to=7), [0])
        added = 1 - count
        whole = op.Pad(image, op.Concat([0, 0, 0], added, added, [0], axis=0))
        square = op.Transpose(fitted(op.Transpose(whole, perm=[2, 0, 1])), perm=[1, 2, 0])
        return op.Concat(op.Slice(op.Unsqueeze(square, [0]), [0], count, [0]), images, axis=0)

    model = optimizer.optimize(inliner.inline_local_functions(resize.to_model_proto()))
    model.ir_version = IR_VERSION
    for value in (model.graph.input[1], model.graph.output[0]):
        for axis in (1, 2):
            value.type.tensor_type.shape.dim[axis].dim_value = size
    return model


@script()
def _triangle(x):
    return op.Max(1.0 - x, 0.0)


@script()
def _cubic(x):
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return op.Where(x < 1.0, near, op.Where(x < 2.0, far, 0.0))
