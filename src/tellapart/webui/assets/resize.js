/**
 * Antialiased resampling in integers, bit for bit as tellapart.preprocess.numpy_resize in Python, and so as in training.
 * One gray level in some pixels can change a probability by 0.01.
 *
 * It reads an image in strips, so that an image of 50 million pixels does not need 200 MB at once.
 */

const MAX_DIGITS = 22; // fractional bits of a weight, which fits into a signed 16-bit word
const WORD = 2 ** 15;
const PAD = 128; // the gray level of the border that `pad` adds
const STRIP = 2 ** 20; // pixels per strip
const REACH = { bilinear: 1, bicubic: 2 };
const FILTERS = { bilinear: triangle, bicubic: cubic };

/**
 * Return an image resized to the network's input, RGB of S x S pixels.
 *
 * read: (left, top, width, height) -> opaque RGBA pixels of that region. settings: the classifier's `preprocess`.
 */
export function resize(read, height, width, settings) {
  const { source, target } = placement(settings, height, width);
  const columns = weights(source.width, target.width, settings.interpolation);
  const rows = weights(source.height, target.height, settings.interpolation);
  const resampled = new Uint8ClampedArray(source.height * target.width * 3);
  const strip = Math.max(1, Math.floor(STRIP / source.width));
  for (let top = 0; top < source.height; top += strip) {
    const count = Math.min(strip, source.height - top);
    const rgba = read(source.left, source.top + top, source.width, count);
    resampleRows(rgba, source.width, columns, resampled.subarray(top * target.width * 3, (top + count) * target.width * 3));
  }
  return addBorder(resampleColumns(resampled, target.width * 3, rows), target, settings.size);
}

/** Return the region of an image that the network receives, and where it is placed in the square. */
export function placement(settings, height, width) {
  const { size } = settings;
  if (settings.resize === "crop") {
    const side = Math.max(1, round(settings.crop_share * Math.min(height, width)));
    return { source: centered(height, width, side, side), target: centered(size, size, size, size) };
  }
  const source = { top: 0, left: 0, height, width };
  if (settings.resize === "pad") {
    const scale = size / Math.max(height, width);
    const inner = [height, width].map((side) => Math.max(1, round(side * scale)));
    return { source, target: centered(size, size, ...inner) };
  }
  return { source, target: { top: 0, left: 0, height: size, width: size } };
}

function centered(height, width, innerHeight, innerWidth) {
  const top = Math.floor((height - innerHeight) / 2);
  const left = Math.floor((width - innerWidth) / 2);
  return { top, left, height: innerHeight, width: innerWidth };
}

/** Round as in Python: halves to the even number. */
function round(value) {
  const below = Math.floor(value);
  if (value - below === 0.5) return below + (below % 2);
  return Math.round(value);
}

/** Return for each output pixel its first input pixel, the number of input pixels, and their weights in units of 2^-digits. */
function weights(source, target, interpolation) {
  const scale = source / target;
  const stretch = Math.max(scale, 1);
  const support = REACH[interpolation] * stretch;
  const filter = FILTERS[interpolation];
  const taps = 2 * Math.ceil(support) + 1;
  const [first, counts] = [new Int32Array(target), new Int32Array(target)];
  const shares = new Float64Array(target * taps);
  for (let t = 0; t < target; t++) {
    const centre = scale * (t + 0.5);
    first[t] = Math.max(Math.trunc(centre - support + 0.5), 0);
    counts[t] = Math.min(Math.trunc(centre + support + 0.5), source) - first[t];
    let sum = 0;
    for (let i = 0; i < counts[t]; i++) {
      sum += shares[t * taps + i] = filter(Math.abs((first[t] + i - centre + 0.5) * (1 / stretch)));
    }
    for (let i = 0; i < counts[t]; i++) shares[t * taps + i] /= sum;
  }
  const largest = shares.reduce((a, b) => Math.max(a, b), 0);
  let digits = 0;
  while (digits < MAX_DIGITS && Math.trunc(0.5 + largest * 2 ** (digits + 1)) < WORD) digits++;
  const words = Int32Array.from(shares, (x) => Math.sign(x) * Math.floor(Math.abs(x) * 2 ** digits + 0.5));
  return { first, counts, words, taps, digits };
}

function triangle(x) {
  return Math.max(1 - x, 0);
}

/** The kernel of Keys 1981 with a = -1/2. */
function cubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/** Resample rows of RGBA pixels into rows of RGB; the sums are below 2^31, and the target array clamps them. */
function resampleRows(rgba, width, { first, counts, words, taps, digits }, target) {
  const half = 2 ** digits >> 1;
  let position = 0;
  for (let start = 0; position < target.length; start += width * 4) {
    for (let t = 0; t < first.length; t++) {
      let [red, green, blue] = [half, half, half];
      let source = start + first[t] * 4;
      const end = t * taps + counts[t];
      for (let i = t * taps; i < end; i++, source += 4) {
        red += words[i] * rgba[source];
        green += words[i] * rgba[source + 1];
        blue += words[i] * rgba[source + 2];
      }
      target[position++] = red >> digits;
      target[position++] = green >> digits;
      target[position++] = blue >> digits;
    }
  }
}

/** Resample the columns of rows of `length` numbers. */
function resampleColumns(rows, length, { first, counts, words, taps, digits }) {
  const half = 2 ** digits >> 1;
  const target = new Uint8ClampedArray(first.length * length);
  const sums = new Int32Array(length);
  for (let t = 0; t < first.length; t++) {
    sums.fill(half);
    for (let i = 0; i < counts[t]; i++) {
      const [word, source] = [words[t * taps + i], (first[t] + i) * length];
      for (let x = 0; x < length; x++) sums[x] += word * rows[source + x];
    }
    for (let x = 0; x < length; x++) target[t * length + x] = sums[x] >> digits;
  }
  return target;
}

function addBorder(pixels, { top, left, height, width }, size) {
  const square = new Uint8Array(size * size * 3).fill(PAD);
  for (let y = 0; y < height; y++) {
    square.set(pixels.subarray(y * width * 3, (y + 1) * width * 3), ((top + y) * size + left) * 3);
  }
  return square;
}
