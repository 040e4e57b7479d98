package tellapart

import java.io.File

/** Each line of stdin: resize, size, interpolation, crop_share, height, width, a file with RGB bytes, the output file. */
fun main() {
    for (line in generateSequence(::readLine)) {
        val words = line.split(" ")
        val settings = Preprocess(words[0], words[1].toInt(), words[2], words[3].toDouble())
        val bytes = File(words[6]).readBytes()
        val argb = IntArray(bytes.size / 3) { i ->
            val (red, green, blue) = (0..2).map { bytes[3 * i + it].toInt() and 255 }
            (255 shl 24) or (red shl 16) or (green shl 8) or blue
        }
        File(words[7]).writeBytes(resize(argb, words[4].toInt(), words[5].toInt(), settings))
    }
}
