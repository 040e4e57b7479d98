/**
 * Decodes an image file to pixels by the policy of tellapart.data.image: RGB, EXIF orientation applied, alpha over white.
 * The browser decodes; this module adds what browsers do not do alike.
 */

import { unreadable } from "./errors.js";
import { isTruncated, resetOrientation } from "./image-bytes.js";

const MAX_PIXELS = 89_000_000;
const MAX_BYTES = 512 * 2 ** 20;
const TRANSFORMS = {
  // EXIF orientation (CIPA DC-008, tag 274) -> the canvas transform that turns w x h pixels upright
  2: (w, _) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (_, h) => [1, 0, 0, -1, 0, h],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (_, h) => [0, 1, -1, 0, h, 0],
  7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w, _) => [0, -1, 1, 0, 0, w],
};

/**
 * Return {height, width, read, close}; read: (left, top, width, height) -> opaque RGBA pixels of that region.
 *
 * Throws an AppError with the code "unreadable_image".
 */
export async function decode(blob) {
  if (blob.size === 0) throw unreadable("empty", "the file is empty");
  if (blob.size > MAX_BYTES) throw unreadable("too_large", "the file exceeds 512 MB");
  const bytes = new Uint8Array(await readBytes(blob));
  if (isTruncated(bytes)) throw unreadable("truncated", "the file is truncated");
  const orientation = resetOrientation(bytes);
  const bitmap = await toBitmap(bytes);
  const transform = TRANSFORMS[orientation]?.(bitmap.width, bitmap.height) ?? [1, 0, 0, 1, 0, 0];
  const [width, height] = orientation > 4 ? [bitmap.height, bitmap.width] : [bitmap.width, bitmap.height];
  if (height * width > MAX_PIXELS) {
    bitmap.close();
    throw unreadable("too_many_pixels", `${width} x ${height} pixels exceed the limit of 89 million`);
  }
  const read = (...region) => readRegion(bitmap, transform, ...region);
  return { height, width, read, close: () => bitmap.close() };
}

async function readBytes(blob) {
  try {
    return await blob.arrayBuffer();
  } catch {
    throw unreadable("no_access", "it is a folder, or the browser has no access to it");
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
    throw unreadable("undecodable", "the file is damaged, or not a JPEG, PNG, WebP, BMP or GIF image");
  }
}

/** Return a region of a bitmap upright, at full size, over white. */
function readRegion(bitmap, transform, left, top, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  if (!context) throw unreadable("out_of_memory", "there is not enough memory to decode it");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  context.translate(-left, -top);
  context.transform(...transform);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height).data;
}
