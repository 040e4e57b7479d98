import Foundation

/// The preprocessing of a classifier: `preprocess` in its JSON document.
struct Preprocess: Decodable {
    let resize: String
    let size: Int
    let interpolation: String
    let crop_share: Double
}

private struct Box { let top, left, height, width: Int }

/// For each output pixel its first input pixel and the number of input pixels; their weights in units of 2^-digits.
private struct Weights { let first, counts: [Int]; let words: [Int32]; let taps, digits: Int }

/// Return an image resized to the network's input, RGB of size x size, bit for bit as in training.
///
/// rgba: width x height pixels of four bytes, as a CGContext of 8 bits per component draws them, upright and opaque.
func resize(_ rgba: [UInt8], height: Int, width: Int, settings: Preprocess) -> [UInt8] {
    let size = settings.size
    var source = Box(top: 0, left: 0, height: height, width: width)
    var target = Box(top: 0, left: 0, height: size, width: size)
    if settings.resize == "crop" {
        let side = max(1, roundToEven(settings.crop_share * Double(min(height, width))))
        source = Box(top: (height - side) / 2, left: (width - side) / 2, height: side, width: side)
    } else if settings.resize == "pad" {
        let scale = Double(size) / Double(max(height, width))
        let high = max(1, roundToEven(Double(height) * scale)), wide = max(1, roundToEven(Double(width) * scale))
        target = Box(top: (size - high) / 2, left: (size - wide) / 2, height: high, width: wide)
    }
    let columns = weights(source.width, target.width, settings.interpolation)
    let rows = weights(source.height, target.height, settings.interpolation)
    let lines = (0..<source.height).map { resampleRow(rgba, (source.top + $0) * width + source.left, columns) }
    var square = [UInt8](repeating: 128, count: size * size * 3)
    for y in 0..<target.height {
        var sums = [Int32](repeating: Int32((1 << rows.digits) >> 1), count: target.width * 3)
        for i in 0..<rows.counts[y] {
            let word = rows.words[y * rows.taps + i], line = lines[rows.first[y] + i]
            for x in 0..<sums.count { sums[x] += word * Int32(line[x]) }
        }
        let start = ((target.top + y) * size + target.left) * 3
        for x in 0..<sums.count { square[start + x] = level(sums[x], rows.digits) }
    }
    return square
}

private func resampleRow(_ rgba: [UInt8], _ start: Int, _ columns: Weights) -> [UInt8] {
    var row = [UInt8](repeating: 0, count: columns.first.count * 3)
    for x in 0..<columns.first.count {
        for channel in 0..<3 {
            var sum = Int32((1 << columns.digits) >> 1)
            for i in 0..<columns.counts[x] {
                sum += columns.words[x * columns.taps + i] * Int32(rgba[(start + columns.first[x] + i) * 4 + channel])
            }
            row[x * 3 + channel] = level(sum, columns.digits)
        }
    }
    return row
}

private func level(_ sum: Int32, _ digits: Int) -> UInt8 { UInt8(min(255, max(0, sum >> Int32(digits)))) }

private func roundToEven(_ value: Double) -> Int { Int(value.rounded(.toNearestOrEven)) }

private func weights(_ source: Int, _ target: Int, _ interpolation: String) -> Weights {
    let scale = Double(source) / Double(target), stretch = max(scale, 1)
    let support = (interpolation == "bicubic" ? 2.0 : 1.0) * stretch
    let taps = 2 * Int(support.rounded(.up)) + 1
    var first = [Int](), counts = [Int](), shares = [Double](repeating: 0, count: target * taps)
    for t in 0..<target {
        let centre = scale * (Double(t) + 0.5)
        first.append(max(Int(centre - support + 0.5), 0))
        counts.append(min(Int(centre + support + 0.5), source) - first[t])
        var sum = 0.0
        for i in 0..<counts[t] {
            let share = filter(abs((Double(first[t] + i) - centre + 0.5) * (1 / stretch)), interpolation)
            shares[t * taps + i] = share
            sum += share
        }
        for i in 0..<counts[t] { shares[t * taps + i] /= sum }
    }
    let largest = shares.max() ?? 0
    var digits = 0
    while digits < 22 && Int(0.5 + largest * Double(1 << (digits + 1))) < 32768 { digits += 1 }
    let unit = Double(1 << digits)
    let words = shares.map { Int32(($0 < 0 ? -1 : 1) * (abs($0) * unit + 0.5).rounded(.down)) }
    return Weights(first: first, counts: counts, words: words, taps: taps, digits: digits)
}

private func filter(_ x: Double, _ interpolation: String) -> Double {
    if interpolation != "bicubic" { return max(1 - x, 0) }
    if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0
}
