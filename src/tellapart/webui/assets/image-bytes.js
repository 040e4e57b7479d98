/** Properties of an image file that browsers treat differently: truncation, and the orientation of a WebP. */

const ORIENTATION = 0x0112; // the EXIF tag
const JPEG = [0xff, 0xd8];
const JPEG_SCAN = [0xff, 0xda]; // markers, which do not occur in compressed pixels
const JPEG_END = [0xff, 0xd9];
const PNG = [0x89, 0x50, 0x4e, 0x47];
const PNG_END = toBytes("IEND");
const RIFF = toBytes("RIFF");
const EXIF = toBytes("EXIF");

/** Return whether a JPEG or PNG is truncated; some browsers fill the missing pixels with gray. */
export function isTruncated(bytes) {
  if (startsWith(bytes, JPEG)) return lastIndexOf(bytes, JPEG_END) < lastIndexOf(bytes, JPEG_SCAN);
  return startsWith(bytes, PNG) && lastIndexOf(bytes, PNG_END) < 0;
}

/** Return the EXIF orientation of a WebP (1 to 8) and reset it, so that no browser applies it; 1 for other formats. */
export function resetOrientation(bytes) {
  if (!startsWith(bytes, RIFF)) return 1;
  const view = new DataView(bytes.buffer);
  for (let offset = 12; offset + 8 <= bytes.length; ) {
    const size = view.getUint32(offset + 4, true);
    if (startsWith(bytes.subarray(offset), EXIF) && offset + 8 + size <= bytes.length) {
      return resetExifOrientation(bytes.subarray(offset + 8, offset + 8 + size));
    }
    offset += 8 + size + (size % 2);
  }
  return 1;
}

/** Return the orientation in EXIF data, and set it to 1. */
function resetExifOrientation(exif) {
  const start = startsWith(exif, toBytes("Exif")) ? 6 : 0;
  const view = new DataView(exif.buffer, exif.byteOffset + start, exif.length - start);
  if (view.byteLength < 14) return 1;
  const littleEndian = view.getUint8(0) === 0x49;
  const directory = view.getUint32(4, littleEndian);
  const count = directory + 2 <= view.byteLength ? view.getUint16(directory, littleEndian) : 0;
  const end = directory + 2 + 12 * count;
  for (let entry = directory + 2; entry < end && entry + 12 <= view.byteLength; entry += 12) {
    if (view.getUint16(entry, littleEndian) !== ORIENTATION) continue;
    const orientation = view.getUint16(entry + 8, littleEndian);
    view.setUint16(entry + 8, 1, littleEndian);
    return orientation >= 1 && orientation <= 8 ? orientation : 1;
  }
  return 1;
}

function startsWith(bytes, prefix) {
  return prefix.every((byte, i) => bytes[i] === byte);
}

/** Return the last index of a sequence of bytes, or -1. */
function lastIndexOf(bytes, sequence) {
  let index = bytes.length;
  while (index > 0 && (index = bytes.lastIndexOf(sequence[0], index - 1)) >= 0) {
    if (sequence.every((byte, i) => bytes[index + i] === byte)) return index;
  }
  return -1;
}

function toBytes(text) {
  return [...text].map((letter) => letter.charCodeAt(0));
}
