/** What is read of a picture file itself, as browsers do not agree on it: whether it is whole, and a WebP's orientation. */

const ORIENTATION = 0x0112; // the EXIF tag
const [JPEG, PNG, WEBP] = [[0xff, 0xd8], [0x89, 0x50, 0x4e, 0x47], letters("RIFF")];
const [SCAN, END] = [
  [0xff, 0xda],
  [0xff, 0xd9],
]; // markers of JPEG, which its pixels never hold

/** Whether a JPEG or PNG ends too early: some browsers fill with grey what is missing. */
export function isCut(bytes) {
  if (startsWith(bytes, JPEG)) return lastIndex(bytes, END) < lastIndex(bytes, SCAN);
  return startsWith(bytes, PNG) && lastIndex(bytes, letters("IEND")) < 0;
}

/** Return the EXIF orientation of a WebP, 1 to 8, and rub it out, so that no browser applies it; 1 for all others. */
export function withoutOrientation(bytes) {
  if (!startsWith(bytes, WEBP)) return 1;
  const view = new DataView(bytes.buffer);
  for (let place = 12; place + 8 <= bytes.length; ) {
    const size = view.getUint32(place + 4, true);
    if (startsWith(bytes.subarray(place), letters("EXIF")) && place + 8 + size <= bytes.length) {
      return taken(bytes.subarray(place + 8, place + 8 + size));
    }
    place += 8 + size + (size % 2);
  }
  return 1;
}

/** Return the orientation that EXIF data holds, and set it to 1. */
function taken(exif) {
  const start = startsWith(exif, letters("Exif")) ? 6 : 0;
  const view = new DataView(exif.buffer, exif.byteOffset + start, exif.length - start);
  if (view.byteLength < 14) return 1;
  const little = view.getUint8(0) === 0x49;
  const first = view.getUint32(4, little);
  const count = first + 2 <= view.byteLength ? view.getUint16(first, little) : 0;
  for (let entry = first + 2; entry < first + 2 + 12 * count && entry + 12 <= view.byteLength; entry += 12) {
    if (view.getUint16(entry, little) !== ORIENTATION) continue;
    const found = view.getUint16(entry + 8, little);
    view.setUint16(entry + 8, 1, little);
    return found >= 1 && found <= 8 ? found : 1;
  }
  return 1;
}

function startsWith(bytes, beginning) {
  return beginning.every((byte, i) => bytes[i] === byte);
}

/** Return where a few bytes occur last, or -1. */
function lastIndex(bytes, few) {
  let place = bytes.length;
  while (place > 0 && (place = bytes.lastIndexOf(few[0], place - 1)) >= 0) {
    if (few.every((byte, i) => bytes[place + i] === byte)) return place;
  }
  return -1;
}

function letters(word) {
  return [...word].map((letter) => letter.charCodeAt(0));
}
