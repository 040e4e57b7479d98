/**
 * A picture file -> its pixels by the decode policy of tellapart.data.decode: upright, RGB, transparent ones over white.
 * The browser decodes; here stands what browsers leave out.
 */

import { isCut, withoutOrientation } from "./files.js";

const MAX_PIXELS = 89_000_000;
const MAX_BYTES = 512 * 2 ** 20;
const TURNS = {
  // EXIF orientation (CIPA DC-008, tag 274) -> the canvas transform that makes w x h pixels upright
  2: (w, _) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (_, h) => [1, 0, 0, -1, 0, h],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (_, h) => [0, 1, -1, 0, h, 0],
  7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w, _) => [0, -1, 1, 0, 0, w],
};

/**
 * Return {height, width, read, close}; read: (left, top, width, height) -> RGBA of that part, opaque.
 *
 * Throws an Error whose message is the end of a sentence, "Cannot read cat.jpg: ...".
 */
export async function decode(blob) {
  if (blob.size === 0) throw new Error("the file is empty");
  if (blob.size > MAX_BYTES) throw new Error("it has more than 512 MB");
  const bytes = new Uint8Array(await content(blob));
  if (isCut(bytes)) throw new Error("the file is cut short");
  const orientation = withoutOrientation(bytes);
  const bitmap = await toBitmap(bytes);
  const turn = TURNS[orientation]?.(bitmap.width, bitmap.height) ?? [1, 0, 0, 1, 0, 0];
  const [width, height] = orientation > 4 ? [bitmap.height, bitmap.width] : [bitmap.width, bitmap.height];
  if (height * width > MAX_PIXELS) {
    bitmap.close();
    throw new Error(`${width} x ${height} pixels are more than the limit of 89 million`);
  }
  return { height, width, read: (...box) => part(bitmap, turn, ...box), close: () => bitmap.close() };
}

async function content(blob) {
  try {
    return await blob.arrayBuffer();
  } catch {
    throw new Error("it is a folder, or the browser may not read it");
  }
}

async function toBitmap(bytes) {
  try {
    return await createImageBitmap(new Blob([bytes]), {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error("this browser cannot decode it: a damaged file, or none of JPEG, PNG, WebP, BMP and GIF");
  }
}

/** Read a part of a bitmap upright, unscaled, over white. */
function part(bitmap, turn, left, top, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  if (!context) throw new Error("there is not enough memory to decode it");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  context.translate(-left, -top);
  context.transform(...turn);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height).data;
}
