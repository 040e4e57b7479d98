package tellapart

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round
import kotlin.math.sign

/** The preprocessing of a classifier: `preprocess` in its JSON document, with `crop_share` as `cropShare`. */
class Preprocess(val resize: String, val size: Int, val interpolation: String, val cropShare: Double)

private class Box(val top: Int, val left: Int, val height: Int, val width: Int)

/** For each output pixel its first input pixel and the number of input pixels; their weights in units of 2^-digits. */
private class Weights(val first: IntArray, val counts: IntArray, val words: IntArray, val taps: Int, val digits: Int)

/**
 * Return an image resized to the network's input, RGB of size x size, bit for bit as in training.
 *
 * argb: width x height pixels, as Bitmap.getPixels returns them, upright and opaque.
 */
fun resize(argb: IntArray, height: Int, width: Int, settings: Preprocess): ByteArray {
    val size = settings.size
    var source = Box(0, 0, height, width)
    var target = Box(0, 0, size, size)
    if (settings.resize == "crop") {
        val side = max(1, round(settings.cropShare * min(height, width)).toInt())
        source = Box((height - side).div(2), (width - side).div(2), side, side)
    } else if (settings.resize == "pad") {
        val scale = size.toDouble() / max(height, width)
        val (high, wide) = listOf(height, width).map { max(1, round(it * scale).toInt()) }
        target = Box((size - high).div(2), (size - wide).div(2), high, wide)
    }
    val columns = weights(source.width, target.width, settings.interpolation)
    val rows = weights(source.height, target.height, settings.interpolation)
    val rowsOfSource = Array(source.height) { y -> resampleRow(argb, (source.top + y) * width + source.left, columns) }
    val square = ByteArray(size * size * 3) { 128.toByte() }
    for (y in 0 until target.height) {
        val sums = IntArray(target.width * 3) { (1 shl rows.digits) shr 1 }
        for (i in 0 until rows.counts[y]) {
            val word = rows.words[y * rows.taps + i]
            val row = rowsOfSource[rows.first[y] + i]
            for (x in sums.indices) sums[x] += word * row[x]
        }
        val start = ((target.top + y) * size + target.left) * 3
        for (x in sums.indices) square[start + x] = level(sums[x], rows.digits).toByte()
    }
    return square
}

private fun resampleRow(argb: IntArray, start: Int, columns: Weights): IntArray {
    val row = IntArray(columns.first.size * 3)
    for (x in columns.first.indices) {
        for (channel in 0..2) {
            val shift = 16 - 8 * channel
            var sum = (1 shl columns.digits) shr 1
            for (i in 0 until columns.counts[x]) {
                val pixel = argb[start + columns.first[x] + i]
                sum += columns.words[x * columns.taps + i] * ((pixel shr shift) and 255)
            }
            row[x * 3 + channel] = level(sum, columns.digits)
        }
    }
    return row
}

private fun level(sum: Int, digits: Int): Int = min(255, max(0, sum shr digits))

private fun weights(source: Int, target: Int, interpolation: String): Weights {
    val scale = source.toDouble() / target
    val stretch = max(scale, 1.0)
    val support = (if (interpolation == "bicubic") 2.0 else 1.0) * stretch
    val taps = 2 * ceil(support).toInt() + 1
    val first = IntArray(target)
    val counts = IntArray(target)
    val shares = DoubleArray(target * taps)
    for (t in 0 until target) {
        val centre = scale * (t + 0.5)
        first[t] = max((centre - support + 0.5).toInt(), 0)
        counts[t] = min((centre + support + 0.5).toInt(), source) - first[t]
        var sum = 0.0
        for (i in 0 until counts[t]) {
            val share = filter(abs((first[t] + i - centre + 0.5) * (1 / stretch)), interpolation)
            shares[t * taps + i] = share
            sum += share
        }
        for (i in 0 until counts[t]) shares[t * taps + i] /= sum
    }
    val largest = shares.fold(0.0) { a, b -> max(a, b) }
    var digits = 0
    while (digits < 22 && (0.5 + largest * (1 shl (digits + 1))).toInt() < 32768) digits++
    val words = IntArray(shares.size) { i -> (sign(shares[i]) * floor(abs(shares[i]) * (1 shl digits) + 0.5)).toInt() }
    return Weights(first, counts, words, taps, digits)
}

private fun filter(x: Double, interpolation: String): Double = when {
    interpolation != "bicubic" -> max(1 - x, 0.0)
    x < 1 -> (1.5 * x - 2.5) * x * x + 1
    x < 2 -> (((x - 5) * x + 8) * x - 4) * -0.5
    else -> 0.0
}
